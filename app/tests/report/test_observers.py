from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binned_statistic

from mlaas4hep.report.metrics import measure
from mlaas4hep.report.observers import measure_observers
from mlaas4hep.report.plots import observer_png
from mlaas4hep.report.regression import measure_target
from report.test_plots import pixels
from report.test_regression import MASS, answers

NAMES = ["background", "signal"]


def events(n: int = 4000) -> tuple[Any, Any, Any]:
    """Masses, scores that follow them in the background alone, classes."""
    random = np.random.default_rng(1)
    mass, truth = random.exponential(50, n) + 20, random.integers(0, 2, n)
    score = np.where(truth == 1, 0.8, np.clip(mass / 300, 0, 1)) + random.normal(0, 0.05, n)
    return mass, score.astype(np.float32), truth


def test_means_are_those_of_scipy() -> None:
    mass, score, truth = events()
    found = measure_observers({"mass": mass}, score, truth, NAMES)["mass"]
    edges = np.array(found["edges"])
    inside = (mass >= edges[0]) & (mass <= edges[-1])
    assert found["outside"] == (~inside).sum()
    assert 0 < found["outside"] <= 0.01 * len(mass)
    for index, name in enumerate(NAMES):
        mine = inside & (truth == index)
        of_class = found["classes"][name]
        for key, statistic in (("mean", "mean"), ("events", "count")):
            expected = binned_statistic(mass[mine], score[mine], statistic, edges).statistic
            np.testing.assert_allclose(np.array(of_class[key], float), expected, rtol=1e-6)
        std = binned_statistic(mass[mine], score[mine], "std", edges).statistic
        expected = std / np.sqrt(np.maximum(of_class["events"], 1))
        expected[np.array(of_class["events"]) < 2] = np.nan
        np.testing.assert_allclose(np.array(of_class["error"], float), expected, rtol=1e-5)
        assert of_class["overall"] == pytest.approx(score[mine].mean())
    spread = [np.ptp(found["classes"][name]["mean"]) for name in NAMES]
    assert spread[0] > 0.3 > 0.1 > spread[1]


def test_what_is_missing_is_counted_and_in_no_bin() -> None:
    mass, score, truth = events()
    holes = mass.copy()
    holes[::7] = np.nan
    found = measure_observers({"mass": holes}, score, truth, NAMES)["mass"]
    kept = np.isfinite(holes)
    same = measure_observers({"mass": mass[kept]}, score[kept], truth[kept], NAMES)["mass"]
    assert (found["events"], found["missing"]) == (4000, -(-4000 // 7))
    assert (found["classes"], found["edges"]) == (same["classes"], same["edges"])
    nothing = measure_observers({"m": np.full(4000, np.nan)}, score, truth, NAMES)["m"]
    assert (nothing["missing"], nothing["edges"], nothing["classes"]) == (4000, [], {})


@pytest.mark.parametrize(
    ("values", "bins"),
    [(91.19, 1), (7, 1), ([0, 1], 2), (range(30), 30), (range(1000), 20), ([2.0**63, 1e300], 20)],
    ids=["constant", "whole constant", "flag", "few", "many", "huge"],
)
def test_bins_fit_the_values(values: Any, bins: int) -> None:
    _, score, truth = events()
    observed = np.resize(np.array(values, float), 4000)
    found = measure_observers({"v": observed}, score, truth, NAMES)["v"]
    assert len(found["edges"]) == bins + 1
    inside = sum(sum(of_class["events"]) for of_class in found["classes"].values())
    assert inside + found["outside"] == 4000
    assert inside >= 3950


def test_weights_of_either_sign() -> None:
    mass, score, truth = events()
    w = np.random.default_rng(2).choice([2.0, -0.5], 4000, p=[0.8, 0.2])
    found = measure_observers({"mass": mass}, score, truth, NAMES, w)["mass"]
    edges = found["edges"]
    cell = (mass >= edges[0]) & (mass < edges[1]) & (truth == 1)
    mean = np.average(score[cell].astype(float), weights=w[cell])
    assert found["classes"]["signal"]["mean"][0] == pytest.approx(mean)
    none = measure_observers({"mass": mass}, score, truth, NAMES, -np.abs(w))["mass"]
    assert {*none["classes"]["signal"]["mean"]} == {None}


def test_one_event_has_no_error() -> None:
    found = measure_observers(
        {"m": np.array([1.5])}, np.array([0.5]), np.array([1]), NAMES
    )["m"]  # fmt: skip
    assert (found["classes"]["signal"]["mean"], found["classes"]["signal"]["error"]) == (
        [0.5],
        [None],
    )


def test_the_picture_shows_a_dependence() -> None:
    mass, score, truth = events()
    metrics = measure(np.clip(score, 0, 1)[:, None], truth, NAMES)

    def picture(observed: Any, weights: Any = None) -> Any:
        found = measure_observers({"m_$": observed}, score, truth, NAMES, weights)
        return pixels(observer_png("m_$", metrics | {"observers": found}, "m"))

    shown = picture(mass)
    assert shown.shape == (720, 720, 4)
    assert (shown != picture(np.random.default_rng(1).permutation(mass))).any()
    for odd in (np.full(4000, 7.0), np.resize([2.0**63, 1e300], 4000)):
        assert picture(odd).shape == shown.shape
    assert picture(mass, np.full(4000, -1.0)).shape == shown.shape

    predicted, true, w = answers()
    residuals = measure_observers(
        {"pile-up": true}, predicted - true, 0 * true.astype(int), ["all"]
    )
    metrics = measure_target(predicted, true, MASS, w) | {"observers": residuals}
    assert pixels(observer_png("pile-up", metrics, "m")).shape == shown.shape
