"""One pass over the files: the specs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlaas4hep.core.errors import DataError, EventError, LedgerError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Derivation, EventsToUse, Preprocessing, Specs, SpecsScan
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
    derivation: Derivation | None = None,
) -> Specs:
    """The specs of the events to use (None: all), in one pass, after the ``derivation`` if any.

    Branches that uproot can't read are left out, and the pass starts again; one that is selected by
    its exact name is an error. Memory is that of a Reader, independent of the size of the files.
    Raises DataError as ``select`` and ``SpecsScan.result`` do, and naming objects of which none is
    left.
    """
    chosen = select(files, selection)
    flat = [*chosen.flat, *(derivation.flat if derivation else ())]
    jagged = [*chosen.jagged, *(derivation.jagged if derivation else ())]
    limits = selection.sizes(jagged)
    preprocessing = selection.preprocessing([*flat, *jagged], chosen.observers)
    use = use or EventsToUse.of([file.entries for file in files])
    while True:
        try:
            return _scan(files, chosen, selection, limits, preprocessing, use, progress, derivation)
        except UnreadableError as error:
            if derivation and error.branches.keys() & derivation.inputs.keys():
                raise
            chosen = chosen.without(error, selection)


def _scan(
    files: Sequence[RootFile],
    chosen: Selected,
    selection: Selection,
    limits: dict[str, int],
    preprocessing: Preprocessing,
    use: EventsToUse,
    progress: Progress,
    derivation: Derivation | None,
) -> Specs:
    done, total = 0, sum(use.counts)
    found = SpecsScan(
        selection.tree,
        [*chosen.flat, *(derivation.flat if derivation else ())],
        [*chosen.jagged, *(derivation.jagged if derivation else ())],
        [file.record for file in files],
        selected_by(selection, use, derivation),
        chosen.counted + (chosen.alike if total >= _ENOUGH else []),
        {k: size for k, size in limits.items() if k not in chosen.left_out},
        preprocessing,
        derivation,
    )
    derive = derivation.without_selection if derivation else None
    branches = dict.fromkeys([*chosen.flat, *chosen.jagged, *(derive.inputs if derive else ())])
    for position, (file, ranges) in enumerate(zip(files, use.ranges, strict=True)):
        passing = use.passing[position]
        for start, stop, events in file.blocks(list(branches), ranges, _STEP, passing):
            try:
                found.add(position, derive.derive(events) if derive else events)
            except EventError as error:
                raise error.at(passing.nth(start, error.event), file.name) from None
            done += passing.count(start, stop)
            progress("specs", done, total)
    specs = replace(found.result(), left_out=chosen.left_out, observers=chosen.observers)
    if specs.scanned != total:
        raise LedgerError(f"{specs.scanned} events were scanned, expected {total}")
    _check_derived(specs)
    return specs


def selected_by(
    selection: Selection, use: EventsToUse, derivation: Derivation | None
) -> dict[str, Any]:
    """All that decided what was read, as ``Specs.selection`` holds it."""
    cuts = derivation.cuts.as_dict() if derivation else {}
    return selection.as_dict() | use.as_dict() | cuts


def _check_derived(specs: Specs) -> None:
    """DataError if a cut on objects left none of them in any event, or two columns have a name."""
    if twice := [name for name, uses in Counter(specs.columns).items() if uses > 1]:
        raise DataError(
            f"two columns would have the name {twice[0]}",
            "Leave one of the branches out, or give the new variable another name.",
        )
    if specs.derivation is None:
        return
    for name, cut in specs.derivation.cuts.objects.items():
        branches = specs.derivation.collections[name]
        features = [branch for branch in branches if branch in specs.jdim]
        if features and not any(specs.jdim[branch] for branch in features):
            raise DataError(
                f"objects: {name}: {cut.text} leaves no entry in any of {specs.scanned} events",
                "Loosen the condition.",
            )
