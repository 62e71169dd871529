from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.core.errors import ModelError
from mlaas4hep.data import Target
from mlaas4hep.frameworks import FRAMEWORKS
from mlaas4hep.frameworks.base import Best, FitPlan, Framework, refuse_improper


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ([[0.5], [1.01]], "the model answers 1.01"),
        ([[-0.2], [0.5]], "the model answers -0.2"),
        ([[0.5], [np.nan]], "the model answers nan"),
        ([[0.5, np.inf, 0.5]], "the model answers inf"),
        ([[0.5, 0.2, 0.3], [0.2, 0.2, 0.2]], "add up to 0.6, not to 1"),
    ],
)
def test_what_is_no_probability_is_refused(answers: list[list[float]], match: str) -> None:
    with pytest.raises(ModelError, match=match) as found:
        refuse_improper(np.array(answers, np.float32), "do this")
    assert found.value.remedy == "do this"


@pytest.mark.parametrize(
    ("patience", "min_delta", "ends"),
    [(0, 0, None), (1, 0, 2), (2, 0, 6), (2, 0.15, 3), (3, 0.15, 4), (4, 0, None)],
)
def test_a_training_ends_when_its_patience_does(
    patience: int, min_delta: float, ends: int | None
) -> None:
    best = Best(FitPlan(9, 50, 21, patience=patience, min_delta=min_delta))
    over = None
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.7, 0.66, 0.7, 0.7, 0.7]):
        is_best = best.add(epoch, loss)
        assert is_best == (epoch in (0, 1, 3, 4))
        if best.is_over:
            over = epoch
            break
    assert over == ends
    assert best.epoch == (4 if ends is None else max(e for e in (0, 1, 3, 4) if e <= ends))


@pytest.mark.parametrize("shape", [(0, 1), (0, 3), (50, 1), (50, 3), (50, 900)])
def test_probabilities_pass(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).random(shape)
    if shape[1] > 1:
        values /= values.sum(axis=1, keepdims=True)
    refuse_improper(values.astype(np.float32), "")
    refuse_improper(np.ones((3, 1), np.float32) * np.float32(1 + 1e-6), "")


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ([[0.5], [np.nan]], "answers nan for an event, not one finite number"),
        ([[np.inf]], "answers inf"),
        ([[1, 2]], r"answers \(2,\) for an event"),
    ],
)
def test_what_is_no_number_is_refused(
    framework: Framework, answers: list[list[float]], match: str
) -> None:
    regression = framework.regression(Target("energy", 5, 2))
    regression.check_answers(np.array([[-1e30], [0.5]], np.float32))
    regression.check_answers(np.empty((0, 1), np.float32))
    with pytest.raises(ModelError, match=match):
        regression.check_answers(np.array(answers, np.float32))


def test_a_framework_without_regressions_is_named() -> None:
    with pytest.raises(ModelError, match="keras models can't be trained for the target energy"):
        Framework.regression(FRAMEWORKS[0], Target("energy", 5, 2))
