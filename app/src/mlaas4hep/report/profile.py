"""Means of a quantity in bins of another, with their errors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def profile(
    values: Floats, places: NDArray[np.int64], bins: int, weights: Floats
) -> dict[str, list[Any]]:
    """By bin: weighted ``mean`` of the values, its ``error``, and their standard deviation ``std``.

    ``places`` are the bins of the values, those outside 0..bins-1 are in none. What would be
    divided by a sum of weights that is not positive is None, and so is the error of one event.
    """
    found: dict[str, list[Any]] = {"mean": [], "error": [], "std": []}
    order = np.argsort(places, kind="stable")
    ends = np.searchsorted(places[order], np.arange(bins + 1))
    for start, stop in pairwise(ends):
        of_bin, w = values[order[start:stop]], weights[order[start:stop]]
        total = float(w.sum())
        if not total > 0:
            for key in found:
                found[key].append(None)
            continue
        mean = float((w * of_bin).sum()) / total
        apart = (of_bin - mean) ** 2
        error = float(np.sqrt((w * w * apart).sum())) / total
        found["mean"].append(mean)
        found["error"].append(error if len(w) > 1 else None)
        found["std"].append(float(np.sqrt(max(0.0, float((w * apart).sum()) / total))))
    return found
