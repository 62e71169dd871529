"""How the answers of a model depend on observers: branches kept beside the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.histograms import MOST_CLASSES, Binning
from mlaas4hep.report.profile import Floats, profile

_CENTRAL = 0.005, 0.995  # what of the values the bins span
_BINS = 20


def measure_observers(
    observed: Mapping[str, Floats],
    answers: NDArray[Any],
    groups: NDArray[np.int64],
    names: Sequence[str],
    weights: Floats | None = None,
) -> dict[str, Any]:
    """By observer: the mean answer, and its error, by class and bin of the observer.

    ``observed`` are values, NaN where one is missing; they, ``answers`` (scores or residuals),
    ``groups`` (0..k-1, ``names`` are theirs) and ``weights`` have the shape (n,). The bins span the
    central 99 %, or a few whole numbers each; ``missing`` and ``outside`` count the events that are
    in none. ``overall`` is the mean of all events in bins. Of many classes the first MOST_CLASSES
    are there. See ``profile`` for what is None; without a value there are no bins.
    """
    w = np.ones(len(answers)) if weights is None else weights
    plain = answers.astype(np.float64)
    return {
        name: _measured(values, plain, groups, names[:MOST_CLASSES], w)
        for name, values in observed.items()
    }


def _measured(
    values: Floats, answers: Floats, groups: NDArray[np.int64], names: Sequence[str], w: Floats
) -> dict[str, Any]:
    known = np.isfinite(values)
    counts = {"events": len(values), "missing": int((~known).sum())}
    if not known.any():
        return {**counts, "outside": 0, "edges": [], "classes": {}}
    values, answers, groups, w = values[known], answers[known], groups[known], w[known]
    low, high = np.quantile(values, _CENTRAL, method="inverted_cdf")
    binning = Binning.of(float(low), float(high), bool((values == np.rint(values)).all()), _BINS)
    bins = len(binning.edges) - 1
    places = binning.places(values) - 1
    inside = (places >= 0) & (places < bins)
    found = {}
    for index, name in enumerate(names):
        mine = inside & (groups == index)
        of_bins = profile(answers[mine], places[mine], bins, w[mine])
        overall = profile(answers[mine], np.zeros(mine.sum(), np.int64), 1, w[mine])
        found[name] = {
            "events": np.bincount(places[mine], minlength=bins).tolist(),
            "mean": of_bins["mean"],
            "error": of_bins["error"],
            "overall": overall["mean"][0],
        }
    return {
        **counts,
        "outside": int((~inside).sum()),
        "edges": binning.real.tolist(),
        "classes": found,
    }
