from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.core.errors import ModelError
from mlaas4hep.frameworks.base import refuse_improper


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


@pytest.mark.parametrize("shape", [(0, 1), (0, 3), (50, 1), (50, 3), (50, 900)])
def test_probabilities_pass(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).random(shape)
    if shape[1] > 1:
        values /= values.sum(axis=1, keepdims=True)
    refuse_improper(values.astype(np.float32), "")
    refuse_improper(np.ones((3, 1), np.float32) * np.float32(1 + 1e-6), "")
