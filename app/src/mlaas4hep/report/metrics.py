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
    scores: NDArray[np.float32],
    truth: NDArray[np.int64],
    classes: list[str],
    weights: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Metrics as metrics.json holds them, computed by scikit-learn.

    ``scores``: (n, 1), probability of class 1, for two classes; (n, k) otherwise. ``truth``: class
    of each event, 0..k-1. With more than two classes ROC and AUC are one class against the rest,
    and ``auc`` is their mean. What needs events of a class that has none is null. ``scores`` are
    histograms per true class: of the probability of class 1, or, with more than two classes, of
    that which the model gave to the true class. A class's ``efficiency`` is the part of its events
    that was found.

    With ``weights``, which may be negative, an event counts as much as its weight says in all but
    the numbers of events (``events``, ``predicted``, ``right``), and ``counted`` is "weights", not
    "events". What would be divided by a sum of weights that is not positive is null.
    """
    from sklearn.metrics import confusion_matrix, log_loss

    k = len(classes)
    table = np.concatenate([1 - scores, scores], axis=1) if k == 2 else scores
    guess = table.argmax(axis=1)
    roc = {
        name: _roc(table[:, index], truth == index, weights)
        for index, name in enumerate(classes)
        if k > 2 or index == 1
    }
    areas = [curve["auc"] for curve in roc.values()]
    known = all(area is not None for area in areas)
    sums = np.maximum(table.sum(axis=1, keepdims=True), 1e-7)
    total = len(truth) if weights is None else weights.sum()
    return {
        "events": len(truth),
        "counted": "events" if weights is None else "weights",
        "score": score_meaning(classes),
        "auc": float(np.mean(areas)) if known else None,
        "accuracy": _part(guess == truth, weights),
        "loss": (
            float(log_loss(truth, table / sums, labels=range(k), sample_weight=weights))
            if total > 0
            else None
        ),
        "classes": {
            name: {
                "events": int((truth == index).sum()),
                "predicted": int((guess == index).sum()),
                "right": int(((truth == index) & (guess == index)).sum()),
                "efficiency": _part(
                    guess[truth == index] == index,
                    None if weights is None else weights[truth == index],
                ),
            }
            for index, name in enumerate(classes)
        },
        "confusion": (
            confusion_matrix(truth, guess, labels=range(k), sample_weight=weights).tolist()
            if len(truth)
            else []
        ),
        "roc": roc,
        "scores": {
            name: _histogram(table[:, 1 if k == 2 else index], truth == index, weights)
            for index, name in enumerate(classes)
        },
    }


def score_of(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of each event the score of the plots: that of class 1, or of its own of more than two."""
    return scores[:, 0] if scores.shape[1] == 1 else scores[np.arange(len(truth)), truth]


def weaknesses(
    metrics: dict[str, Any],
    trained: Sequence[int],
    balanced: bool,
    weights: Sequence[float] | None = None,
) -> list[str]:
    """Warnings about no test, and classes that are rare in the training or never found in the test.

    ``trained``: the training events of each class, in the order of ``metrics["classes"]``, and the
    sums of their ``weights``, if they have any; if they were ``balanced``, none is rare.
    """
    warnings = [] if metrics["events"] else ["the test part is empty: there are no metrics"]
    classes = metrics["classes"]
    known = weights is not None and min(weights) >= 0 and sum(weights) > 0
    counted = weights if weights is not None and known else trained
    for index, (name, found) in enumerate(classes.items()):
        efficiency = found["efficiency"]
        if efficiency is None and found["events"]:
            warnings.append(
                f"the weights of the class {name!r} in the test don't add up to a positive number:"
                " what would be divided by that is not given"
            )
        share = counted[index] / sum(counted)
        # Never found, a class is taken for too rare if it has less than half of an equal share.
        few = not balanced and share < (0.5 / len(classes) if efficiency == 0 else RARE)
        if not few and efficiency != 0:
            continue
        events = f"{trained[index]} of {sum(trained)}"
        has = f"has {share:.2%} of the training events ({events})"
        if known:
            has = f"has {share:.2%} of the weights of the training events ({events} events)"
        test = f"({found['right']} of {found['events']} found)"
        if few:
            how = "" if efficiency is None else f", its efficiency in the test is {efficiency:.3g}"
            warnings.append(
                f"the class {name!r} {has}{how} {test}: use files with more of its events or fewer"
                ' of the others, or set "class_balance": true'
            )
        else:
            others = [each for each, of in classes.items() if of["predicted"]]
            only = f"the model predicts {others[0]!r} only" if len(others) == 1 else "it isn't rare"
            warnings.append(
                f"the class {name!r} {has}, but its efficiency in the test is 0 {test}: {only}."
                " Look at the loss in the report: if it doesn't fall, change the learning rate or"
                " the model, else train more epochs; or the features don't tell this class"
            )
    return warnings


def _part(chosen: NDArray[np.bool_], weights: NDArray[np.float64] | None) -> float | None:
    """What part of the events, or of their weights, is chosen; None of nothing."""
    if weights is None:
        return float(chosen.mean()) if len(chosen) else None
    total = float(weights.sum())
    return float(weights[chosen].sum()) / total if total > 0 else None


def _histogram(
    scores: NDArray[np.float32], chosen: NDArray[np.bool_], weights: NDArray[np.float64] | None
) -> list[float]:
    of_chosen = None if weights is None else weights[chosen]
    counts: list[float] = np.histogram(scores[chosen], _BINS, (0, 1), weights=of_chosen)[0].tolist()
    return counts


def _roc(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    weights: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """Background and signal efficiency, thinned evenly along the curve, and the area below.

    The area is the weighted part of pairs of a signal and a background event in which the signal
    has the higher score. With negative weights the curve goes back here and there, so that
    scikit-learn's roc_auc_score refuses it; the area by the trapezoidal rule remains that part.
    """
    from sklearn.metrics import roc_curve

    ours = positive.sum() if weights is None else weights[positive].sum()
    others = (~positive).sum() if weights is None else weights[~positive].sum()
    if min(ours, others) <= 0:
        return {"auc": None, "background": [], "signal": []}
    background, signal, _ = roc_curve(positive, scores, sample_weight=weights)
    steps = np.abs(np.diff(background)) + np.abs(np.diff(signal))
    length = np.concatenate([[0], np.cumsum(steps)])
    at = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _POINTS)))
    at = np.clip(at, 0, len(length) - 1)
    return {
        "auc": float(np.trapezoid(signal, background)),
        "background": background[at].round(6).tolist(),
        "signal": signal[at].round(6).tolist(),
    }
