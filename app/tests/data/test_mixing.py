from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data import events_to_use, plan_chunks

ENTRIES = st.lists(st.integers(0, 5000), min_size=1, max_size=6)


@given(ENTRIES, st.integers(1, 1500), st.one_of(st.just(-1), st.integers(1, 20_000)))
def test_every_event_is_in_one_chunk_in_order_and_in_proportion(
    entries: list[int], chunk_size: int, nevts: int
) -> None:
    used = events_to_use(entries, nevts)
    total = sum(used)
    chunks = list(plan_chunks(entries, chunk_size, nevts))
    position = [0] * len(entries)
    for number, chunk in enumerate(chunks):
        assert [start for start, _ in chunk] == position
        position = [stop for _, stop in chunk]
        size = sum(stop - start for start, stop in chunk)
        assert 0 < size <= chunk_size + len(entries)
        if len(chunks) == math.ceil(total / chunk_size):
            done = min((number + 1) * chunk_size, total)
            for stop, events in zip(position, used, strict=True):
                assert abs(stop - events * done / total) <= 0.5
    assert position == used


@given(ENTRIES, st.integers(1, 20_000))
def test_nevts_is_shared_in_proportion_and_no_file_is_forgotten(
    entries: list[int], nevts: int
) -> None:
    used = events_to_use(entries, nevts)
    total = sum(entries)
    for rows, events in zip(entries, used, strict=True):
        assert min(1, rows) <= events <= rows
        assert abs(events - rows * min(nevts / max(total, 1), 1)) <= 1
    if nevts >= total:
        assert used == entries


def test_the_prototypes_example() -> None:
    first, *_, last = plan_chunks([476_963, 491_653], 10_000)
    assert [stop - start for start, stop in first] == [4924, 5076]
    assert [stop for _, stop in last] == [476_963, 491_653]


def test_a_tiny_file_among_large_ones_is_read() -> None:
    chunks = list(plan_chunks([10_000, 3, 10_000], 100))
    assert sum(c[1][1] - c[1][0] for c in chunks) == 3
    assert not list(plan_chunks([0, 0], 10))


@pytest.mark.parametrize("nevts", [0, -2])
def test_senseless_numbers_are_refused(nevts: int) -> None:
    with pytest.raises(ValueError, match=f"nevts is {nevts}"):
        events_to_use([10], nevts)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        list(plan_chunks([10], 0))
