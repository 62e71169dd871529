from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data import EventsToUse, Jagged
from mlaas4hep.sources.reader import Reader
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.ttree import BranchColumn
from real.files import RealFile, each
from sources.plain import assert_same, join


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """Counts how often each basket is decompressed."""
    counter: Counter[tuple[str, int]] = Counter()
    decode = BranchColumn.decode

    def counting(self: BranchColumn, number: int, chunks: list[Any]) -> object:
        counter[self.branch.name, number] += 1
        return decode(self, number, chunks)

    monkeypatch.setattr(BranchColumn, "decode", counting)
    return counter


def everything(reader: Reader, next_size: Callable[[], int]) -> dict[str, list]:
    parts: dict[str, list] = {}
    while reader.position < reader.stop:
        for branch, values in reader.take(next_size()).items():
            parts.setdefault(branch, []).append(values)
    return parts


@given(st.data())
@settings(max_examples=25)
def test_any_steps_through_any_window_give_all_events(
    small_files: list[Path], data: st.DataObject
) -> None:
    branches = ["y", "Jet_pt", "Jet_id"]
    start = data.draw(st.integers(0, 600))
    stop = data.draw(st.integers(start + 1, 700))
    window = data.draw(st.sampled_from([1, 3000, 10_000, 10**9]))
    with RootFile(str(small_files[0]), "events") as file:
        reader = file.reader(branches, window, start, stop)
        parts = everything(reader, lambda: data.draw(st.integers(1, 400)))
        assert len(reader.take(5)["y"]) == 0
    for branch in branches:
        assert_same(join(parts[branch]), small_files[0], "events", branch, start, stop)


@each("hzz")
@pytest.mark.parametrize("window", [1, 20_000, 10**9])
@pytest.mark.parametrize("step", [7, 1000, 10_000])
def test_no_basket_is_decompressed_twice(
    real: RealFile, decoded: Counter[tuple[str, int]], window: int, step: int
) -> None:
    """In this file baskets of different branches end at different entries."""
    path = real.path
    with uproot.open(path) as plain:
        entries = plain["events"].num_entries
        baskets = {b.name: b.num_baskets for b in plain["events"].branches}
    assert len(set(baskets.values())) > 1
    with RootFile(str(path), "events") as file:
        parts = everything(file.reader(list(baskets), window), lambda: step)
    assert set(decoded.values()) == {1}
    assert Counter(branch for branch, _ in decoded) == baskets
    for branch in ("NJet", "Jet_Px", "Muon_Charge", "MET_px"):
        assert_same(join(parts[branch]), path, "events", branch, 0, entries)


def test_a_part_reads_only_its_baskets(
    small_files: list[Path], decoded: Counter[tuple[str, int]]
) -> None:
    with RootFile(str(small_files[0]), "events") as file:
        file.read(["x", "Jet_pt"], 150, 250)
    assert set(decoded) == {(b, n) for b in ("x", "Jet_pt") for n in (1, 2)}


def test_lists_of_the_same_lengths_share_their_offsets(small_files: list[Path]) -> None:
    with RootFile(str(small_files[0]), "events") as file:
        reader = file.reader(["Jet_pt", "Jet_eta", "Jet_id"], 3000)
        while reader.position < reader.stop:
            lists = [v for v in reader.take(130).values() if isinstance(v, Jagged)]
            assert len(lists) == 3
            assert len({id(v.offsets) for v in lists}) == 1


def test_earlier_events_stay_as_they_were(small_files: list[Path]) -> None:
    with RootFile(str(small_files[0]), "events") as file:
        reader = file.reader(["x", "Jet_pt"], 1)
        first = reader.take(100)
        copies = first["x"].copy(), first["Jet_pt"].content.copy()
        while reader.position < reader.stop:
            reader.take(100)
    np.testing.assert_array_equal(first["x"], copies[0])
    np.testing.assert_array_equal(first["Jet_pt"].content, copies[1])


LAYOUTS = {
    "one basket": [1000],
    "two clusters": [500, 500],
    "uneven clusters": [7, 400, 93, 100, 100, 300],
    "many clusters": [10] * 100,
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the same 1000 events in clusters of different sizes."""
    folder = tmp_path_factory.mktemp("layouts")
    rng = np.random.default_rng(1)
    lists = ak.unflatten(np.arange(4000, dtype=np.int16), rng.multinomial(4000, [1e-3] * 1000))
    files = {}
    for name, clusters in LAYOUTS.items():
        files[name] = folder / f"{name}.root"
        with uproot.recreate(files[name]) as file:
            types = {"x": np.float64, "b": np.int8, "v": "var * int16", "fixed": "3 * float32"}
            file.mktree("t", types)
            at = 0
            for size in clusters:
                entries = np.arange(at, at + size)
                file["t"].extend(
                    {
                        "x": entries.astype(np.float64),
                        "b": (entries % 100).astype(np.int8),
                        "v": lists[at : at + size],
                        "fixed": (entries[:, None] * [1, 2, 3]).astype(np.float32),
                    }
                )
                at += size
    return files


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=15)
def test_spread_reading_gives_every_event_once_and_decodes_each_basket_once(
    layouts: dict[str, Path], layout: str, data: st.DataObject
) -> None:
    path = layouts[layout]
    nevts = data.draw(st.one_of(st.just(-1), st.integers(1, 1000)))
    [ranges] = EventsToUse.of([1000], nevts).ranges
    max_bytes = data.draw(st.sampled_from([1, 3000, 10_000, 10**9]))
    turn = data.draw(st.integers(1, 2000))
    wanted = [e for start, stop in ranges for e in range(start, stop)]
    decoded: Counter[tuple[str, int]] = Counter()
    decode = BranchColumn.decode

    def counting(self: BranchColumn, number: int, chunks: list[Any]) -> object:
        decoded[self.branch.name, number] += 1
        return decode(self, number, chunks)

    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch, RootFile(str(path), "t") as file:
        patch.setattr(BranchColumn, "decode", counting)
        reader = file.spread(["x", "b", "v", "fixed"], ranges, max_bytes, turn)
        held = []
        while len(seen) < len(wanted):
            n = min(data.draw(st.integers(1, 400)), len(wanted) - len(seen))
            before = len(seen)
            for start, stop, events in reader.take(n):
                assert {len(values) for values in events.values()} == {stop - start}
                seen += range(start, stop)
                held.append((start, stop, events))
            assert len(seen) - before == n
    assert sorted(seen) == wanted
    held.sort(key=lambda piece: piece[0])
    for first, last in ranges:  # after all was read: no view was written over
        pieces = [events for start, stop, events in held if first <= start < stop <= last]
        for branch in ("x", "b", "v", "fixed"):
            assert_same(join([each[branch] for each in pieces]), path, "t", branch, first, last)
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("max_bytes", [40_000, 10**9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_turn_of_spread_reading_is_a_sample_of_the_whole_file(
    layouts: dict[str, Path], layout: str, max_bytes: int
) -> None:
    """Whether the file is read at once or in parts."""
    with RootFile(str(layouts[layout]), "t") as file:
        reader = file.spread(["x"], [(0, 1000)], max_bytes, 80)
        for _ in range(10):
            entries = np.concatenate([e["x"] for _, _, e in reader.take(100)])
            assert np.histogram(entries, 3, (0, 1000))[0].min() >= 10


def test_places_are_fewer_where_memory_is_short(tmp_path: Path) -> None:
    path = tmp_path / "large.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": np.float64})
        for _ in range(8):
            file["t"].extend({"x": np.random.default_rng(0).normal(size=200_000)})

    def places(max_bytes: int, turn: int) -> tuple[int, bool]:
        with RootFile(str(path), "t") as file:
            reader = file.spread(["x"], [(0, file.entries)], max_bytes, turn)
        return reader.places, reader.is_limited

    assert places(10**8, 10_000) == (8, False)
    assert places(5_000_000, 10_000) == (3, True)  # of 1.6 MB each
    assert places(1, 10_000) == (1, True)
    assert places(1, 400_000) == (5, True)  # a buffer holds events of earlier ones
    assert places(1, 1_600_000) == (16, False)  # it holds the whole file


@each("hzz")
def test_baskets_that_end_anywhere_are_decoded_once_by_all_places(
    real: RealFile, decoded: Counter[tuple[str, int]]
) -> None:
    path = real.path
    with uproot.open(path) as plain:
        events = plain["events"].num_entries
        numbers = {
            b.name
            for b in RootFile(str(path), "events").branches.values()
            if b.kind in ("flat", "jagged")
        }
        baskets = {b.name: b.num_baskets for b in plain["events"].branches if b.name in numbers}
    with RootFile(str(path), "events") as file:
        reader = file.spread(list(baskets), [(0, events)], 10**9, 500)
        pieces = sorted(reader.take(events), key=lambda piece: piece[0])
    assert Counter(branch for branch, _ in decoded) == baskets
    for branch in ("NJet", "Jet_Px", "Muon_Charge", "MET_px"):
        found = join([each[branch] for _, _, each in pieces])
        assert_same(found, path, "events", branch, 0, events)


def test_memory_of_spread_reading(tmp_path: Path) -> None:
    """Within the bound; a file of one basket is in memory once, not once a place."""
    peaks = {}
    for clusters, events, limit in (
        (24, 10_000, 2_000_000),
        (96, 10_000, 2_000_000),
        (1, 200_000, 0),
    ):
        path = tmp_path / f"{clusters}.root"
        with uproot.recreate(path) as file:
            file.mktree("t", {"x": np.float64, "y": "4 * float32"})
            rng = np.random.default_rng(1)
            for _ in range(clusters):
                y = rng.normal(size=(events, 4)).astype(np.float32)
                file["t"].extend({"x": rng.normal(size=events), "y": y})
        with RootFile(str(path), "t") as root:
            reader = root.spread(["x", "y"], [(0, root.entries)], limit, 2000)
            assert reader.places == (1 if clusters == 1 else 8)
            tracemalloc.start()
            for _ in range(0, root.entries, 2000):
                begins = [start for start, _, _ in reader.take(2000)]
                assert clusters == 1 or np.histogram(begins, 8, (0, root.entries))[0].min() == 1
            peaks[clusters] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peaks[96] < 1.1 * peaks[24]
    # 24 bytes an event, offsets of 8, and once a cluster as on disk and in uproot's hands.
    assert peaks[96] < 2_000_000 * 32 / 24 + 4 * 240_000
    assert peaks[1] < 3 * 24 * 200_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = {}
    for times in (1, 4):
        path = tmp_path / f"{times}.root"
        with uproot.recreate(path) as file:
            file.mktree("t", {"x": np.float64, "y": "var * float32"})
            for seed in range(5 * times):
                rng = np.random.default_rng(seed)
                y = ak.unflatten(rng.normal(size=40_000).astype(np.float32), [4] * 10_000)
                file["t"].extend({"x": rng.normal(size=10_000), "y": y})
        with RootFile(str(path), "t") as root:
            reader = root.reader(["x", "y"], 500_000)
            tracemalloc.start()
            while reader.position < reader.stop:
                reader.take(2000)
            peaks[times] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peaks[4] < 1.1 * peaks[1]
    assert peaks[1] < 4_000_000
