"""One pass over the files: the specs."""

from __future__ import annotations

from collections.abc import Sequence

from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import EventsToUse, Specs, SpecsScan
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selection, select

_STEP = 10_000


def scan(
    files: Sequence[RootFile],
    selection: Selection,
    use: EventsToUse | None = None,
    progress: Progress = silent,
) -> Specs:
    """The specs of the events to use (None: all), in one pass.

    Memory is that of a Reader, independent of the size of the files. Raises DataError as
    ``select`` and ``SpecsScan.result`` do.
    """
    chosen = select(files, selection)
    use = use or EventsToUse.of([file.entries for file in files])
    done, total = 0, sum(use.counts)
    found = SpecsScan(
        selection.tree,
        chosen.flat,
        chosen.jagged,
        [file.record for file in files],
        selection.as_dict() | use.as_dict(),
    )
    for position, (file, ranges) in enumerate(zip(files, use.ranges, strict=True)):
        for start, stop, events in file.blocks([*chosen.flat, *chosen.jagged], ranges, _STEP):
            found.add(position, events)
            done += stop - start
            progress("specs", done, total)
    return found.result()
