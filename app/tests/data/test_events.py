from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.data import Jagged


def test_slices_and_counts_are_of_events() -> None:
    lists = Jagged(np.array([2, 2, 5, 6], np.int64), np.arange(10.0))
    assert len(lists) == 3
    assert lists.counts.tolist() == [0, 3, 1]
    assert lists[1:].counts.tolist() == [3, 1]
    assert len(lists[2:1]) == 0
    assert np.shares_memory(lists[1:2].content, lists.content)
    with pytest.raises(ValueError, match="without a step"):
        lists[::2]
