"""One pass over the files: the specs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import EventsToUse, Specs, SpecsScan
from mlaas4hep.sources.columns import UnreadableError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selected, Selection, select

_STEP = 10_000
_ENOUGH = 100
"""Events in which lists don't have the same lengths by chance."""


def scan(
    files: Sequence[RootFile],
    selection: Selection,
    use: EventsToUse | None = None,
    progress: Progress = silent,
) -> Specs:
    """The specs of the events to use (None: all), in one pass.

    Branches that uproot can't read are left out, and the pass starts again; one that is selected by
    its exact name is an error. Memory is that of a Reader, independent of the size of the files.
    Raises DataError as ``select`` and ``SpecsScan.result`` do.
    """
    chosen = select(files, selection)
    use = use or EventsToUse.of([file.entries for file in files])
    while True:
        try:
            return _scan(files, chosen, selection, use, progress)
        except UnreadableError as error:
            chosen = chosen.without(error, selection)


def _scan(
    files: Sequence[RootFile],
    chosen: Selected,
    selection: Selection,
    use: EventsToUse,
    progress: Progress,
) -> Specs:
    done, total = 0, sum(use.counts)
    found = SpecsScan(
        selection.tree,
        chosen.flat,
        chosen.jagged,
        [file.record for file in files],
        selection.as_dict() | use.as_dict(),
        chosen.counted + (chosen.alike if total >= _ENOUGH else []),
        chosen.sizes,
    )
    for position, (file, ranges) in enumerate(zip(files, use.ranges, strict=True)):
        for start, stop, events in file.blocks([*chosen.flat, *chosen.jagged], ranges, _STEP):
            found.add(position, events)
            done += stop - start
            progress("specs", done, total)
    return replace(found.result(), left_out=chosen.left_out)
