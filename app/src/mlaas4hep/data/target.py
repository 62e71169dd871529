"""What a regression predicts: the numbers of a branch, and how a model is trained on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """The ``branch`` that a model predicts; ``mean`` and ``std`` are those of its training events.

    A model is trained on (value - mean) / std, whose mean is 0 and whose variance is 1. What leaves
    it, in any form that is served, is in the branch's own units again.
    """

    branch: str
    """Or a new variable."""
    mean: float
    std: float

    def normalise(self, values: NDArray[np.float64]) -> Floats:
        """As a model is trained on them."""
        return ((values - self.mean) / self.std).astype(np.float32)

    def restore(self, values: Floats) -> Floats:
        """In the branch's own units; the same two operations as in the graphs."""
        return values * np.float32(self.std) + np.float32(self.mean)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """From what bundle.json says; ValueError says what is wrong."""
        if not isinstance(value, dict) or value.keys() != {"branch", "mean", "std"}:
            raise ValueError("expected branch, mean and std")
        branch, mean, std = value["branch"], value["mean"], value["std"]
        if not isinstance(branch, str):
            raise ValueError(f"branch is {branch!r}, not a name")
        if not all(isinstance(x, float | int) and math.isfinite(x) for x in (mean, std)):
            raise ValueError("mean and std must be numbers")
        if std <= 0:
            raise ValueError(f"std is {std}, not above 0")
        return cls(branch, float(mean), float(std))
