from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data import EventsToUse, Jagged, Passing
from mlaas4hep.data.passing import chosen


def passing(mask: np.ndarray, step: int = 800) -> Passing:
    return Passing(np.packbits(mask[start : start + step]) for start in range(0, len(mask), step))


@given(
    entries=st.integers(0, 5000),
    fraction=st.sampled_from([0, 0.001, 0.3, 1]),
    at=st.lists(st.integers(0, 5000), min_size=2, max_size=2),
)
def test_the_same_as_a_mask(entries: int, fraction: float, at: list[int]) -> None:
    mask = np.random.default_rng(entries).uniform(size=entries) < fraction
    found = passing(mask)
    start, stop = sorted(min(each, entries) for each in at)
    there = np.flatnonzero(mask)
    inside = there[(there >= start) & (there < stop)]
    assert found.count(start, stop) == len(inside)
    np.testing.assert_array_equal(found.mask(start, stop), mask[start:stop])
    np.testing.assert_array_equal(found.rows(np.arange(start, stop), start, stop), inside)
    for number in {0, len(there) // 2, len(there) - 1} & set(range(len(there))):
        assert found.entry(number) == there[number]
    for count in {1, len(inside) // 2, len(inside)} - {0}:
        if count <= len(inside):
            assert found.after(start, count) == inside[count - 1] + 1


def test_all_pass_without_a_selection() -> None:
    found = Passing()
    assert (found.count(3, 7), found.entry(5), found.after(3, 4)) == (4, 5, 7)
    events = {"x": np.arange(4)}
    assert found.of(events, 3, 7) is events
    assert found.rows(events["x"], 3, 7) is events["x"]
    assert found.mask(3, 7).all()


def test_events_are_chosen_with_their_lists() -> None:
    offsets = np.array([2, 4, 4, 7])
    events = {
        "x": np.array([1.0, 2, 3]),
        "a": Jagged(offsets, np.arange(9)),
        "b": Jagged(offsets, np.arange(9) * 2.0),
    }
    found = chosen(events, np.array([True, False, True]))
    assert found["x"].tolist() == [1, 3]
    a, b = found["a"], found["b"]
    assert isinstance(a, Jagged)
    assert isinstance(b, Jagged)
    assert a.offsets is b.offsets
    assert a.offsets.tolist() == [0, 2, 5]
    assert (a.content.tolist(), b.content.tolist()) == ([2, 3, 4, 5, 6], [4, 6, 8, 10, 12])


@pytest.mark.parametrize("nevts", [-1, 7, 300, 10**6])
def test_nevts_counts_events_that_pass(nevts: int) -> None:
    random = np.random.default_rng(1)
    masks = [random.uniform(size=n) < p for n, p in ((4000, 0.1), (1000, 0.5), (500, 0.0))]
    passed = [int(mask.sum()) for mask in masks]
    use = EventsToUse.of([4000, 1000, 500], nevts, [passing(mask) for mask in masks])
    plain = EventsToUse.of(passed, nevts)
    assert use.counts == plain.counts
    for mask, ranges, numbers in zip(masks, use.ranges, plain.ranges, strict=True):
        there = np.flatnonzero(mask)
        used = [np.flatnonzero(mask[start:stop]) + start for start, stop in ranges]
        wanted = [there[start:stop] for start, stop in numbers]
        for one, other in zip(used, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
