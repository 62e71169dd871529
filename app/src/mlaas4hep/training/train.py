"""A training from beginning to end: the five files in, a bundle out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.core.units import many
from mlaas4hep.data import TRAIN, Target
from mlaas4hep.data.histograms import Binning, Distributions
from mlaas4hep.frameworks import Framework, framework_of, set_up
from mlaas4hep.frameworks.base import Fit, Matrix, Truth
from mlaas4hep.frameworks.ensemble import Ensemble, together
from mlaas4hep.report.distributions import make_folder, write_distributions
from mlaas4hep.report.metrics import measure, score_of, weaknesses
from mlaas4hep.report.observers import measure_observers
from mlaas4hep.report.regression import measure_target, weaknesses_of
from mlaas4hep.sources.filelist import FileList
from mlaas4hep.training.dataset import Dataset, FirstPass, cache_size
from mlaas4hep.training.inputs import read_files_option, read_labels_option
from mlaas4hep.training.ledger import Ledger
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.observed import Observed
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import Task, prepare
from mlaas4hep.training.publish import DISTRIBUTIONS, Trained, bundle_name, publish, staging
from mlaas4hep.training.skipping import Skipping
from mlaas4hep.training.suspects import warnings_about
from mlaas4hep.training.targets import Targets

DEFAULT_FOUT = Path("trained_model")


@dataclass(frozen=True)
class TrainRequest:
    """What ``mlaas4hep train`` was asked for; relative paths are relative to ``cwd``.

    ``files`` and ``labels`` are the options' texts: the name of a text file, or a comma list.
    """

    files: str
    labels: str
    model: Path
    params: Path = Path("params.json")
    fout: Path | None = None
    specs: Path | None = None
    preproc: Path | None = None
    dtype: str = "root"
    cwd: Path = field(default_factory=Path.cwd)
    name: str | None = None
    cache_bytes: int | None = None
    """For rows that are kept in memory; None is what ``cache_size`` gives."""
    skip_bad_files: bool = False
    allow_missing: str = ""
    """As the keys of params.json, which these two replace if given."""
    is_job: bool = False
    """Whether the bundle is all that is kept: then ``hist`` is a folder of it."""


@dataclass(frozen=True)
class TrainResult:
    """Where the bundle is and how good the model: ``metrics`` as in metrics.json."""

    bundle: Path
    archive: Path
    metrics: dict[str, Any]
    warnings: list[str]
    servable: bool
    why_not: str
    ledger: Ledger
    cut_flow: list[dict[str, Any]] = field(default_factory=list)
    """How many events the conditions of the selection left, as CutFlow gives them."""
    summary: list[tuple[str, str]] = field(default_factory=list)
    """What was trained on, each with its heading: the files of each class, columns, parts."""
    distributions: Path | None = None
    """The folder with them, if params.json asks for them."""


def train(
    request: TrainRequest,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda warning: None,
) -> TrainResult:
    """Train and publish. Phases: selection (if any), specs, reading, training, testing, publishing.

    ``tell`` gets the warnings that are known before the training, while it can still be stopped;
    the result has them all. With ``skip_bad_files`` all begins again without a file that can't be
    read, whenever that is noticed. Raises MlaasError; then nothing is left but global-specs.json
    and the folder of ``hist``.
    """
    _refuse_other_formats(request)
    given: dict[str, Any] = {}
    if request.skip_bad_files:
        given["skip_bad_files"] = True
    if request.allow_missing:
        given["allow_missing"] = request.allow_missing
    params, warnings = Params.load(request.cwd / request.params, given)
    names = read_files_option(request.files, request.cwd)
    labels = read_labels_option(request.labels, request.cwd)
    target = request.cwd / (request.fout or DEFAULT_FOUT)
    name, told = bundle_name(request.name, target)
    warnings += told
    plots = request.cwd / params.hist if params.hist and not request.is_job else None
    if plots:
        make_folder(plots, f"{request.params.name}: hist")
    told = []

    def tell_once(warning: str) -> None:
        if warning not in told:
            told.append(warning)
            tell(warning)

    skipping = Skipping(params.allowed_missing, tell_once)
    asked = _Asked(request, params, names, labels, target, name, plots, warnings, progress)
    return skipping.run(lambda: _train(asked, skipping, tell_once))


@dataclass(frozen=True)
class _Asked:
    """A request, its options read."""

    request: TrainRequest
    params: Params
    names: FileList
    labels: list[str]
    target: Path
    name: str
    plots: Path | None
    warnings: list[str]
    progress: Progress


def _train(asked: _Asked, skipping: Skipping, tell: Callable[[str], None]) -> TrainResult:
    """Train without the files that ``skipping`` leaves out; FileError on another that is bad."""
    request, params, plots, progress = asked.request, asked.params, asked.plots, asked.progress
    model_file = ModelFile.read(request.cwd / request.model)
    warnings = [*asked.warnings, *skipping.warnings]
    clock = _Clock()
    with staging(asked.target) as folder, ExitStack() as stack:
        with clock("specs and reading"):
            task = prepare(
                asked.names,
                asked.labels,
                params,
                request.cwd,
                stack,
                request.specs,
                progress,
                skipping=skipping,
            )
        number = params.parts.folds
        tasks = [task, *(task.of_fold(fold) for fold in range(1, number))]
        work = _Work(request, params, model_file, progress, clock)
        warnings += task.warnings
        trainings: list[_Training] = []
        for each in tasks:
            data = Dataset(each)
            with clock("specs and reading"):
                found = _distributions(task) if params.hist and not trainings else None
                cache = cache_size() if request.cache_bytes is None else request.cache_bytes
                seen = data.first_pass(cache, progress, found)
            if found:
                with clock("drawing"):
                    within = plots or folder / asked.target.name / DISTRIBUTIONS
                    warnings += _draw(found, within, progress)
            told = each.warnings if trainings else []
            if not trainings:
                read = seen.read
                told = [*told, *seen.warnings]
                told += warnings_about(seen.sample, task.specs, task.classes, params, task.target)
                set_up(model_file.imported, params.seed)
            warnings += told
            for warning in warnings if not trainings else told:
                tell(warning)
            trainings.append(work.train(data, seen))
        first = trainings[0]
        scores, truth, weights = (
            np.concatenate([one.test[i] for one in trainings]) for i in range(3)
        )
        used = weights if task.weights else None
        metrics, told = _measured(task, scores, truth, used)
        warnings += told
        if task.specs.observers:
            observed = [one.observed for one in trainings]
            metrics["observers"] = _observers(task, observed, scores, truth, used)
        framework, model, fit = first.framework, first.model, first.fit
        if number:
            framework = Ensemble(framework)
            model, fit = [one.model for one in trainings], together([t.fit for t in trainings])
        warnings += fit.warnings
        warnings += _replaced(task)
        ledger = Ledger.of(tasks, read)
        progress("publishing", 0, 1)
        trained = Trained(
            name=asked.name,
            task=task,
            to_compare=first.to_compare,
            framework=framework,
            model=model,
            fit=fit,
            params_file=request.cwd / request.params,
            model_file=request.cwd / request.model,
            metrics=metrics,
            seconds=clock.seconds,
            warnings=warnings,
            ledger=ledger,
        )
        bundle, archive, told = publish(trained, folder, asked.target)
    progress("publishing", 1, 1)
    return TrainResult(
        bundle.path,
        archive,
        metrics,
        warnings + told,
        bundle.manifest.servable,
        bundle.manifest.why_not,
        ledger,
        task.cut_flow.as_list() if task.cut_flow else [],
        [*_summary(task), ("events", ledger.line)],
        plots or (bundle.path / DISTRIBUTIONS if params.hist else None),
    )


def _summary(task: Task) -> list[tuple[str, str]]:
    specs, labels, split = task.specs, task.labels, task.params.parts
    if isinstance(labels, Targets):
        lines = [("target", labels.name)]
    elif labels.branch:
        lines = [("classes", f"{', '.join(labels.names[:10])}, by the branch {labels.branch}")]
    else:
        lines = []
        for index, name in enumerate(labels.names):
            of_class = zip(task.files, labels.per_file, strict=True)
            files = [file.name for file, one in of_class if one == index]
            more = f" and {len(files) - 5} more" if len(files) > 5 else ""
            lines.append((f"class {name}", ", ".join(files[:5]) + more))
    branches = many(len(specs.flat) + len(specs.jagged), "branch")
    lines.append(("columns", f"{specs.width}, from {branches}"))
    parts = f"{split.folds} folds"
    if not split.folds:
        shares = (f"{100 * part:.3g}" for part in (split.train, split.validation, split.test))
        parts = f"{' / '.join(shares)} % train / validate / test"
    return [*lines, ("split", f"{parts}, drawn by {' and '.join(task.split_by)}")]


def _distributions(task: Task) -> Distributions:
    """Those of all branches and, of a regression, of its target; empty."""
    target = None
    if isinstance(task.labels, Targets) and task.target:
        name = task.target.branch
        infos = [file.branches.get(name) for file in task.files]
        whole = all(info and not info.is_real for info in infos)
        target = task.target, Binning.of(*task.labels.reach, whole)
    return Distributions(task.specs, task.labels.shown, bool(task.weights), target=target)


def _replaced(task: Task) -> list[str]:
    return [
        f"{file.name} was replaced or removed while it was read: the model was trained on what it"
        f" held before (UUID {file.uuid})"
        for file in task.files
        if file.is_replaced
    ]


def _draw(found: Distributions, folder: Path, progress: Progress) -> list[str]:
    """Write the distributions; warnings, as no training should fail for want of a picture."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told = write_distributions(found, folder, progress)
    except OSError as error:
        told = [f"{folder.name} can't be written: {error.strerror or error}"]
    return [f"hist: {each}" for each in told]


def _refuse_other_formats(request: TrainRequest) -> None:
    if request.dtype and request.dtype != "root":
        raise UsageError(
            f"--dtype {request.dtype} is not supported", "ROOT files are (--dtype root)."
        )
    if request.preproc is not None:
        raise UsageError(
            f"--preproc {request.preproc}: preprocessing(rec) is for JSON and CSV records only; "
            "predictions couldn't repeat it, as TFaaS runs no user code",
            'Compute what you need of branches by "new_variables" in params.json, which predictions'
            " repeat, or in the model's first layers.",
        )


@dataclass(frozen=True)
class _Training:
    """One model, and what it answered to its test part: scores, truth, weights."""

    framework: Framework
    model: Any
    fit: Fit
    to_compare: Matrix
    observed: Observed
    test: tuple[NDArray[np.float32], Truth, NDArray[np.float64]]


@dataclass(frozen=True)
class _Work:
    """What all models of a training share."""

    request: TrainRequest
    params: Params
    model_file: ModelFile
    progress: Progress
    clock: _Clock

    def train(self, data: Dataset, seen: FirstPass) -> _Training:
        """Build a model, check, fit and test it."""
        run, progress = self.model_file.run, self.progress
        if self.params.parts.folds:
            progress = _of_fold(progress, data.task.fold + 1)
        model = self.model_file.build(data.width)
        framework = framework_of(model)
        if target := data.task.target:
            framework = run("the check", lambda: framework_of(model).regression(target))
        run("the check", lambda: framework.check(model, data.width, data.n_classes, data.weighted))
        with self.clock("training"):
            fit = run(
                "the training", lambda: framework.fit(model, data, self.params.plan, progress)
            )
        with self.clock("testing"):
            test = run("the test", lambda: _test(framework, model, data, progress))
        return _Training(framework, model, fit, seen.to_compare, seen.observed, test)


def _of_fold(progress: Progress, fold: int) -> Progress:
    def shown(phase: str, done: int, total: int, **figures: float) -> None:
        progress(phase, done, total, fold=fold, **figures)

    return shown


def _measured(
    task: Task,
    answers: NDArray[np.float32],
    truth: Truth,
    weights: NDArray[np.float64] | None,
) -> tuple[dict[str, Any], list[str]]:
    """The metrics of the test part, and warnings about what they show."""
    if target := task.target:
        metrics = measure_target(answers[:, 0], _true(truth, target), target, weights)
        return metrics, weaknesses_of(metrics)
    metrics = measure(answers, truth, task.classes, weights)
    weighted = task.totals.weights.sum(axis=0)[:, TRAIN].tolist() if task.weights else None
    trained, balanced = task.counts[:, TRAIN].tolist(), task.params.class_balance
    return metrics, weaknesses(metrics, trained, balanced, weighted)


def _true(truth: Truth, target: Target) -> NDArray[np.float64]:
    """The targets in their own units."""
    true: NDArray[np.float64] = truth * np.float64(target.std) + target.mean
    return true


def _observers(
    task: Task,
    observed: Sequence[Observed],
    answers: NDArray[np.float32],
    truth: Truth,
    weights: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """How scores, or residuals, depend on observers; ``observed`` are the tests', in order."""
    begins = np.cumsum([0, *(one.events for one in observed[:-1])])
    at = np.concatenate([begin + one.places for begin, one in zip(begins, observed, strict=True)])
    values = {
        name: np.concatenate([one.values[name] for one in observed]) for name in task.observers
    }
    answers, truth = answers[at], truth[at]
    target = task.target
    shown = answers[:, 0] - _true(truth, target) if target else score_of(answers, truth)
    groups, names = task.labels.groups_of(truth), task.labels.shown
    return measure_observers(values, shown, groups, names, None if weights is None else weights[at])


def _test(
    framework: Framework, model: Any, data: Dataset, progress: Progress
) -> tuple[NDArray[np.float32], Truth, NDArray[np.float64]]:
    """Answers, truth and weights of the test part."""
    labels = data.task.labels
    columns = 1 if data.n_classes == 2 or data.task.target else data.n_classes
    scores, truth = [np.empty((0, columns), np.float32)], list[Truth]()
    truth.append(np.empty(0, labels.dtype))
    weights = [np.empty(0)]
    done = 0
    for rows, of_rows, *of_events in data.test():
        scores.append(framework.predict(model, rows))
        framework.check_answers(scores[-1])
        truth.append(of_rows)
        weights += of_events
        done += len(of_rows)
        progress("testing", done, data.test_events)
    return np.concatenate(scores), np.concatenate(truth), np.concatenate(weights)


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0) + time.perf_counter() - start
