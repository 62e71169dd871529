"""Scores for whole ROOT files, without a service."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, UsageError, did_you_mean
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Encoder, Events
from mlaas4hep.inference.worker import open_session
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.root import RootFile

ROWS = 4096
"""Events read, encoded and answered at a time: memory does not grow with the file."""

Scores = NDArray[np.float32]
"""float32 of shape (events, 1), the probability of the second of two classes, or (events, k)."""
Answer = Callable[[Events], Scores]


def local_answers(bundle: Bundle) -> Answer:
    """What answers events with the bundle's ONNX model, in this process."""
    session = open_session(bundle.onnx, threads=0)
    encoder = Encoder(bundle.specs)

    def answer(events: Events) -> Scores:
        (outputs,) = session.run(["outputs"], {"inputs": encoder.encode(events)})
        scores: Scores = outputs
        return scores

    return answer


def predict_files(
    names: Sequence[str],
    tree: str,
    branches: Sequence[str],
    answer: Answer,
    progress: Progress = silent,
) -> Iterator[Scores]:
    """The scores of all events of the files, in their order, ``ROWS`` at a time.

    Raises DataError naming the file and the branches that it lacks.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(RootFile(name, tree)) for name in names]
        for file in files:
            for branch in branches:
                if branch not in file.branches:
                    raise DataError(
                        f"{file.name}: no branch {branch!r} in the tree {tree}, the model needs it",
                        did_you_mean(branch, file.branches),
                    )
        done, total = 0, sum(file.entries for file in files)
        for file in files:
            reader = file.reader(branches)
            for start in range(0, file.entries, ROWS):
                scores = answer(reader.take(min(ROWS, file.entries - start)))
                done += len(scores)
                progress("predicting", done, total)
                yield scores


def score_names(classes: Sequence[str]) -> list[str]:
    """Names of the columns of scores: ``score`` for two classes, else ``score_CLASS`` of each."""
    return ["score"] if len(classes) == 2 else [f"score_{name}" for name in classes]


@contextmanager
def score_file(path: Path | None, names: Sequence[str]) -> Iterator[Callable[[Scores], None]]:
    """What appends scores to ``path``: x.root (a tree ``scores``) or x.csv; None prints CSV.

    The tree has one entry per event, to be used as a friend of the events' tree.
    """
    if path is None:
        yield _csv(sys.stdout, names)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            yield _csv(stream, names)
    elif path.suffix == ".root":
        import uproot

        with uproot.recreate(path) as file:
            tree = file.mktree("scores", dict.fromkeys(names, "float32"))
            yield lambda scores: tree.extend(dict(zip(names, scores.T, strict=True)))
    else:
        raise UsageError(f"--fout {path}: unknown ending {path.suffix!r}", "Use .root or .csv.")


def _csv(stream: TextIO, names: Sequence[str]) -> Callable[[Scores], None]:
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(names)
    return lambda scores: rows.writerows(scores.astype(str))
