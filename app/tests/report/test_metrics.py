from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, roc_auc_score

from mlaas4hep.report.metrics import measure, weaknesses


def rank_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a signal event scores higher than a background one, by counting."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def test_two_classes() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 500)
    scores = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0, 1).astype(np.float32).round(2)
    found = measure(scores[:, None], truth, ["background", "signal"])
    assert found["auc"] == pytest.approx(rank_auc(scores, truth == 1))
    assert found["accuracy"] == pytest.approx(((scores > 0.5) == truth).mean())
    assert list(found["roc"]) == ["signal"]
    right = int(((scores > 0.5) & (truth == 1)).sum())
    assert found["classes"]["signal"] == {
        "events": int(truth.sum()), "predicted": int((scores > 0.5).sum()), "right": right,
        "efficiency": pytest.approx(right / truth.sum()),
    }  # fmt: skip
    assert found["confusion"][1][1] == right
    high = sum(found["scores"]["signal"][20:])
    assert high == int(((scores >= 0.5) & (truth == 1)).sum())
    assert sum(map(sum, found["scores"].values())) == 500
    curve = found["roc"]["signal"]
    assert (curve["background"][0], curve["signal"][0]) == (0, 0)
    assert (curve["background"][-1], curve["signal"][-1]) == (1, 1)
    assert len(curve["signal"]) <= 200
    area = np.trapezoid(curve["signal"], curve["background"])
    assert area == pytest.approx(found["auc"], abs=0.005)
    json.dumps(found, allow_nan=False)


def test_three_classes_are_one_against_the_rest() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 3, 400)
    scores = random.dirichlet([1, 1, 1], 400)
    scores[np.arange(400), truth] += 0.3
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    found = measure(scores, truth, ["GG", "GT", "TT"])
    expected = [rank_auc(scores[:, i], truth == i) for i in range(3)]
    assert [found["roc"][name]["auc"] for name in ("GG", "GT", "TT")] == pytest.approx(expected)
    assert found["auc"] == pytest.approx(np.mean(expected))
    assert np.sum(found["confusion"]) == 400
    own = -np.log(scores[np.arange(400), truth].astype(float)).mean()
    assert found["loss"] == pytest.approx(own, rel=1e-4)


def test_an_absent_class_and_no_events_give_null() -> None:
    scores = np.array([[0.2], [0.7]], np.float32)
    found = measure(scores, np.array([1, 1]), ["0", "1"])
    assert found["auc"] is None
    assert found["accuracy"] == 0.5
    found = measure(np.empty((0, 1), np.float32), np.empty(0, np.int64), ["0", "1"])
    assert (found["auc"], found["accuracy"], found["events"]) == (None, None, 0)
    json.dumps(found, allow_nan=False)


def test_perfect_and_saturated_scores_stay_finite() -> None:
    truth = np.array([0, 1] * 50)
    found = measure(truth[:, None].astype(np.float32), truth, ["0", "1"])
    assert found["auc"] == 1
    assert found["loss"] < 1e-6
    found = measure(1 - truth[:, None].astype(np.float32), truth, ["0", "1"])
    assert found["auc"] == 0
    assert np.isfinite(found["loss"])


def test_weighted_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 2, 400)
    scores = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0.01, 0.99).astype(np.float32).round(2)
    weights = random.exponential(3, 400)
    found = measure(scores[:, None], truth, ["0", "1"], weights)
    guess = (scores > 0.5).astype(int)
    given = {"sample_weight": weights}
    assert found["counted"] == "weights"
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores, **given), rel=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess, **given), rel=1e-12)
    assert found["loss"] == pytest.approx(log_loss(truth, scores, **given), rel=1e-6)
    np.testing.assert_allclose(found["confusion"], confusion_matrix(truth, guess, **given))
    ours = weights[truth == 1]
    assert found["classes"]["1"]["efficiency"] == pytest.approx(
        ours[guess[truth == 1] == 1].sum() / ours.sum()
    )
    assert found["classes"]["1"]["right"] == int(((guess == 1) & (truth == 1)).sum())
    np.testing.assert_allclose(np.sum(found["scores"]["1"]), ours.sum())
    table = random.dirichlet([1, 1, 1], 400).astype(np.float32)
    of_three = random.integers(0, 3, 400)
    areas = [roc_auc_score(of_three == i, table[:, i], **given) for i in range(3)]
    found = measure(table, of_three, ["a", "b", "c"], weights)
    assert found["auc"] == pytest.approx(np.mean(areas), rel=1e-12)


def test_equal_weights_change_nothing_and_whole_ones_stand_for_copies() -> None:
    random = np.random.default_rng(6)
    truth = random.integers(0, 2, 300)
    scores = random.random((300, 1)).astype(np.float32).round(2)
    copies = random.integers(0, 4, 300)
    weighted = measure(scores, truth, ["0", "1"], copies.astype(float))
    repeated = measure(scores.repeat(copies, axis=0), truth.repeat(copies), ["0", "1"])
    for key in ("auc", "accuracy", "loss"):
        assert weighted[key] == pytest.approx(repeated[key], rel=1e-6)
    assert weighted["confusion"] == repeated["confusion"]
    assert weighted["scores"] == repeated["scores"]


def test_negative_weights_count_pairs_with_their_sign() -> None:
    random = np.random.default_rng(7)
    truth = random.integers(0, 2, 500)
    scores = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0.01, 0.99).astype(np.float32).round(2)
    weights = random.choice([1.5, -0.7], 500, p=[0.7, 0.3])
    found = measure(scores[:, None], truth, ["0", "1"], weights)
    ours, others = truth == 1, truth == 0
    pairs = weights[ours][:, None] * weights[others][None, :]
    difference = scores[ours][:, None] - scores[others][None, :]
    area = (pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum()
    assert found["auc"] == pytest.approx(area, rel=1e-9)
    right = (scores > 0.5) == ours
    assert found["accuracy"] == pytest.approx((weights * right).sum() / weights.sum())
    losses = -np.log(np.where(ours, scores, 1 - scores).astype(float))
    assert found["loss"] == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-6)
    json.dumps(found, allow_nan=False)


def test_weights_that_cancel_give_null_and_are_said() -> None:
    scores = np.array([[0.2], [0.7], [0.4], [0.9]], np.float32)
    found = measure(scores, np.array([0, 0, 1, 1]), ["qcd", "higgs"], np.array([2.0, 1, 1, -1]))
    assert (found["auc"], found["classes"]["higgs"]["efficiency"]) == (None, None)
    assert found["accuracy"] == pytest.approx((2 - 1) / 3)
    (warning,) = weaknesses(found, [500, 500], balanced=False)
    assert warning.startswith("the weights of the class 'higgs' in the test don't add up")
    nothing = measure(scores, np.array([0, 0, 1, 1]), ["qcd", "higgs"], np.array([-2.0, 1, 1, -1]))
    assert (nothing["accuracy"], nothing["loss"]) == (None, None)


def test_a_class_that_is_rare_or_never_found_is_named() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    lost = measure(np.full((100, 1), 0.2, np.float32), truth, ["qcd", "higgs"])
    assert lost["classes"]["higgs"]["efficiency"] == 0
    (warning,) = weaknesses(lost, [900, 100], balanced=False)
    assert "the class 'higgs' has 10.00% of the training events (100 of 1000)" in warning
    assert "its efficiency in the test is 0 (0 of 10 found)" in warning
    assert warning.endswith('or set "class_balance": true')

    good = measure(truth[:, None].astype(np.float32), truth, ["qcd", "higgs"])
    assert weaknesses(good, [900, 100], balanced=False) == []
    assert weaknesses(good, [990, 10], balanced=False) == []
    assert weaknesses(good, [991, 9], balanced=True) == []
    (warning,) = weaknesses(good, [991, 9], balanced=False)
    assert "'higgs' has 0.90%" in warning
    assert "efficiency in the test is 1 (10 of 10 found)" in warning

    none = measure(np.empty((0, 1), np.float32), np.empty(0, np.int64), ["qcd", "higgs"])
    told = "the test part is empty: there are no metrics"
    assert weaknesses(none, [900, 100], balanced=False) == [told]


def test_a_class_that_is_never_found_though_it_is_not_rare() -> None:
    truth = np.array([0] * 51 + [1] * 49)
    lost = measure(np.full((100, 1), 0.2, np.float32), truth, ["qcd", "higgs"])
    for balanced in (False, True):
        (warning,) = weaknesses(lost, [510, 490], balanced)
        assert warning.startswith(
            "the class 'higgs' has 49.00% of the training events (490 of 1000), but its efficiency"
            " in the test is 0 (0 of 49 found): the model predicts 'qcd' only. Look at the loss"
        )
        assert "class_balance" not in warning
        assert "more of its events" not in warning
    (warning,) = weaknesses(lost, [990, 10], balanced=True)
    assert "learning rate" in warning
    of_three = np.array([0, 1, 2] * 20)
    scores = np.eye(3, dtype=np.float32)[np.where(of_three == 2, 1, of_three)]
    (warning,) = weaknesses(measure(scores, of_three, ["a", "b", "c"]), [20, 20, 20], False)
    assert "the class 'c' has 33.33%" in warning
    assert "(0 of 20 found): it isn't rare. Look" in warning


def test_with_weights_a_class_is_rare_by_its_weights() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    good = measure(truth[:, None].astype(np.float32), truth, ["qcd", "higgs"], np.ones(100))
    assert weaknesses(good, [995, 5], False, [50.0, 50.0]) == []
    (warning,) = weaknesses(good, [500, 500], False, [997.0, 3.0])
    assert warning.startswith(
        "the class 'higgs' has 0.30% of the weights of the training events (500 of 1000 events),"
    )
    assert weaknesses(good, [500, 500], True, [997.0, 3.0]) == []
    # A sum that is negative is no part of anything: events are counted.
    assert weaknesses(good, [500, 500], False, [997.0, -3.0]) == []


def test_what_a_score_is_stands_in_the_metrics() -> None:
    two = measure(np.array([[0.2]], np.float32), np.array([1]), ["Higgs", "QCD"])
    assert two["score"] == "score = probability of class QCD"
    three = measure(np.array([[0.2, 0.3, 0.5]], np.float32), np.array([1]), ["A", "B", "C"])
    assert three["score"] == "scores = probability of each of A, B, C"
