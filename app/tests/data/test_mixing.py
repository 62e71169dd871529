from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data import EventsToUse, plan_chunks
from mlaas4hep.data.mixing import PLACES, block_sizes, cut, in_blocks, mixed, scattered, spans

ENTRIES = st.lists(st.integers(0, 5000), min_size=1, max_size=6)
NEVTS = st.one_of(st.just(-1), st.integers(1, 20_000))


@given(ENTRIES, st.integers(1, 1500))
def test_every_event_is_in_one_chunk_in_order_and_in_proportion(
    events: list[int], chunk_size: int
) -> None:
    total = sum(events)
    chunks = list(plan_chunks(events, chunk_size))
    position = [0] * len(events)
    for number, chunk in enumerate(chunks):
        assert [start for start, _ in chunk] == position
        position = [stop for _, stop in chunk]
        size = sum(stop - start for start, stop in chunk)
        assert 0 < size <= chunk_size + len(events)
        if len(chunks) == math.ceil(total / chunk_size):
            done = min((number + 1) * chunk_size, total)
            for stop, count in zip(position, events, strict=True):
                assert abs(stop - count * done / total) <= 0.5
    assert position == events


@given(ENTRIES, NEVTS)
def test_nevts_is_shared_in_proportion(entries: list[int], nevts: int) -> None:
    use = EventsToUse.of(entries, nevts)
    total = sum(entries)
    fraction = 1 if nevts == -1 else min(nevts / max(total, 1), 1)
    for rows, events in zip(entries, use.counts, strict=True):
        assert 0 <= events <= rows
        assert abs(events - rows * fraction) < 1
    assert sum(use.counts) == (total if nevts == -1 else min(nevts, total))
    if fraction == 1:
        assert use.ranges == tuple(((0, rows),) if rows else () for rows in entries)


def test_many_small_files_count_no_more_than_their_share() -> None:
    """One event of each, whatever its share, made 0.3 % of the events 23 %."""
    counts = EventsToUse.of([1_000_000, *[10] * 300], 1000).counts
    assert (counts[0], sum(counts[1:])) == (997, 3)


@given(ENTRIES, NEVTS)
def test_what_is_used_is_spread_over_all_of_each_file(entries: list[int], nevts: int) -> None:
    use = EventsToUse.of(entries, nevts)
    for rows, events, ranges in zip(entries, use.counts, use.ranges, strict=True):
        flat = [entry for each in ranges for entry in each]
        assert flat == sorted(flat)
        assert all(0 <= start < stop <= rows for start, stop in ranges)
        if nevts == -1:
            continue
        for part in range(1, PLACES):
            before = sum(max(0, min(stop, rows * part / PLACES) - start) for start, stop in ranges)
            assert abs(before - events * part / PLACES) <= events / PLACES + 1


@given(ENTRIES, NEVTS, st.integers(1, 3000), st.data())
def test_spans_are_the_ranges_in_order_and_none_share_what_lies_between_two_borders(
    entries: list[int], nevts: int, at_most: int, data: st.DataObject
) -> None:
    for rows, ranges in zip(entries, EventsToUse.of(entries, nevts).ranges, strict=True):
        borders = data.draw(st.lists(st.integers(0, rows), max_size=40, unique=True).map(sorted))
        found = spans(ranges, borders, at_most)
        events = [e for start, stop in ranges for e in range(start, stop)]
        assert [e for part in found for a, b in part for e in range(a, b)] == events
        between = [
            {bisect_right(borders, e) for a, b in part for e in (a, b - 1)} for part in found
        ]
        for part, here in zip(found, between, strict=True):
            assert all(a < b for a, b in part)
            assert len(here) == 1 or part[-1][1] - part[0][0] <= at_most
        assert all(max(a) < min(b) for a, b in pairwise(between))


def test_spans_are_clusters_and_small_ones_together() -> None:
    borders = list(range(0, 1000, 100))
    assert spans([(0, 1000)], borders, 1) == [[(b, b + 100)] for b in borders]
    assert spans([(0, 1000)], borders, 250) == [[(b, b + 200)] for b in range(0, 1000, 200)]
    assert spans([(0, 1000)], borders, 1000) == [[(0, 1000)]]
    # Neighbours, and parts with unused clusters between them, which are not read.
    assert spans([(10, 20), (150, 160)], borders, 1000) == [[(10, 20), (150, 160)]]
    apart = [[(10, 20), (30, 40)], [(250, 260)]]
    assert spans([each for part in apart for each in part], borders, 1000) == apart


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 1200))
def test_a_cut_range_has_pieces_alike(start: int, size: int, at_most: int) -> None:
    pieces = cut(start, start + size, at_most)
    assert [e for a, b in pieces for e in range(a, b)] == list(range(start, start + size))
    sizes = [b - a for a, b in pieces]
    assert len(sizes) == math.ceil(size / at_most)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_every_stretch_of_scattered_numbers_is_spread_over_all() -> None:
    assert scattered(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert scattered(0) == []
    for count in (16, 20, 100, 1000):
        order = np.array(scattered(count))
        assert sorted(order) == list(range(count))
        for stretch in np.array_split(order, count // 10):
            assert np.histogram(stretch, 2, (0, count))[0].min() >= len(stretch) * 0.3


@given(
    st.integers(0, 400),
    st.integers(1, 500),
    st.integers(1, 90),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_mixing_gives_every_event_once_however_the_stream_is_cut(
    events: int, held: int, block: int, cuts: list[int]
) -> None:
    values = np.arange(events)

    def stream(sizes: list[int]) -> list[tuple[np.ndarray, ...]]:
        found, at = [], 0
        while at < events:
            size = sizes[len(found) % len(sizes)]
            found.append((values[at : at + size], -values[at : at + size, None]))
            at += size
        return found

    def order(sizes: list[int]) -> list[tuple[np.ndarray, ...]]:
        return list(mixed(stream(sizes), events, held, block, np.random.default_rng(3)))

    whole, pieces = order([max(events, 1)]), order(cuts)
    assert [len(a) for a, _ in whole] == block_sizes(events, block)
    for (a, b), (c, d) in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        np.testing.assert_array_equal(b, -a[:, None])
    assert sorted(x for a, _ in whole for x in a.tolist()) == values.tolist()


def test_with_all_events_held_every_order_is_as_likely() -> None:
    seen = np.zeros((4, 4))
    for seed in range(4000):
        rng = np.random.default_rng(seed)
        order = np.concatenate([a for (a,) in mixed([(np.arange(4),)], 4, 4, 3, rng)])
        seen[np.arange(4), order] += 1
    np.testing.assert_allclose(seen / 4000, 0.25, atol=0.03)


def test_an_event_stays_in_the_buffer_as_long_as_chance_has_it() -> None:
    """Each block takes block / held of the buffer, so a stay is held events of the stream."""
    events, held, block = 200_000, 2000, 100
    stream = [(np.arange(events),)]
    order = np.concatenate(
        [a for (a,) in mixed(stream, events, held, block, np.random.default_rng(1))]
    )
    assert abs(np.mean(order[: events - held][50_000:] - np.arange(50_000, events - held))) < 100
    stay = np.arange(events) + held - order
    assert np.mean(stay[50_000:150_000]) == pytest.approx(held, rel=0.05)
    assert np.std(stay[50_000:150_000]) == pytest.approx(held, rel=0.1)


def test_a_count_that_is_wrong_is_no_silent_loss() -> None:
    with pytest.raises(ValueError, match="fewer events than expected"):
        list(in_blocks([(np.arange(5),)], [4, 2]))
    with pytest.raises(ValueError, match="more events than expected"):
        list(in_blocks([(np.arange(5),)], [4]))


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
        EventsToUse.of([10], nevts)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        list(plan_chunks([10], 0))
