"""How good a regression is, on events that the training never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.target import Target
from mlaas4hep.models.bundle import prediction_meaning
from mlaas4hep.report.profile import Floats, profile

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
"""Of the residual: the median, and where the central 68 % and 95 % end."""
_CENTRAL = 0.005, 0.995  # what of the values the plots show
_BINS = 50
_SLICES = 20  # of the profile


def measure_target(
    predicted: NDArray[np.float32],
    true: NDArray[np.float64],
    target: Target,
    weights: Floats | None = None,
) -> dict[str, Any]:
    """Metrics as metrics.json holds them, all in the target's own units.

    ``predicted`` and ``true`` have the shape (n,). A residual is predicted - true; ``bias`` is its
    mean. A quantile q is the least residual up to which the events make up a part q or more. The
    histograms, of ``predicted_true`` (rows: bins of the true value), ``residuals`` and ``profile``
    (mean of the residual, its error, and its standard deviation, by true value), show the central
    99 %; what lies beyond is in none.

    With ``weights``, which may be negative, an event counts as much as its weight says in all but
    ``events``, and ``counted`` is "weights", not "events". What would be divided by a sum that is
    not positive, or is the root of a negative one, is null.
    """
    w = np.ones(len(true)) if weights is None else weights
    residual = predicted.astype(np.float64) - true
    total, squares = float(w.sum()), float((w * residual**2).sum())
    known = total > 0
    spread = float((w * (true - (w * true).sum() / total) ** 2).sum()) if known else 0.0
    return {
        "events": len(true),
        "counted": "events" if weights is None else "weights",
        "score": prediction_meaning(target),
        "target": target.branch,
        "rmse": float(np.sqrt(squares / total)) if known and squares >= 0 else None,
        "mae": float((w * np.abs(residual)).sum() / total) if known else None,
        "r2": 1 - squares / spread if spread > 0 else None,
        "bias": float((w * residual).sum() / total) if known else None,
        "quantiles": _quantiles(residual, w) if known else {},
        "predicted_true": _map(predicted.astype(np.float64), true, w),
        "residuals": _histogram(residual, w),
        "profile": _profile(residual, true, w),
    }


def weaknesses_of(metrics: dict[str, Any]) -> list[str]:
    """Warnings about no test, and a model that is no better than the mean."""
    if not metrics["events"]:
        return ["the test part is empty: there are no metrics"]
    if metrics["r2"] is None:
        return [
            "the weights of the test don't add up to a positive number, or its targets are all the"
            " same: what would be divided by that is not given"
        ]
    if metrics["r2"] > 0:
        return []
    return [
        f"the model predicts {metrics['target']} no better than its mean would (R2 is"
        f" {metrics['r2']:.3g}): train longer, or on other branches"
    ]


def _quantiles(values: Floats, weights: Floats) -> dict[str, float]:
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[order])
    places = [int(np.argmax(sums >= q * sums[-1] * (1 - 1e-12))) for q in QUANTILES]
    return {str(q): float(values[order[at]]) for q, at in zip(QUANTILES, places, strict=True)}


def _edges(values: Floats, bins: int) -> Floats:
    """Those of bins of equal width for the central 99 %."""
    if not len(values):
        return np.linspace(0, 1, bins + 1)
    low, high = np.quantile(values, _CENTRAL)
    if not low < high:
        half = max(0.5, abs(low) * 1e-6)
        low, high = low - half, high + half
    return np.linspace(low, high, bins + 1)


def _histogram(values: Floats, weights: Floats) -> dict[str, list[float]]:
    edges = _edges(values, _BINS)
    contents = np.histogram(values, edges, weights=weights)[0]
    return {"edges": edges.tolist(), "contents": contents.tolist()}


def _map(predicted: Floats, true: Floats, weights: Floats) -> dict[str, list[Any]]:
    edges = _edges(true, _BINS)
    contents = np.histogram2d(true, predicted, [edges, edges], weights=weights)[0]
    return {"edges": edges.tolist(), "contents": contents.tolist()}


def _profile(residual: Floats, true: Floats, weights: Floats) -> dict[str, list[Any]]:
    edges = _edges(true, _SLICES)
    place = np.searchsorted(edges, true, "right") - 1
    place[true == edges[-1]] = _SLICES - 1
    return {"edges": edges.tolist(), **profile(residual, place, _SLICES, weights)}
