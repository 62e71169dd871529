"""What a training works on: open files, which of their events and branches, classes, specs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import TEST, Derivation, EventsToUse, Passing, Specs, file_key, membership
from mlaas4hep.sources.derive import CutFlow, derivation_of, find_passing
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan, selected_by
from mlaas4hep.sources.selection import Selected, Selection, select
from mlaas4hep.training.labels import Labels, label_branch
from mlaas4hep.training.params import Params

SPECS_FILE = "global-specs.json"
_STEP = 1 << 20  # entries that are counted at once


@dataclass(frozen=True)
class _Input:
    """Open files, the entries and branches of them that are used, and what is made of these."""

    files: list[RootFile]
    use: EventsToUse
    selection: Selection
    selected: Selected
    derivation: Derivation | None
    cut_flow: CutFlow | None
    warnings: list[str]


@dataclass(frozen=True)
class Task:
    """All that decides what a model is trained on; the events themselves are read by a Dataset.

    ``counts`` are the events of each class in each part (training, validation, test): int64 of
    shape (classes, 3). ``warnings`` are what was odd, but allowed. ``cut_flow`` is None without a
    selection.
    """

    files: list[RootFile]
    use: EventsToUse
    labels: Labels
    specs: Specs
    params: Params
    counts: NDArray[np.int64]
    warnings: list[str]
    cut_flow: CutFlow | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order."""
        return self.labels.names

    def parts(self, file: int, start: int, stop: int) -> NDArray[np.uint8]:
        """The parts of those entries ``start:stop`` of a file that pass; see ``membership``."""
        return _parts(self.files, self.use, self.params, file, start, stop)


def prepare(
    names: Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    stack: ExitStack,
    specs_file: Path | None = None,
    progress: Progress = silent,
) -> Task:
    """Open the files, select, find classes and specs, and count; phases "selection" and "specs".

    ``stack`` closes the files. Specs are those of ``specs_file`` (relative to ``cwd``), else of
    global-specs.json in ``cwd`` if they fit, else new ones, which are written there. The same
    files, labels and parameters give the same task.

    Raises UsageError or DataError on files that can't be read, on a selection, labels or specs that
    don't fit them, and on a class without an event to train on.
    """
    given = _opened(names, labels, params, cwd, stack, progress)
    label = given.selection.label_branch
    classes = Labels.of(labels, label, given.files, _labelled(given, label))
    counts = _count(given, classes, params)
    _check_selection(given, classes, counts)
    specs, told = _find_specs(given, specs_file and cwd / specs_file, cwd / SPECS_FILE, progress)
    if not specs.width:
        raise DataError("no column is left to train on", "Select more branches.")
    warnings = [
        *given.selected.warnings,
        *given.warnings,
        *told,
        *_warnings_of(specs, given),
        *_check_counts(counts, classes.names),
    ]
    return Task(given.files, given.use, classes, specs, params, counts, warnings, given.cut_flow)


def scan_files(
    names: Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    progress: Progress = silent,
) -> tuple[Specs, list[str]]:
    """New specs of the files, which ``mlaas4hep specs`` writes, and warnings; phase "specs".

    They are those of ``prepare`` with the same labels: a label branch is no feature. Without
    labels every branch may be one.
    """
    with ExitStack() as stack:
        given = _opened(names, labels, params, cwd, stack, progress)
        specs = scan(given.files, given.selection, given.use, progress, given.derivation)
        return specs, given.selected.warnings + given.warnings + _warnings_of(specs, given)


def _opened(
    names: Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    stack: ExitStack,
    progress: Progress,
) -> _Input:
    paths = [resolve(name, params.redirector, cwd) for name in names]
    files = [stack.enter_context(RootFile(path, params.branch)) for path in paths]
    if not any(file.entries for file in files):
        raise DataError(
            f"no events in the tree {params.branch} of {', '.join(f.name for f in files)}",
            "Give other files.",
        )
    selection = Selection(
        tree=params.branch,
        identifier=params.identifier,
        selected_branches=params.selected_branches,
        exclude_branches=params.exclude_branches,
        branches=params.branches,
        label_branch=label_branch(labels, files),
    )
    selected = select(files, selection)
    cuts = params.cuts
    derivation, warnings = derivation_of(files, cuts, selected, selection.label_branch)
    passing: list[Passing] = []
    flow = None
    if derivation and cuts.selection:
        passing, flow = find_passing(files, derivation, progress)
        if not flow.events[-1].any():
            raise DataError(
                f"the selection leaves none of {flow.events[0].sum()} events: {_told(flow)}",
                "Loosen the condition behind which none is left.",
            )
    use = EventsToUse.of([file.entries for file in files], params.nevts, passing)
    return _Input(files, use, selection, selected, derivation, flow, warnings)


def _told(flow: CutFlow) -> str:
    """The numbers of events, cut by cut."""
    steps = zip(flow.cuts, flow.events[1:].sum(axis=1), strict=True)
    return "; ".join(f"{events} after {cut}" for cut, events in steps)


def _labelled(given: _Input, label: str | None) -> EventsToUse:
    """The events whose labels are the classes: also those that are cut away, unless by the label.

    So a class of which the selection leaves nothing is noticed.
    """
    cuts = given.derivation and given.derivation.cuts
    if cuts and cuts.selection and label not in cuts.selection.names:
        return EventsToUse.of([file.entries for file in given.files])
    return given.use


def _check_selection(given: _Input, classes: Labels, counts: NDArray[np.int64]) -> None:
    """DataError naming a class of which the selection leaves no event."""
    if given.cut_flow is None:
        return
    for number, name in enumerate(classes.names):
        if counts[number].sum():
            continue
        mine = [at for at, one in enumerate(classes.per_file) if one == number]
        flow = CutFlow(given.cut_flow.cuts, given.cut_flow.events[:, mine])
        of = f" of its {flow.events[0].sum()}: {_told(flow)}" if mine else ""
        raise DataError(
            f"the selection leaves no event of the class {name!r}{of}",
            "Loosen it, or leave out the class.",
        )


def _find_specs(
    given: _Input, wanted: Path | None, path: Path, progress: Progress
) -> tuple[Specs, list[str]]:
    """Specs that fit: of the file ``wanted``, else of ``path``, else of a new scan; warnings."""
    records = [file.record for file in given.files]
    selection = selected_by(given.selection, given.use, given.derivation)
    if wanted is not None:
        specs = Specs.load(wanted)
        specs.check_fits(records, selection)
        return specs, []
    warnings = []
    if path.exists():
        try:
            specs = Specs.load(path)
            specs.check_fits(records, selection)
        except DataError as error:
            warnings.append(f"{path.name} is made again: {error.message}")
        else:
            return specs, []
    specs = scan(given.files, given.selection, given.use, progress, given.derivation)
    try:
        specs.save(path)
    except OSError as error:
        warnings.append(f"{path} can't be written: {error.strerror}")
    return specs, warnings


def _warnings_of(specs: Specs, given: _Input) -> list[str]:
    """Those of the specs; older ones don't know which branches were left out."""
    return replace(specs, left_out=given.selected.left_out | specs.left_out).warnings


def _parts(
    files: Sequence[RootFile], use: EventsToUse, params: Params, file: int, start: int, stop: int
) -> NDArray[np.uint8]:
    key = file_key(file, files[file].uuid)
    parts = membership(params.seed, key, start, stop, params.parts)
    return use.passing[file].rows(parts, start, stop)


def _count(given: _Input, labels: Labels, params: Params) -> NDArray[np.int64]:
    """Events by class and part, shape (k, 3)."""
    counts = np.zeros((len(labels.names), 3), np.int64)
    branches = [labels.branch] if labels.branch else []
    for index, (file, ranges) in enumerate(zip(given.files, given.use.ranges, strict=True)):
        passing = given.use.passing[index]
        for start, stop, events in file.blocks(branches, ranges, _STEP, passing):
            parts = _parts(given.files, given.use, params, index, start, stop)
            places = labels.of_events(events, index) * 3 + parts
            counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
    return counts


def _check_counts(counts: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Warnings about classes that aren't tested; DataError on one that isn't trained on."""
    for name, (train, validation, test) in zip(names, counts, strict=True):
        if not train:
            raise DataError(
                f"the class {name!r} has no event to train on ({validation} validate, {test} test)",
                "Use more events (nevts), or another split.",
            )
    untested = [name for name, test in zip(names, counts[:, TEST], strict=True) if not test]
    if len(untested) == len(names):  # which is said once there are metrics
        return []
    return [f"the class {name!r} has no event in the test part" for name in untested]
