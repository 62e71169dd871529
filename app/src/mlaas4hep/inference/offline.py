"""Scores for whole ROOT files, without a service."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import (
    DataError,
    EventError,
    LedgerError,
    UsageError,
    did_you_mean,
)
from mlaas4hep.core.files import beside
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Branch, Derivation, Encoder, Events, Jagged
from mlaas4hep.data.split import file_key, folds, folds_by
from mlaas4hep.frameworks.ensemble import OF_FOLDS
from mlaas4hep.inference.outside import Outside
from mlaas4hep.inference.worker import open_session
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.filelist import FileList
from mlaas4hep.sources.friends import open_files
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.root import RootFile

_A = {
    "flat": "one number per event",
    "jagged": "a list per event",
    "string": "a text",
    "unsupported": "neither a number nor a list of numbers",
}
ROWS = 4096
"""Events read, encoded and answered at a time: memory does not grow with the file."""

Scores = NDArray[np.float32]
"""float32 of shape (events, 1), the probability of the second of two classes, or (events, k).

Of a regression (events, 1), the predicted values.
"""
Answer = Callable[[Events, RootFile, int], Scores]
"""Gives the scores of events, which are those of the file from an entry on."""
Observed = dict[str, NDArray[Any]]
"""Values of observers: int64, uint64 or float64 of shape (events,)."""
Add = Callable[[Scores, Observed], None]


class LocalAnswers:
    """Answers events with the bundle's ONNX model, in this process."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_session(bundle.onnx, threads=0)
        self._encoder = Encoder(bundle.specs)
        self._outside = Outside(bundle.specs)
        self._folds = bundle.manifest.folds
        self._files = bundle.specs.files
        flat, jagged = bundle.specs.inputs
        self.kinds = dict.fromkeys(flat, "flat") | dict.fromkeys(jagged, "jagged")
        """The branches that are read for a row: whether each is one number per event, or a list."""
        self._trained = {(file.uuid, file.tree): at for at, file in enumerate(self._files)}

    @property
    def truncated(self) -> int:
        """Values so far that were dropped, as the training saw no list that long."""
        return self._encoder.truncated

    @property
    def warnings(self) -> list[str]:
        """Which branches had values so far that the training never reached."""
        return self._outside.warnings()

    @property
    def branches(self) -> list[str]:
        """Those that tell an event's fold."""
        return self._folds.by if self._folds else []

    def __call__(
        self,
        events: Events,
        file: RootFile,
        start: int,
        passing: NDArray[np.bool_] | None = None,
    ) -> Scores:
        """The scores of the events of the file from ``start`` on.

        With folds, those of a file that the training read, or that branches identify, get the
        answer of the model that hasn't seen their fold, all others the mean. ``passing`` are those
        that pass the training's selection, if it is known: ``warnings`` are of these.
        """
        derived = self._encoder.derive(events)
        mask = np.empty((len(next(iter(derived.values()))), self._encoder.width), np.int8)
        rows = self._encoder.fill(derived, mask=mask)
        self._outside.add(derived, rows, mask, passing)
        fold = self._fold(events, file, start, len(rows))
        outputs = ["outputs" if fold is None else OF_FOLDS]
        (answers,) = self._session.run(outputs, {"inputs": rows})
        scores: Scores = answers if fold is None else answers[np.arange(len(fold)), fold]
        return scores

    def _fold(self, events: Events, file: RootFile, start: int, n: int) -> NDArray[Any] | None:
        if not (known := self._folds):
            return None
        if known.by:
            values = [np.asarray(events[name]) for name in known.by]
            return folds_by(known.seed, values, known.number)
        position = self._trained.get((file.uuid, file.record.tree))
        if position is None:
            return None
        if file.entries != (had := self._files[position].entries):
            raise DataError(
                f"{file.name} has the UUID of a training file, but {file.entries} events instead of"
                f" {had}: the model that has seen an event can't be told",
                "Predict the file that was trained on, or train with split.by, which knows events"
                " by their numbers.",
            )
        key = file_key(position, file.uuid)
        return folds(known.seed, key, start, start + n, known.number)


class Marked:
    """Answers with one more column: 1 where the event passes the training's selection, else 0."""

    def __init__(self, answer: LocalAnswers, derivation: Derivation) -> None:
        self._answer, self._derivation = answer, derivation.for_selection

    @property
    def branches(self) -> list[str]:
        """Those that the selection reads."""
        return list(self._derivation.inputs)

    def __call__(self, events: Events, file: RootFile, start: int) -> Scores:
        """The scores of the events, and whether each is selected."""
        selected, _ = self._derivation.passes(self._derivation.derive(events))
        scores = self._answer(events, file, start, selected)
        return np.column_stack([scores, selected.astype(np.float32)])


def predict_files(
    names: FileList | Sequence[str],
    tree: str,
    branches: Sequence[str],
    answer: Answer,
    progress: Progress = silent,
    marking: Sequence[str] = (),
    observers: Sequence[str] = (),
    friends: Mapping[str, str] | None = None,
    identifier: Sequence[str] = (),
    redirector: str = "",
    kinds: Mapping[str, str] | None = None,
) -> Iterator[tuple[Scores, Observed]]:
    """The scores of all events of the files, in their order, ``ROWS`` at a time, and observers.

    Files are opened as by a training: names that don't exist here are asked of the ``redirector``,
    replicas tried, and what a list says of a file must be so, else it is a FileError.
    ``branches`` are needed by the model, those of ``marking`` by the selection alone; ``kinds`` are
    those of the training, by branch. Of the
    ``friends`` those are opened whose branches are needed, see ``open_files``. Raises
    DataError naming the file and the branches that it lacks, or that are lists in one of training
    and file and numbers in the other, or the event whose lists of one
    collection differ in length.
    """
    needed = list(dict.fromkeys([*branches, *marking, *observers]))
    with ExitStack() as stack:
        used = {
            alias: place
            for alias, place in (friends or {}).items()
            if any(branch.startswith(f"{alias}.") for branch in needed)
        }
        listed = FileList.of(names).files

        def find(name: str) -> str:
            return resolve(name, redirector, Path.cwd())

        paths = [find(file.name) for file in listed]
        files = open_files(paths, tree, used, identifier, stack, find, listed=listed)
        for file in files:
            if absent := [branch for branch in needed if branch not in file.branches]:
                more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
                others = [name for name in file.branches if name not in needed]
                remedy = did_you_mean(absent[0], others) if others else "It has no others."
                user = "model"
                if set(absent) <= set(marking):
                    user, remedy = "selection", "Predict without its column, by --no-selected."
                elif not set(absent) & {*branches, *marking}:
                    user, remedy = "output", "Predict without observers, by --no-observers."
                raise DataError(
                    f"{file.name}: no branch {', '.join(map(repr, absent[:10]))}{more} in the tree"
                    f" {file.tree}; the {user} needs {'it' if len(absent) == 1 else 'them'}",
                    remedy,
                )
            for branch, kind in (kinds or {}).items():
                if (found := file.branches[branch].kind) != kind:
                    raise DataError(
                        f"{file.name}: the branch {branch} is {_A[found]}, but was {_A[kind]} when"
                        " the model was trained",
                        "Write it as in the training's files, which provenance/files.json of the"
                        " bundle names, or train on files like this one.",
                    )
        done, total = 0, sum(file.entries for file in files)
        for file in files:
            reader = file.reader(needed)
            for start in range(0, file.entries, ROWS):
                events = reader.take(min(ROWS, file.entries - start))
                try:
                    scores = answer(events, file, start)
                except EventError as error:
                    raise error.after(start, file.name) from None
                if len(scores) != reader.position - start:
                    raise LedgerError(f"{file.name}: {len(scores)} scores from event {start} on")
                done += len(scores)
                progress("predicting", done, total)
                yield scores, {name: _plain(events[name]) for name in observers}
            file.check_unchanged()


def _plain(values: Branch) -> NDArray[Any]:
    """A flat branch as one of the types that an output has, so that files may differ in theirs."""
    if isinstance(values, Jagged):
        raise DataError("an observer is a list in these events, it was a number in the training")
    kind = values.dtype.kind
    wide = np.float64 if kind == "f" else np.uint64 if values.dtype == np.uint64 else np.int64
    return values.astype(wide)


@contextmanager
def score_file(
    path: Path | None, names: Sequence[str], observers: Sequence[str] = ()
) -> Iterator[Add]:
    """What appends scores, and observers, to ``path``: x.root or x.csv; None prints CSV.

    The tree ``scores`` has one entry per event, to be used as a friend of the events' tree. The
    file is there when all scores are: what fails halfway leaves none, and an older one as it was.
    """
    if path is None:
        yield _csv(sys.stdout, [*names, *observers])
        return
    if path.suffix not in (".csv", ".root"):
        raise UsageError(f"--fout {path}: unknown ending {path.suffix!r}", "Use .root or .csv.")
    with beside(path) as new:
        if path.suffix == ".csv":
            with new.open("w", newline="") as stream:
                yield _csv(stream, [*names, *observers])
        else:
            import uproot

            with uproot.recreate(new) as file:
                kinds: dict[str, Any] = dict.fromkeys(names, np.dtype(np.float32))
                kinds |= dict.fromkeys(observers, np.dtype(np.float64))

                def add(scores: Scores, observed: Observed) -> None:
                    if "scores" not in file:
                        kinds.update((name, each.dtype) for name, each in observed.items())
                        file.mktree("scores", kinds)
                    for name, each in observed.items():
                        _refuse_other(name, each.dtype, kinds[name])
                    file["scores"].extend(dict(zip(names, scores.T, strict=True)) | observed)

                yield add
                if "scores" not in file:
                    file.mktree("scores", kinds)
        new.replace(path)


def _refuse_other(name: str, kind: np.dtype[Any], first: np.dtype[Any]) -> None:
    if kind != first:
        raise DataError(
            f"the observer {name} is {kind} in one file, {first} in those before",
            "Predict these files one by one.",
        )


def _csv(stream: TextIO, names: Sequence[str]) -> Add:
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(names)

    def add(scores: Scores, observed: Observed) -> None:
        others = [each.astype(str) for each in observed.values()]
        rows.writerows(np.column_stack([scores.astype(str), *others]))

    return add
