"""One pass over the files: the specs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Specs, SpecsScan
from mlaas4hep.sources.columns import UnreadableError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selected, Selection, select

_STEP = 10_000
_ENOUGH = 100
"""Events in which lists don't have the same lengths by chance."""


def scan(
    files: Sequence[RootFile], selection: Selection, nevts: int = -1, progress: Progress = silent
) -> Specs:
    """The specs of the first ``nevts`` events of each file (-1 = all), in one pass.

    Branches that uproot can't read are left out, and the pass begins anew; one that is selected by
    its exact name is an error. Memory is that of a Reader, independent of the size of the files.
    Raises DataError as ``select`` and ``SpecsScan.result`` do.
    """
    chosen = select(files, selection)
    while True:
        try:
            return _scan(files, chosen, selection, nevts, progress)
        except UnreadableError as error:
            chosen = chosen.without(error, selection)


def _scan(
    files: Sequence[RootFile],
    chosen: Selected,
    selection: Selection,
    nevts: int,
    progress: Progress,
) -> Specs:
    events_of = [f.entries if nevts < 0 else min(nevts, f.entries) for f in files]
    done, total = 0, sum(events_of)
    found = SpecsScan(
        selection.tree,
        chosen.flat,
        chosen.jagged,
        [file.record for file in files],
        selection.as_dict() | {"nevts": nevts},
        chosen.counted + (chosen.alike if total >= _ENOUGH else []),
    )
    for position, (file, count) in enumerate(zip(files, events_of, strict=True)):
        reader = file.reader([*chosen.flat, *chosen.jagged], stop=count)
        while reader.position < count:
            found.add(position, reader.take(_STEP))
            progress("specs", done + reader.position, total)
        done += count
    return replace(found.result(), left_out=chosen.left_out)
