"""What each event's target is, for a regression: the counterpart of its label (labels.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Derivation, Events, Jagged, Specs, Target
from mlaas4hep.data.preprocess import Cleaner
from mlaas4hep.data.specs import BranchRange
from mlaas4hep.sources.derive import Condition, CutFlow
from mlaas4hep.sources.root import RootFile

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 10  # files that a warning names
_STEPS = 100
"""Numbers of float32 that lie within a standard deviation, at least, or it is said."""


@dataclass(frozen=True)
class Targets:
    """A number per event: the value of a branch, or of the new variable that ``derivation`` makes.

    It has the attributes of Labels; all events are of one group.
    """

    name: str
    clean: Cleaner
    derivation: Derivation | None = None
    scale: Target | None = None
    """Known once the events were counted, and ``reach``: the least and the greatest of all."""
    reach: tuple[float, float] = (0.0, 0.0)

    dtype: ClassVar[type] = np.float32
    names: ClassVar[list[str]] = []
    per_file: ClassVar[list[int]] = []
    branch: ClassVar[None] = None
    shown: ClassVar[list[str]] = ["all"]

    @property
    def groups(self) -> list[str]:
        """What is counted apart, in words."""
        return [f"the target {self.name}"]

    @property
    def condition(self) -> Condition:
        """That an event has a target."""
        return Condition(
            f"{self.name} is a number",
            self.branches,
            lambda events: np.isfinite(self.values(events)),
        )

    @property
    def branches(self) -> list[str]:
        """Those that are read for it."""
        return list(self.derivation.inputs) if self.derivation else [self.name]

    def values(self, events: Events) -> NDArray[np.float64]:
        """The targets of events, as they are in the tree; NaN where there is none."""
        if self.derivation:
            events = self.derivation.derive(events)
        found = events[self.name]
        assert not isinstance(found, Jagged)  # noqa: S101  (``check_role``, ``for_target``)
        cleaned, missing = self.clean(found)
        values = cleaned.astype(np.float64)
        if missing is not None:
            values[missing] = np.nan
        return values

    def of_events(self, events: Events, file: int) -> NDArray[Any]:
        """As a model is trained on them, float32; without a scale as they are, float64."""
        values = self.values(events)
        return self.scale.normalise(values) if self.scale else values

    def groups_of(self, truth: NDArray[Any]) -> NDArray[np.int64]:
        """The group of each event."""
        return np.zeros(len(truth), np.int64)

    def left_out(
        self, files: Sequence[RootFile], flow: CutFlow
    ) -> tuple[CutFlow | None, list[str]]:
        """What the ``condition`` did, the last of the cut flow: it without that if it did nothing.

        None where there is no cut at all; and a warning that counts the events without a target.
        """
        lost = flow.events[-2] - flow.events[-1]
        if not lost.any():
            shorter = CutFlow(flow.cuts[:-1], flow.events[:-1])
            return (shorter if shorter.cuts else None), []
        named = [f"{n} of {file.name}" for file, n in zip(files, lost, strict=True) if n]
        more = f" and {len(named) - _SHOWN} more files" if len(named) > _SHOWN else ""
        return flow, [
            f"{lost.sum()} of {flow.events[-2].sum()} events have no target, as {self.name} is"
            f" missing, NaN or infinite: they are left out ({', '.join(named[:_SHOWN])}{more})"
        ]

    def computable(self, specs: Specs) -> list[str]:
        """A warning where the new variable is made of nothing but features."""
        if not self.derivation or not {*self.branches} <= {*specs.flat, *specs.jagged}:
            return []
        return [
            f"the target {self.name} is computed from {', '.join(self.branches)}, which are"
            " features: the model can compute it, too; leave some out by exclude_branches"
        ]

    def scaled(self, found: BranchRange) -> tuple[Target, list[str]]:
        """How values become those of a training, of which ``found`` is known; warnings.

        Raises DataError where they don't vary, or are no numbers of 32 bits.
        """
        name, most = self.name, max(abs(found.low), abs(found.high))
        if not found.low < found.high:
            raise DataError(
                f"the target {name} is {found.low:.6g} in all {found.values} events to train on",
                "Name a branch whose values vary, or use more events (nevts).",
            )
        with np.errstate(over="ignore"):
            mean, std = float(np.float32(found.mean)), float(np.float32(found.std))
        if most > _LARGEST or not np.finfo(np.float32).tiny < std < _LARGEST:
            raise DataError(
                f"the target {name} has values from {found.low:.6g} to {found.high:.6g}: models"
                " answer in 32 bits",
                "Compute it in another unit, by new_variables.",
            )
        step = float(np.spacing(np.float32(mean)))
        if abs(step) * _STEPS < std:
            return Target(name, mean, std), []
        return Target(name, mean, std), [
            f"the target {name} varies by {std:.6g} around {mean:.9g}, where answers of 32 bits"
            f" have steps of {abs(step):.3g}: subtract a constant, by new_variables"
        ]
