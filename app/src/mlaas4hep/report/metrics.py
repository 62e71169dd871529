"""How good a model is, on events that the training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.models.bundle import score_meaning

_POINTS = 200  # points of a ROC curve that are kept
_BINS = 40  # of the distribution of scores
RARE = 0.01
"""Part of the training events below which a class is named in a warning."""


def measure(
    scores: NDArray[np.float32], truth: NDArray[np.int64], classes: list[str]
) -> dict[str, Any]:
    """Metrics as metrics.json holds them, computed by scikit-learn.

    ``scores``: (n, 1), probability of class 1, for two classes; (n, k) otherwise. ``truth``: class
    of each event, 0..k-1. With more than two classes ROC and AUC are one class against the rest,
    and ``auc`` is their mean. What needs events of a class that has none is null. ``scores`` are
    histograms per true class: of the probability of class 1, or, with more than two classes, of
    that which the model gave to the true class. A class's ``efficiency`` is the part of its events
    that was found.
    """
    from sklearn.metrics import confusion_matrix, log_loss

    k = len(classes)
    table = np.concatenate([1 - scores, scores], axis=1) if k == 2 else scores
    guess = table.argmax(axis=1)
    roc = {
        name: _roc(table[:, index], truth == index)
        for index, name in enumerate(classes)
        if k > 2 or index == 1
    }
    areas = [curve["auc"] for curve in roc.values()]
    known = all(area is not None for area in areas)
    sums = np.maximum(table.sum(axis=1, keepdims=True), 1e-7)
    return {
        "events": len(truth),
        "score": score_meaning(classes),
        "auc": float(np.mean(areas)) if known else None,
        "accuracy": float((guess == truth).mean()) if len(truth) else None,
        "loss": float(log_loss(truth, table / sums, labels=range(k))) if len(truth) else None,
        "classes": {
            name: {
                "events": int((truth == index).sum()),
                "predicted": int((guess == index).sum()),
                "right": int(((truth == index) & (guess == index)).sum()),
                "efficiency": (
                    float((guess[truth == index] == index).mean())
                    if (truth == index).any()
                    else None
                ),
            }
            for index, name in enumerate(classes)
        },
        "confusion": confusion_matrix(truth, guess, labels=range(k)).tolist() if len(truth) else [],
        "roc": roc,
        "scores": {
            name: np.histogram(table[truth == index, 1 if k == 2 else index], _BINS, (0, 1))[
                0
            ].tolist()
            for index, name in enumerate(classes)
        },
    }


def weaknesses(metrics: dict[str, Any], trained: Sequence[int], weights: str) -> list[str]:
    """Warnings about no test, and classes that are rare in the training or never found in the test.

    ``trained``: the training events of each class, in the order of ``metrics["classes"]``;
    ``weights``: how the model gives classes weights.
    """
    warnings = [] if metrics["events"] else ["the test part is empty: there are no metrics"]
    for (name, found), events in zip(metrics["classes"].items(), trained, strict=True):
        share, efficiency = events / sum(trained), found["efficiency"]
        if efficiency != 0 and share >= RARE:
            continue
        how = "" if efficiency is None else f", its efficiency in the test is {efficiency:.3g}"
        warnings.append(
            f"the class {name!r} has {share:.2%} of the training events ({events} of "
            f"{sum(trained)}){how} ({found['right']} of {found['events']} found): use files with "
            f"more of its events or fewer of the others, or give the classes weights ({weights})"
        )
    return warnings


def _roc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> dict[str, Any]:
    """Background and signal efficiency, thinned evenly along the curve, and the area below."""
    from sklearn.metrics import roc_auc_score, roc_curve

    if positive.all() or not positive.any():
        return {"auc": None, "background": [], "signal": []}
    background, signal, _ = roc_curve(positive, scores)
    length = np.concatenate([[0], np.cumsum(np.diff(background) + np.diff(signal))])
    at = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _POINTS)))
    at = np.clip(at, 0, len(length) - 1)
    return {
        "auc": float(roc_auc_score(positive, scores)),
        "background": background[at].round(6).tolist(),
        "signal": signal[at].round(6).tolist(),
    }
