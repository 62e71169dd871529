from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data import Jagged
from mlaas4hep.sources.columns import Column
from mlaas4hep.sources.reader import Reader
from mlaas4hep.sources.root import RootFile
from real.files import RealFile, each
from sources.plain import assert_same, join


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """Counts how often each basket is decompressed."""
    counter: Counter[tuple[str, int]] = Counter()
    decode = Column.decode

    def counting(self: Column, number: int, *place: object) -> object:
        counter[self.branch.name, number] += 1
        return decode(self, number, *place)  # type: ignore[arg-type]

    monkeypatch.setattr(Column, "decode", counting)
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
