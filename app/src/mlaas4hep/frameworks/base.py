"""What a machine-learning framework must do for us: one class, one file."""

from __future__ import annotations

import ast
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import ModelError
from mlaas4hep.core.progress import Progress
from mlaas4hep.data.target import Target

Matrix = NDArray[np.float32]
"""Rows of events, shape (events, columns), normalised."""
Classes = NDArray[np.int64]
"""Class of each event, 0..k-1."""
Truth = NDArray[Any]
"""Classes or, for a regression, the target of each event, normalised (float32)."""
Block = tuple[NDArray[Any], ...]
"""Events at once: rows (Matrix), their Truth and, of a weighted data set, weights (float64)."""
History = dict[str, list[float]]
"""One number an epoch: loss, val_loss and the model's own metrics."""

_NEAR = 1e-5


class NotServable(ModelError):  # noqa: N818  (a verdict on the model, not a failure)
    """The model can't become ONNX; the message says why."""


class Batches(Protocol):
    """The training and validation parts of a data set, streamed."""

    width: int
    """Columns of a row."""
    n_classes: int
    """0 for a regression."""
    weighted: bool
    """Whether blocks hold a weight for each event; their mean is 1, and some may be negative."""
    train_events: int
    validation_events: int

    def epoch(self, number: int) -> Iterator[Block]:
        """The training part in chunks; shuffled by the seed and ``number`` when asked for."""

    def validation(self) -> Iterator[Block]:
        """The validation part in chunks, always in the same order."""


@dataclass(frozen=True)
class FitPlan:
    """How to train. ``epochs`` are passes over all of the training part.

    If ``patience`` isn't 0, the training ends after so many epochs in a row in which the loss (of
    the validation, if there is one) didn't fall by more than ``min_delta`` below its least value.
    """

    epochs: int
    batch_size: int
    seed: int
    verbose: int = 0
    patience: int = 0
    min_delta: float = 0.0


class Best:
    """Follows the losses of a training: the best epoch so far, and whether to stop."""

    def __init__(self, plan: FitPlan) -> None:
        self.epoch = 0
        self._loss = self._reached = math.inf
        self._plan, self._idle = plan, 0

    def add(self, epoch: int, loss: float) -> bool:
        """Take in the loss of an epoch (from 0); True if it is the best so far."""
        self._idle += 1
        if loss < self._reached - self._plan.min_delta:
            self._reached, self._idle = loss, 0
        if loss >= self._loss:
            return False
        self.epoch, self._loss = epoch, loss
        return True

    @property
    def is_over(self) -> bool:
        """Whether the training's patience is at its end."""
        return 0 < self._plan.patience <= self._idle


@dataclass
class Fit:
    """What a training gave. The model holds the weights of the ``best`` epoch (from 0)."""

    history: History
    best: int
    warnings: list[str] = field(default_factory=list)


class Framework(ABC):
    """One framework. A model is what the user's ``model(idim)`` returned.

    The framework itself is imported only when one of its models is at hand.
    """

    name: ClassVar[str]
    wanted: ClassVar[str]
    """What ``model(idim)`` may return, in words: "a compiled ... model"."""
    modules: ClassVar[frozenset[str]]
    """Top-level modules whose classes, or subclasses of these, are this framework's models."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions decide what a training gives, its converter's among them."""
    probabilities: ClassVar[str]
    """What to do about a model whose answers are no probabilities."""
    note: ClassVar[str] = ""
    """What to know before the files of ``save`` are opened."""
    card_names: ClassVar[Mapping[str, str]] = {}
    """What TFaaS's model card says where the original can serve the files of ``save``."""

    @classmethod
    def accepts(cls, model: object) -> bool:
        """Whether the type of ``model`` derives from a class of this framework."""
        return any(base.__module__.split(".")[0] in cls.modules for base in type(model).__mro__)

    def regression(self, target: Target) -> Framework:
        """The same framework for models that predict ``target``; ModelError where there is none."""
        raise ModelError(
            f"{self.name} models can't be trained for the target {target.branch}: only"
            " classifications can",
            "Leave out target, or use another framework.",
        )

    def set_up(self, seed: int) -> None:
        """Import the framework quietly and seed it; called before the user's code runs."""
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def check_source(self, tree: ast.Module, name: str) -> None:  # noqa: B027  (most see nothing)
        """Raise ModelError with ``name:line`` for what is wrong in any model file, seen unrun."""

    @abstractmethod
    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Raise ModelError unless ``model`` takes ``width`` columns and tells the classes apart.

        If the data set is ``weighted``, it must take weights, too.
        """

    @abstractmethod
    def fit(self, model: Any, data: Batches, plan: FitPlan, progress: Progress) -> Fit:
        """Train ``model`` in place; phase "training" counts events over all epochs."""

    @abstractmethod
    def predict(self, model: Any, rows: Matrix) -> Matrix:
        """Probabilities: shape (n, 1), of class 1, for two classes; (n, k) otherwise.

        For a regression the targets in their own units, shape (n, 1).
        """

    def check_answers(self, answers: Matrix) -> None:
        """ModelError unless ``answers``, as ``predict`` gives them, are what they should be."""
        refuse_improper(answers, self.probabilities)

    @abstractmethod
    def save(self, model: Any, folder: Path, width: int) -> list[str]:
        """Write the native model into ``folder``; returns warnings."""

    @abstractmethod
    def to_onnx(self, model: Any, path: Path, width: int) -> None:
        """Write ONNX: "inputs" float32 [N, width] to "outputs" float32 [N, k], as ``predict``.

        Raises NotServable when the model can't be expressed so.
        """


class Regression(Framework):
    """What the regressions of all frameworks share: mixed in before the classifications' class."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.note = (  # type: ignore[misc]
            f"{self.native} answers with the target as it was trained on,"
            f" ({target.branch} - {target.mean:.9g}) / {target.std:.9g}. {type(self).note}"
        ).strip()

    native: ClassVar[str]
    """Files of ``save`` whose answers are not in the target's own units."""

    def check_answers(self, answers: Matrix) -> None:
        """ModelError unless there is one finite number an event."""
        finite = np.isfinite(answers)
        if answers.shape[1:] != (1,) or not finite.all():
            found = (
                f"{answers[~finite][0]}" if answers.shape[1:] == (1,) else f"{answers.shape[1:]}"
            )
            raise ModelError(
                f"the model answers {found} for an event, not one finite number",
                "Look for a division, a logarithm or a diverging training in the model.",
            )


def reason(error: BaseException) -> str:
    """One line that says what happened; Keras' first says where, and its colours are left out."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def refuse_improper(answers: Matrix, remedy: str) -> None:
    """ModelError unless ``answers`` (as ``predict`` gives them) are probabilities."""
    # Written so that NaN is refused, too.
    wrong = ~((answers >= -_NEAR) & (answers <= 1 + _NEAR))
    if wrong.any():
        raise ModelError(
            f"the output is not a probability: the model answers {answers[wrong][0]:.6g}",
            remedy,
        )
    if answers.shape[1] > 1:
        sums = answers.sum(axis=1, dtype=np.float64)
        if (off := np.abs(sums - 1) > 1e-3).any():
            raise ModelError(
                f"the model's answers for one event add up to {sums[off][0]:.6g}, not to 1",
                remedy,
            )


def refuse_nan(losses: Iterable[float], epoch: int) -> None:
    """ModelError when a loss of ``epoch`` (from 0) is not a number."""
    if not all(math.isfinite(loss) for loss in losses):
        raise ModelError(
            f"the loss is not a number in epoch {epoch + 1}: the training diverges",
            "Lower the learning rate, or look for a logarithm or division in the model.",
        )
