"""What a training works on: open files, which of their events and branches, classes, specs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, EventError, UsageError, did_you_mean
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import (
    TEST,
    TRAIN,
    Branch,
    Derivation,
    Events,
    EventsToUse,
    Jagged,
    Passing,
    Specs,
    Target,
    file_key,
    fingerprint,
    membership,
    membership_by,
)
from mlaas4hep.data.preprocess import Cleaner
from mlaas4hep.data.specs import BranchRange
from mlaas4hep.models.bundle import PREDICTION, SELECTED, refuse_names, score_names
from mlaas4hep.sources.derive import CutFlow, derivation_of, find_passing
from mlaas4hep.sources.filelist import FileList
from mlaas4hep.sources.friends import open_files
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan, selected_by
from mlaas4hep.sources.selection import (
    Selected,
    Selection,
    by_branch,
    check_role,
    cleaner_of,
    select,
)
from mlaas4hep.training.labels import (
    Labels,
    as_named,
    by_dataset,
    by_pattern,
    check_number,
    label_branch,
)
from mlaas4hep.training.params import Params
from mlaas4hep.training.skipping import BadFile, Skipping
from mlaas4hep.training.targets import Targets
from mlaas4hep.training.weights import Totals, Weights

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
    targets: Targets | None
    cut_flow: CutFlow | None
    warnings: list[str]


@dataclass(frozen=True)
class Task:
    """All that decides what a model is trained on; the events themselves are read by a Dataset.

    ``labels`` give each event's class or target. ``totals`` are sums over the events of each file,
    class and part, where all events of a regression are of one class; ``warnings`` are what was
    odd, but allowed. ``cut_flow`` is None without a selection, unless events have no target.
    """

    files: list[RootFile]
    use: EventsToUse
    labels: Labels | Targets
    specs: Specs
    params: Params
    totals: Totals
    weights: Weights | None
    factors: NDArray[np.float64] | None
    """What the weights are multiplied with, by class and part; None if all events count alike."""
    warnings: list[str]
    cut_flow: CutFlow | None = None
    fold: int = 0
    """The fold that is the test part, if the split has folds."""
    skipped: dict[int, BadFile] = field(default_factory=dict)
    """Files that were left out, by their positions in the list."""
    labels_of_list: Sequence[str] = ()
    """The labels of all files of the list, also of these; none if a branch holds them."""
    listed: FileList = field(default_factory=lambda: FileList([]))
    """What the list said of the files, in the same order."""

    def of_fold(self, fold: int) -> Task:
        """The same events, of which that fold is the test part; the events are counted again.

        Raises DataError as ``prepare`` does, of a class without an event to train on.
        """
        totals = _count(self.files, self.use, self.labels, self.weights, self.params, fold)
        told = _check_counts(totals.events.sum(axis=0), self.labels)
        factors = None
        if self.factors is not None:
            factors = totals.factors(self.params.class_balance, self.labels.groups)
        warnings = [warning for warning in told if warning not in self.warnings]
        return replace(self, totals=totals, factors=factors, warnings=warnings, fold=fold)

    @property
    def counts(self) -> NDArray[np.int64]:
        """The events of each class in each part (training, validation, test), (classes, 3)."""
        counts: NDArray[np.int64] = self.totals.events.sum(axis=0)
        return counts

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order; none for a regression."""
        return self.labels.names

    @property
    def target(self) -> Target | None:
        """What a regression predicts."""
        return self.labels.scale

    @property
    def split_by(self) -> list[str]:
        """What decides an event's part: branches, or file and entry."""
        return list(self.params.parts.by) or ["file", "entry"]

    @cached_property
    def yields(self) -> list[dict[str, Any]]:
        """As Totals.yields gives them; nothing without weights."""
        names = [file.name for file in self.files]
        return self.totals.yields(names, self.labels.shown) if self.weights else []

    @property
    def branches(self) -> list[str]:
        """All that is read: what the columns are made of, label or target, weight, observers.

        Each pass reads the same, as the order of events depends on how much is read at once.
        """
        flat, jagged = self.specs.inputs
        roles = _roles(self.labels, self.weights, self.params)
        return list(dict.fromkeys([*flat, *jagged, *roles, *self.specs.observers]))

    @property
    def observers(self) -> dict[str, Cleaner]:
        """The observers, each with what finds its missing values."""
        return {name: cleaner_of(name, self.params.missing) for name in self.specs.observers}

    def parts(self, file: int, start: int, stop: int, events: Events) -> NDArray[np.uint8]:
        """The parts of those entries ``start:stop`` of a file that pass, which are ``events``.

        Raises EventError on an event whose identity is no number.
        """
        return _parts(self.files, self.use, self.params, file, start, stop, events, self.fold)


def prepare(
    names: FileList | Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    stack: ExitStack,
    specs_file: Path | None = None,
    progress: Progress = silent,
    keep_specs: bool = True,
    skipping: Skipping | None = None,
) -> Task:
    """Open the files, select, find classes and specs, and count; phases "selection" and "specs".

    ``stack`` closes the files; those that ``skipping`` leaves out are as if they were not in the
    list. Without labels those of a fileset are labelled by dataset. Specs are those of
    ``specs_file`` (relative to ``cwd``), else of global-specs.json in ``cwd`` if they fit, else new
    ones, which are written there; without ``keep_specs`` that file is neither read nor written. The
    same files, labels and parameters give the same task.

    Raises UsageError or DataError on files that can't be read, on a selection, labels or specs that
    don't fit them, on a class without an event to train on, and on weights that are no numbers.
    """
    whole = FileList.of(names)
    labels = as_named(by_pattern(labels, whole) or ([] if params.target else by_dataset(whole)))
    if not labels and not params.target:
        raise UsageError(
            "--labels is missing",
            "Give a label per file, or the branch that holds the label. A regression names the"
            ' branch that it predicts in params.json: "target".',
        )
    skipping = skipping or Skipping()
    given = _opened(whole, labels, params, cwd, stack, progress, skipping)
    of_list = labels if len(labels) == len(whole) else []
    labels = skipping.left(labels) if of_list else labels
    listed = replace(whole, files=skipping.left(whole.files)) if skipping.bad else whole
    branch, signal = given.selection.label_branch, str(params.signal)
    classes: Labels | Targets = given.targets or Labels.of(
        labels, branch, given.files, _labelled(given, branch), signal
    )
    weights = None
    if key := params.weights_key:
        labels_of_files = [classes.names[index] for index in classes.per_file]
        key = key.without(skipping.bad, whole.files)
        paths = [file.name for file in given.files]
        weights = key.of_files(paths, labels_of_files, listed.datasets)
    spread, reach = BranchRange(), BranchRange()
    totals = _count(given.files, given.use, classes, weights, params, reached=(spread, reach))
    _check_selection(given, classes, totals.events.sum(axis=(0, 2)))
    kept = cwd / SPECS_FILE if keep_specs else None
    named = specs_file and cwd / specs_file
    specs, told = _find_specs(given, named, kept, progress, skipping.warnings)
    answers = [PREDICTION] if given.targets else score_names(classes.names)
    refuse_names(specs.observers, [*answers, SELECTED])
    if not specs.width:
        raise DataError("no column is left to train on", "Select more branches.")
    told += _check_counts(totals.events.sum(axis=0), classes)
    if isinstance(classes, Targets):
        scale, odd = classes.scaled(spread)
        classes = replace(classes, scale=scale, reach=(reach.low, reach.high))
        told += [*odd, *classes.computable(specs)]
    factors = None
    if weights or params.class_balance:
        factors = totals.factors(params.class_balance, classes.groups)
    return Task(
        files=given.files,
        use=given.use,
        labels=classes,
        specs=specs,
        params=params,
        totals=totals,
        weights=weights,
        factors=factors,
        warnings=[*given.warnings, *_warnings_of(specs, given), *told],
        cut_flow=given.cut_flow,
        skipped=dict(skipping.bad),
        labels_of_list=[] if branch else of_list,
        listed=listed,
    )


def scan_files(
    names: FileList | Sequence[str],
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    progress: Progress = silent,
) -> tuple[Specs, list[str]]:
    """New specs of the files, which ``mlaas4hep specs`` writes, and warnings; phase "specs".

    They are those of ``prepare`` with the same labels: a label branch is not a feature. Without
    labels every branch may be one.
    """
    listed = FileList.of(names)
    labels = as_named(by_pattern(labels, listed))
    skipping = Skipping(params.allowed_missing)

    def scanned() -> tuple[Specs, list[str]]:
        with ExitStack() as stack:
            given = _opened(listed, labels, params, cwd, stack, progress, skipping)
            specs = scan(given.files, given.selection, given.use, progress, given.derivation)
            return specs, given.warnings + _warnings_of(specs, given)

    specs, warnings = skipping.run(scanned)
    return specs, skipping.warnings + warnings


def _opened(
    listed: FileList,
    labels: Sequence[str],
    params: Params,
    cwd: Path,
    stack: ExitStack,
    progress: Progress,
    skipping: Skipping,
) -> _Input:
    paths = skipping.resolved(listed.files, params.redirector, cwd)

    def find(friend: str) -> str:
        return resolve(friend, params.redirector, cwd)

    left = skipping.left(listed.files)
    files = open_files(
        paths,
        params.branch,
        params.friends,
        params.identifier,
        stack,
        find,
        skipping.is_on,
        left,
    )
    per_file = bool(labels) and label_branch(labels, files) is None
    if per_file and skipping.bad:
        check_number(labels, len(listed))  # not the files that are left: labels go by position
    skipping.check(files, labels if per_file else [])
    labels = skipping.left(labels) if per_file else labels
    _refuse_same(files)
    if labels and params.target:
        raise UsageError(
            f"target and --labels: {params.target!r} is predicted as a number, not as a class",
            "Leave out --labels for a regression, target for a classification.",
        )
    _refuse_computed(labels, params)
    _check_identity(files, params.parts.by)
    trees = ", ".join(dict.fromkeys(file.tree for file in files))
    if not any(file.entries for file in files):
        raise DataError(
            f"no events in the tree {trees} of {', '.join(f.name for f in files)}",
            "Give other files.",
        )
    selection = Selection(
        tree=trees,
        # What tells events apart tells nothing about their class.
        identifier=tuple(dict.fromkeys([*params.identifier, *params.parts.by])),
        selected_branches=params.selected_branches,
        exclude_branches=params.exclude_branches,
        observers=params.observers,
        branches=params.branches,
        max_vec_sizes=params.max_vec_sizes,
        label_branch=label_branch(labels, files),
        weight_branch=params.weights_key.branch if params.weights_key else None,
        target=params.target or None,
        missing=params.missing,
        clip=params.clip,
        normalisation=params.normalisation,
        mask=params.mask,
        friends=params.friends or None,
    )
    selected = select(files, selection)
    cuts = params.cuts
    if params.target and params.target not in cuts.new_variables:
        check_role(files, params.target, "target", ("flat",))
    roles = {
        selection.label_branch: "label",
        selection.weight_branch: "weight",
        selection.target: "target",
    }
    taken = {name: role for name, role in roles.items() if name}
    derivation, warnings = derivation_of(files, cuts, selected, taken, params.target)
    targets = None
    if params.target:
        computed = derivation.for_target if derivation and derivation.target else None
        targets = Targets(params.target, cleaner_of(params.target, params.missing), computed)
    passing: list[Passing] = []
    flow = None
    if targets or cuts.selection:
        last = targets.condition if targets else None
        passing, flow = find_passing(files, derivation, progress, last)
        if not flow.events[-1].any():
            raise DataError(
                f"the selection leaves none of {flow.events[0].sum()} events: {_told(flow)}",
                f"Loosen {flow.emptied_by}, or what stands before it.",
            )
        if targets:
            flow, told = targets.left_out(files, flow)
            warnings = [*warnings, *told]
        warnings = [*warnings, *(_emptied(files, flow) if flow else ())]
    use = EventsToUse.of([file.entries for file in files], params.nevts, passing if flow else [])
    warnings = [*selected.warnings, *warnings]
    return _Input(files, use, selection, selected, derivation, targets, flow, warnings)


def _told(flow: CutFlow) -> str:
    """The numbers of events, cut by cut."""
    steps = zip(flow.cuts, flow.events[1:].sum(axis=1), strict=True)
    return "; ".join(f"{events} after {cut}" for cut, events in steps)


def _emptied(files: Sequence[RootFile], flow: CutFlow) -> list[str]:
    """A warning that names the files that lose all their events."""
    left = zip(files, flow.events[-1], strict=True)
    names = [f"{file.name} ({file.entries})" for file, n in left if file.entries and not n]
    if not names:
        return []
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return [f"the selection leaves none of the events of {', '.join(names[:10])}{more}"]


def _labelled(given: _Input, label: str | None) -> EventsToUse:
    """The events whose labels are the classes: also those that are cut away, unless by the label.

    So a class of which the selection leaves nothing is noticed.
    """
    cuts = given.derivation and given.derivation.cuts
    if cuts and cuts.selection and label not in cuts.selection.names:
        return EventsToUse.of([file.entries for file in given.files])
    return given.use


def _check_selection(given: _Input, classes: Labels | Targets, counts: NDArray[np.int64]) -> None:
    """DataError naming a class, of ``counts`` events, of which the selection leaves none."""
    if given.cut_flow is None:
        return
    for number, name in enumerate(classes.names):
        if counts[number]:
            continue
        mine = [at for at, one in enumerate(classes.per_file) if one == number]
        flow = CutFlow(given.cut_flow.cuts, given.cut_flow.events[:, mine])
        of = f" of its {flow.events[0].sum()}: {_told(flow)}" if mine else ""
        raise DataError(
            f"the selection leaves no event of the class {name!r}{of}",
            "Loosen it, or leave out the class.",
        )


def _refuse_same(files: Sequence[RootFile]) -> None:
    """DataError where two inputs are one tree: its events would be in training and test at once."""
    seen: dict[tuple[str, str, int], str] = {}
    for file in files:
        tree = file.tree.partition(";")[0]
        key = file.uuid, tree, file.entries  # not the size: another tree may have been added
        if key in seen:
            raise DataError(
                f"{seen[key]} and {file.name} hold the same events, of the tree {tree}",
                "They would be in training and test at once: give one of the two.",
            )
        seen[key] = file.name


def _refuse_computed(labels: Sequence[str], params: Params) -> None:
    """UsageError where label, weight or identity is a new variable: they are read, not computed."""
    roles = dict.fromkeys(params.parts.by, "in split: by")
    if key := params.weights_key:
        roles[key.branch or ""] = "the weight"
    if len(labels) == 1:
        roles[labels[0]] = "the label"
    for name, role in roles.items():
        if name in params.new_variables:
            raise UsageError(
                f"new_variables: {name!r} can't be {role}, which is read from the files",
                "Name a branch of the files; write its values there first.",
            )


def _find_specs(
    given: _Input,
    wanted: Path | None,
    path: Path | None,
    progress: Progress,
    skipped: Sequence[str],
) -> tuple[Specs, list[str]]:
    """Specs that fit: of ``wanted``, else of ``path``, else of a new scan, kept there; warnings.

    ``skipped`` says which files of the list were left out, and why.
    """
    records = [file.record for file in given.files]
    selection = selected_by(given.selection, given.use, given.derivation)
    if wanted is not None:
        specs = Specs.load(wanted)
        try:
            specs.check_fits(records, selection)
        except DataError as error:
            if not skipped:
                raise
            raise DataError(
                f"{error.message}; {'; '.join(skipped[:10])}",
                f"{wanted.name} may have been made with the files that are left out: copy these"
                f" again, or make specs without them. {error.remedy}",
            ) from None
        return specs, []
    warnings = []
    if path and path.exists():
        try:
            specs = Specs.load(path)
            specs.check_fits(records, selection)
        except DataError as error:
            why = error.message.removeprefix("stale specs: ")
            warnings.append(f"{path.name} was rewritten, as it no longer fits: {why}")
        else:
            return specs, []
    specs = scan(given.files, given.selection, given.use, progress, given.derivation)
    if path:
        try:
            specs.save(path)
        except OSError as error:
            warnings.append(f"{path} can't be written: {error.strerror}")
    return specs, warnings


def _warnings_of(specs: Specs, given: _Input) -> list[str]:
    """Those of the specs, and of values of ``missing`` that none of its branches holds.

    Older specs don't know which branches were left out.
    """
    found = replace(specs, left_out=given.selected.left_out | specs.left_out).warnings
    missing = given.selection.missing or {}
    for key, value in missing.items():
        # Events without a target are left out, and counted; observers are no columns.
        others = [*specs.observers, *([given.selection.target] if given.selection.target else [])]
        known = [*specs.flat, *specs.jagged, *others]
        branches = by_branch("missing", {key: value}, known, "branch").keys() - others
        if branches and not branches & specs.missing.keys():
            values = value if isinstance(value, Sequence) else [value]
            found.append(f"missing: no value of {key} is {' or '.join(f'{x:g}' for x in values)}")
    return found


def _parts(
    files: Sequence[RootFile],
    use: EventsToUse,
    params: Params,
    file: int,
    start: int,
    stop: int,
    events: Events,
    fold: int,
) -> NDArray[np.uint8]:
    split = params.parts
    if split.by:
        return membership_by(params.seed, [_flat(events[k]) for k in split.by], split, fold)
    key = file_key(file, files[file].uuid)
    parts = membership(params.seed, key, start, stop, split, fold)
    return use.passing[file].rows(parts, start, stop)


def _roles(labels: Labels | Targets, weights: Weights | None, params: Params) -> list[str]:
    """The branches of label or target, weight and identity, of those that there are."""
    names = *labels.branches, weights and weights.branch, *params.parts.by
    return list(dict.fromkeys(name for name in names if name))


def _flat(values: Branch) -> NDArray[Any]:
    assert not isinstance(values, Jagged)  # noqa: S101  (``_check_identity`` refuses it)
    return values


def _check_identity(files: Sequence[RootFile], by: Sequence[str]) -> None:
    """UsageError unless each of the branches is in each file, with a number per event."""
    for name in by:
        for file in files:
            if name not in file.branches:
                raise UsageError(
                    f"split: by: no branch {name!r} in {file.name}",
                    did_you_mean(name, file.branches),
                )
            if (info := file.branches[name]).kind != "flat":
                raise UsageError(
                    f"split: by: {name} of {file.name} is {info.kind} ({info.type})",
                    "Events are identified by branches with one number per event.",
                )


def _count(
    files: Sequence[RootFile],
    use: EventsToUse,
    labels: Labels | Targets,
    weights: Weights | None,
    params: Params,
    fold: int = 0,
    reached: tuple[BranchRange, BranchRange] | None = None,
) -> Totals:
    """Sums over all events that are used; ``reached`` are of targets: those that train, and all.

    With folds all train, in some fold: what the models of the folds learn is on one scale.
    """
    branches = _roles(labels, weights, params)
    totals = Totals.empty(len(files), len(labels.groups))
    for index, (file, ranges) in enumerate(zip(files, use.ranges, strict=True)):
        passing = use.passing[index]
        for start, stop, events in file.blocks(branches, ranges, _STEP, passing):
            try:
                parts = _parts(files, use, params, index, start, stop, events, fold)
                truth: Any = labels.of_events(events, index)
                places = labels.groups_of(truth) * 3 + parts
                of_events = weights.of_events(events, index, len(parts)) if weights else None
            except EventError as error:
                raise error.at(passing.nth(start, error.event), file.name) from None
            totals.add(index, places, of_events)
            print_of = fingerprint(passing.count(0, start), parts)
            totals.fingerprints[index] = (totals.fingerprints[index] + print_of) % 2**64
            if reached and isinstance(labels, Targets):
                trained, all_events = reached
                trained.add(truth if params.parts.folds else truth[parts == TRAIN], spread=True)
                all_events.add(truth)
    return totals


def _check_counts(counts: NDArray[np.int64], labels: Labels | Targets) -> list[str]:
    """Warnings about classes that aren't tested; DataError on one that isn't trained on."""
    for group, (train, validation, test) in zip(labels.groups, counts, strict=True):
        if not train:
            raise DataError(
                f"{group} has no event to train on ({validation} validate, {test} test)",
                "Use more events (nevts), or another split.",
            )
    untested = [g for g, test in zip(labels.groups, counts[:, TEST], strict=True) if not test]
    if len(untested) == len(counts):  # which is said once there are metrics
        return []
    return [f"{group} has no event in the test part" for group in untested]
