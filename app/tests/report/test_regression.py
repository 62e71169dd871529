from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from mlaas4hep.data import Target
from mlaas4hep.report.plots import predicted_png, profile_png, residuals_png
from mlaas4hep.report.regression import QUANTILES, measure_target, weaknesses_of

MASS = Target("m_$ll", 90, 15)


def answers(events: int = 5000, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted (float32, 2 too high, 6 wide) and true masses, and weights, a fifth negative."""
    random = np.random.default_rng(seed)
    true = random.normal(90, 15, events)
    predicted = (true + random.normal(2, 6, events)).astype(np.float32)
    return predicted, true, random.choice([1.5, 3.0, -1.0], events, p=[0.5, 0.3, 0.2])


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_scikit_learn(weighted: bool) -> None:
    predicted, true, w = answers()
    weights = w if weighted else None
    found = measure_target(predicted, true, MASS, weights)
    for name, reference in (
        ("mae", mean_absolute_error),
        ("rmse", root_mean_squared_error),
        ("r2", r2_score),
    ):
        expected = reference(true, predicted, sample_weight=weights)
        assert found[name] == pytest.approx(expected, rel=1e-12), name
    assert found["bias"] == pytest.approx(np.average(predicted - true, weights=weights))
    assert found["bias"] == pytest.approx(2, abs=0.5)
    assert (found["events"], found["counted"]) == (5000, "weights" if weighted else "events")
    assert found["score"] == "prediction = m_$ll, in its own units"


def test_quantiles_are_those_of_numpy() -> None:
    predicted, true, w = answers()
    for weights in (None, np.abs(w)):
        found = measure_target(predicted, true, MASS, weights)["quantiles"]
        expected = np.quantile(predicted - true, QUANTILES, weights=weights, method="inverted_cdf")
        assert list(found) == [str(q) for q in QUANTILES]
        assert list(found.values()) == expected.tolist()


def test_histograms_hold_the_central_part() -> None:
    predicted, true, w = answers()
    found = measure_target(predicted, true, MASS, w)
    residuals, profile = found["residuals"], found["profile"]
    low, high = residuals["edges"][0], residuals["edges"][-1]
    inside = (predicted - true >= low) & (predicted - true <= high)
    assert inside.mean() == pytest.approx(0.99, abs=1e-3)
    assert sum(residuals["contents"]) == pytest.approx(w[inside].sum())
    edges = profile["edges"]
    here = (true >= edges[7]) & (true < edges[8])
    mean = np.average((predicted - true)[here], weights=w[here])
    assert profile["mean"][7] == pytest.approx(mean)
    apart = (predicted - true)[here] - mean
    assert profile["std"][7] == pytest.approx(np.sqrt(np.average(apart**2, weights=w[here])))
    error = np.sqrt((w[here] ** 2 * apart**2).sum()) / w[here].sum()
    assert profile["error"][7] == pytest.approx(error)
    rows = found["predicted_true"]
    edges = rows["edges"]
    cell = (true >= edges[24]) & (true < edges[25]) & (predicted >= edges[26])
    cell &= predicted < edges[27]
    assert rows["contents"][24][26] == pytest.approx(w[cell].sum())


def test_what_can_not_be_divided_is_null() -> None:
    none = measure_target(np.empty(0, np.float32), np.empty(0), MASS)
    assert [none[k] for k in ("rmse", "mae", "r2", "bias", "quantiles")] == [None] * 4 + [{}]
    assert weaknesses_of(none) == ["the test part is empty: there are no metrics"]
    predicted, true, w = answers(40)
    for weights in (-np.abs(w), np.zeros(40)):
        found = measure_target(predicted, true, MASS, weights)
        assert found["rmse"] is found["r2"] is found["bias"] is None
        assert "don't add up" in weaknesses_of(found)[0]
        drawn(found)
    drawn(none)
    one = measure_target(predicted[:1], true[:1], MASS)
    assert one["r2"] is None
    drawn(one)


def test_a_model_that_is_no_better_than_the_mean() -> None:
    _, true, _ = answers(100)
    found = measure_target(np.full(100, 70, np.float32), true, MASS)
    (warning,) = weaknesses_of(found)
    assert "predicts m_$ll no better than its mean" in warning
    drawn(found)


def test_pictures() -> None:
    predicted, true, w = answers()
    for weights in (None, w):
        drawn(measure_target(predicted, true, MASS, weights))


@pytest.mark.parametrize("unit", [1, 1000, 1e6, 1e-6])
def test_numbers_of_an_axis_do_not_overlap_in_any_unit(unit: float, figures: list[Figure]) -> None:
    predicted, true, _ = answers()
    target = Target("mass", 90 * unit, 15 * unit)
    drawn(measure_target((predicted * unit).astype(np.float32), true * unit, target))
    assert len(figures) == 3
    for figure in figures:
        axis = figure.axes[0].xaxis
        numbers = [each for each in axis.get_ticklabels() if each.get_text()]
        apart = [*(each.get_window_extent() for each in numbers)]
        assert len(apart) > 2
        assert all(one.x1 < other.x0 for one, other in pairwise(apart))
        exponent = axis.get_offset_text()
        if exponent.get_text():
            assert axis.label.get_window_extent().x1 < exponent.get_window_extent().x0


def drawn(metrics: dict[str, Any]) -> None:
    for draw in (predicted_png, residuals_png, profile_png):
        picture = draw(metrics, "luca_1")
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000
