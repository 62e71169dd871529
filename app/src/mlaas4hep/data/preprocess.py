"""What is done to values before they become columns: missing ones, clipping, normalising."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

NORMALISATIONS = ("minmax", "standard")
MOST_SENTINELS = 20
"""Of a branch: each is compared with every value of every event."""
Bounds = tuple[float | None, float | None]
"""The least and the greatest value; None where there is no bound."""


@dataclass(frozen=True)
class Preprocessing:
    """By branch: ``sentinels`` are values that stand for a missing one, ``clip`` the bounds.

    A value beyond a bound becomes the bound. ``normalisation`` is "minmax", (x - min) / (max -
    min), or "standard", (x - mean) / standard deviation. With ``mask``, each column has another
    that is 1 where its value is missing or padding, and 0 elsewhere.
    """

    normalisation: str = "minmax"
    clip: Mapping[str, Bounds] = field(default_factory=dict)
    sentinels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    mask: bool = False

    def cleaner(self, branch: str) -> Cleaner | None:
        """What cleans the values of the branch; None where they stay as they are."""
        sentinels, clip = self.sentinels.get(branch, ()), self.clip.get(branch, (None, None))
        return Cleaner(sentinels, clip) if sentinels or clip != (None, None) else None

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        found = {
            "normalisation": self.normalisation if self.normalisation != "minmax" else "",
            "clip": {branch: list(bounds) for branch, bounds in self.clip.items()},
            "sentinels": {branch: list(values) for branch, values in self.sentinels.items()},
            "mask": self.mask,
        }
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """From ``to_json``, of unknown origin; ValueError says what is wrong."""
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        normalisation, mask = value.get("normalisation", "minmax"), value.get("mask", False)
        if normalisation not in NORMALISATIONS or not isinstance(mask, bool):
            raise ValueError(f"unknown normalisation {normalisation!r} or mask {mask!r}")
        clip, sentinels = value.get("clip", {}), value.get("sentinels", {})
        if not isinstance(clip, dict) or not isinstance(sentinels, dict):
            raise ValueError("clip, sentinels: expected objects")
        for branch, bounds in clip.items():
            if not is_bounds(bounds):
                raise ValueError(f"clip: {branch!r} has {bounds!r}, expected two bounds")
        for branch, values in sentinels.items():
            if not isinstance(values, list) or not all(map(_is_finite, values)):
                raise ValueError(f"sentinels: {branch!r} has {values!r}, expected numbers")
            if len(values) > MOST_SENTINELS:
                raise ValueError(f"sentinels: {branch!r} has more than {MOST_SENTINELS}")
        return cls(normalisation, {k: tuple(v) for k, v in clip.items()}, sentinels, mask)


class Cleaner:
    """Finds the missing among the values of one branch, and clips the others.

    Missing are NaN, infinity and the sentinels; real numbers equal a sentinel if both are the same
    as float32, so that what a client prints and reads again is still found. Doubles, as which whole
    numbers of a client arrive too, must equal a whole sentinel exactly.
    """

    def __init__(self, sentinels: Sequence[float], clip: Bounds) -> None:
        self._sentinels, self._clip = sentinels, clip

    def __call__(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The clipped values, and where some are missing (None: nowhere)."""
        real = values.dtype.kind == "f"
        missing = ~np.isfinite(values) if real else np.zeros(values.shape, np.bool_)
        for sentinel in self._sentinels:
            whole = float(sentinel).is_integer()
            if real and (values.dtype.itemsize <= 4 or not whole):
                with np.errstate(over="ignore"):
                    missing |= values.astype(np.float32, copy=False) == np.float32(sentinel)
            elif whole:
                missing |= values == int(sentinel)
        if self._clip != (None, None):
            values = np.clip(values, *self._clip)
        return values, missing if missing.any() else None


def is_bounds(value: Any) -> bool:
    """Whether it is a list of two numbers or nulls, the first below the second."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    low, high = value
    if not all(bound is None or _is_finite(bound) for bound in value):
        return False
    return value != [None, None] and (low is None or high is None or low < high)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return is_number and math.isfinite(value)
    except OverflowError:
        return False
