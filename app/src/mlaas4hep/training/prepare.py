"""What a training works on: open files, which of their events and branches, classes, specs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, EventError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import TEST, EventsToUse, Specs, file_key, membership
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selected, Selection, select
from mlaas4hep.training.labels import Labels, label_branch
from mlaas4hep.training.params import Params
from mlaas4hep.training.weights import Totals, Weights

SPECS_FILE = "global-specs.json"
_STEP = 1 << 20  # entries that are counted at once


@dataclass(frozen=True)
class _Input:
    """Open files, and the entries and branches of them that are used."""

    files: list[RootFile]
    use: EventsToUse
    selection: Selection
    selected: Selected


@dataclass(frozen=True)
class Task:
    """All that decides what a model is trained on; the events themselves are read by a Dataset.

    ``totals`` are sums over the events of each file, class and part; ``warnings`` are what was
    odd, but allowed.
    """

    files: list[RootFile]
    use: EventsToUse
    labels: Labels
    specs: Specs
    params: Params
    totals: Totals
    weights: Weights | None
    factors: NDArray[np.float64] | None
    """What the weights are multiplied with, by class and part; None if all events count alike."""
    warnings: list[str]

    @property
    def counts(self) -> NDArray[np.int64]:
        """The events of each class in each part (training, validation, test), (classes, 3)."""
        counts: NDArray[np.int64] = self.totals.events.sum(axis=0)
        return counts

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order."""
        return self.labels.names

    def parts(self, file: int, start: int, stop: int) -> NDArray[np.uint8]:
        """The part of each entry ``start:stop`` of a file, by its position; see ``membership``."""
        return _parts(self.files, self.params, file, start, stop)


def prepare(
    names: Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    stack: ExitStack,
    specs_file: Path | None = None,
    progress: Progress = silent,
) -> Task:
    """Open the files, select, find classes and specs, and count; phase "specs".

    ``stack`` closes the files. Specs are those of ``specs_file`` (relative to ``cwd``), else of
    global-specs.json in ``cwd`` if they fit, else new ones, which are written there. The same
    files, labels and parameters give the same task.

    Raises UsageError or DataError on files that can't be read, on a selection, labels or specs that
    don't fit them, on a class without an event to train on, and on weights that are no numbers.
    """
    given = _opened(names, labels, params, cwd, stack)
    branch, signal = given.selection.label_branch, str(params.signal)
    classes = Labels.of(labels, branch, given.files, given.use, signal)
    specs, told = _find_specs(given, specs_file and cwd / specs_file, cwd / SPECS_FILE, progress)
    if not specs.width:
        raise DataError("no column is left to train on", "Select more branches.")
    weights = None
    if key := params.weights_key:
        labels_of_files = [classes.names[index] for index in classes.per_file]
        weights = key.of_files([file.name for file in given.files], labels_of_files)
    totals = _count(given, classes, weights, params)
    told += _check_counts(totals.events.sum(axis=0), classes.names)
    factors = None
    if weights or params.class_balance:
        factors = totals.factors(params.class_balance, classes.names)
    warnings = [*given.selected.warnings, *_warnings_of(specs, given), *told]
    return Task(given.files, given.use, classes, specs, params, totals, weights, factors, warnings)


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
        given = _opened(names, labels, params, cwd, stack)
        specs = scan(given.files, given.selection, given.use, progress)
        return specs, given.selected.warnings + _warnings_of(specs, given)


def _opened(
    names: Sequence[str], labels: Sequence[str], params: Params, cwd: Path, stack: ExitStack
) -> _Input:
    paths = [resolve(name, params.redirector, cwd) for name in names]
    files = [stack.enter_context(RootFile(path, params.branch)) for path in paths]
    _refuse_same(files)
    trees = ", ".join(dict.fromkeys(file.tree for file in files))
    use = EventsToUse.of([file.entries for file in files], params.nevts)
    if not sum(use.counts):
        raise DataError(
            f"no events in the tree {trees} of {', '.join(f.name for f in files)}",
            "Give other files.",
        )
    selection = Selection(
        tree=trees,
        identifier=params.identifier,
        selected_branches=params.selected_branches,
        exclude_branches=params.exclude_branches,
        branches=params.branches,
        max_vec_sizes=params.max_vec_sizes,
        label_branch=label_branch(labels, files),
        weight_branch=params.weights_key.branch if params.weights_key else None,
    )
    return _Input(files, use, selection, select(files, selection))


def _refuse_same(files: Sequence[RootFile]) -> None:
    """DataError where two inputs are one tree: its events would be in training and test at once."""
    seen: dict[tuple[str, int | None, str, int], str] = {}
    for file in files:
        tree = file.tree.partition(";")[0]
        key = file.uuid, file.size, tree, file.entries
        if key in seen:
            raise DataError(
                f"{seen[key]} and {file.name} hold the same events, of the tree {tree}",
                "They would be in training and test at once: give one of the two.",
            )
        seen[key] = file.name


def _find_specs(
    given: _Input, wanted: Path | None, path: Path, progress: Progress
) -> tuple[Specs, list[str]]:
    """Specs that fit: of the file ``wanted``, else of ``path``, else of a new scan; warnings."""
    records = [file.record for file in given.files]
    selection = given.selection.as_dict() | given.use.as_dict()
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
    specs = scan(given.files, given.selection, given.use, progress)
    try:
        specs.save(path)
    except OSError as error:
        warnings.append(f"{path} can't be written: {error.strerror}")
    return specs, warnings


def _warnings_of(specs: Specs, given: _Input) -> list[str]:
    """Those of the specs; older ones don't know which branches were left out."""
    return replace(specs, left_out=given.selected.left_out | specs.left_out).warnings


def _parts(
    files: Sequence[RootFile], params: Params, file: int, start: int, stop: int
) -> NDArray[np.uint8]:
    key = file_key(file, files[file].uuid)
    return membership(params.seed, key, start, stop, params.parts)


def _count(given: _Input, labels: Labels, weights: Weights | None, params: Params) -> Totals:
    """Sums over all events that are used."""
    branches = [name for name in (labels.branch, weights and weights.branch) if name]
    totals = Totals.empty(len(given.files), len(labels.names))
    for index, (file, ranges) in enumerate(zip(given.files, given.use.ranges, strict=True)):
        for start, stop, events in file.blocks(branches, ranges, _STEP):
            parts = _parts(given.files, params, index, start, stop)
            places = labels.of_events(events, index) * 3 + parts
            try:
                of_events = weights.of_events(events, index, stop - start) if weights else None
            except EventError as error:
                raise error.after(start, file.name) from None
            totals.add(index, places, of_events)
    return totals


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
