from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import FileRecord, Jagged, Specs, SpecsScan
from mlaas4hep.data.specs import MAX_COLUMNS

FILES = [FileRecord("a.root", "uuid-a", 1000, 6), FileRecord("b.root", "uuid-b", None, 4)]
SELECTION = {"tree": "Events", "selected_branches": (), "nevts": -1}


def lists(*events: list[float], dtype: type = np.float32) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in events])]).astype(np.int64)
    return Jagged(offsets, np.array([x for e in events for x in e], dtype))


def scanned(**branches: Any) -> Specs:
    flat = [k for k, v in branches.items() if not isinstance(v, Jagged)]
    scan = SpecsScan("Events", flat, [k for k in branches if k not in flat], FILES, SELECTION)
    scan.add(0, branches)
    return scan.result()


def test_ranges_and_multiplicities() -> None:
    specs = scanned(
        b=np.array([3, -1, 2], np.int32),
        A=np.array([1.5, 0.5, 1.0]),
        z=lists([1, 2], [], [5, 3, 4]),
    )
    assert specs.flat == ["A", "b"]
    assert specs.columns == ["A", "b", "z_0", "z_1", "z_2"]
    assert (specs.minv, specs.maxv) == ({"A": 0.5, "b": -1, "z": 1}, {"A": 1.5, "b": 3, "z": 5})
    assert specs.jdim == {"z": 3}
    assert specs.scanned == 3
    assert specs.missing == {}


def test_ranges_are_over_finite_values_and_the_others_are_counted() -> None:
    specs = scanned(
        x=np.array([np.nan, 2, np.inf, 1, -np.inf]),
        y=lists([np.nan], [], [3, np.inf], [], []),
        z=np.ones(5),
    )
    assert (specs.minv["x"], specs.maxv["x"]) == (1, 2)
    assert (specs.minv["y"], specs.maxv["y"]) == (3, 3)
    assert specs.missing == {"x": 3, "y": 2}


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint8, np.bool_, np.int8, np.uint32])
def test_every_kind_of_integer(dtype: type) -> None:
    info = (0, 1) if dtype is np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    specs = scanned(x=np.array(info, dtype))
    assert (specs.minv["x"], specs.maxv["x"]) == (float(info[0]), float(info[1]))


def test_a_slice_of_lists_counts_only_its_own_values() -> None:
    specs = scanned(x=lists([-99], [1], [2], [99])[1:3])
    assert (specs.minv["x"], specs.maxv["x"]) == (1, 2)


def test_an_always_empty_branch_has_no_column_and_no_range() -> None:
    specs = scanned(x=np.arange(2.0), y=lists([], []))
    assert specs.columns == ["x"]
    assert specs.jdim == {"y": 0}
    assert "y" not in specs.minv


def test_a_branch_without_one_finite_value_is_named() -> None:
    with pytest.raises(DataError, match=r"missing.* in bad, worse") as error:
        scanned(
            bad=np.full(3, np.nan), fine=np.ones(3), worse=lists([np.inf], [], [np.nan, np.nan])
        )
    assert "exclude_branches" in error.value.remedy


def test_no_events_is_an_error_that_names_the_files() -> None:
    with pytest.raises(DataError, match=r"no events in the tree Events of a\.root, b\.root"):
        scanned(x=np.empty(0), y=lists())


def test_an_absurdly_long_list_is_named() -> None:
    long = Jagged(np.array([0, MAX_COLUMNS + 1]), np.zeros(MAX_COLUMNS + 1, np.int8))
    with pytest.raises(DataError, match=f"{MAX_COLUMNS + 1} values, is in huge"):
        scanned(huge=long)


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint16]), st.integers(1, 60)),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_pieces_in_any_order_give_what_the_whole_gives(values: np.ndarray, cuts: list[int]) -> None:
    finite = np.concatenate([[0, 1], values]).astype(values.dtype)
    edges = [0, *sorted(min(c, len(finite)) for c in cuts), len(finite)]
    pieces = [finite[a:b] for a, b in pairwise(edges)]
    merged = SpecsScan("t", ["x"], [])
    for piece in reversed(pieces):
        part = SpecsScan("t", ["x"], [])
        part.add(0, {"x": piece})
        merged.merge(part)
    specs = merged.result()
    good = finite[np.isfinite(finite)]
    assert specs.minv["x"] == float(good.min())
    assert specs.maxv["x"] == float(good.max())
    assert specs.missing.get("x", 0) == len(finite) - len(good)
    assert specs.scanned == len(finite)


def test_scans_of_other_branches_do_not_merge() -> None:
    with pytest.raises(ValueError, match="same branches"):
        SpecsScan("t", ["x"], []).merge(SpecsScan("t", ["y"], []))


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    specs = scanned(x=np.array([1.0, 3.0]), c=np.array([5, 5]), y=lists([], []), z=lists([1], [-1]))
    specs.save(tmp_path / "global-specs.json")
    assert Specs.load(tmp_path / "global-specs.json") == specs
    written = json.loads((tmp_path / "global-specs.json").read_text(), parse_constant=pytest.fail)
    assert {"jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events"} <= written.keys()
    assert written["events"] == {"a.root": 6, "b.root": 4, "total": 10}
    assert written["nans"] == {"x": -0.5, "c": 0, "z": 0.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "version 99"),
        ({"fkeys": ["x", 3]}, "fkeys: expected names"),
        ({"fkeys": ["x", "w"]}, "fkeys: .* sorted"),
        ({"jkeys": "z"}, "jkeys: holds str"),
        ({"jkeys": ["x"], "jdim": {"x": 1}}, "'x' is in fkeys too"),
        ({"jdim": {"z": -1}}, "jdim: 'z' has -1"),
        ({"jdim": {"z": 10**15}}, "more than 1000000 columns"),
        ({"jdim": {}}, "jdim: 'z' has None"),
        ({"minv": {"x": float("nan"), "z": 0}}, "minv: 'x' has nan"),
        ({"maxv": {"x": 10**400, "z": 0}}, "maxv: 'x' has 1000"),
        ({"minv": {"x": 9, "z": 0}}, "x: 9.0 exceeds maxv 3.0"),
        ({"minv": {"x": True, "z": 0}}, "minv: 'x' has True"),
        ({"files": [{"name": "a"}]}, "files: uuid: the key is absent"),
        ({"files": ["a"]}, "files: expected objects"),
        ({"tree": None}, "tree: holds NoneType"),
    ],
)
def test_specs_of_unknown_origin_are_checked(change: dict[str, Any], said: str) -> None:
    good = scanned(x=np.array([1.0, 3.0]), z=lists([1], [-1])).to_json()
    Specs.from_json(good, "specs.json")
    with pytest.raises(DataError, match=f"^specs.json.*{said}") as error:
        Specs.from_json(good | change, "specs.json")
    assert error.value.remedy


def test_specs_that_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "global-specs.json"
    with pytest.raises(DataError, match="no such file"):
        Specs.load(path)
    with pytest.raises(DataError, match="can't be read"):
        Specs.load(tmp_path)
    for content in ("{", "\x00", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(DataError, match="is not JSON"):
            Specs.load(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="holds no specs"):
        Specs.load(path)
    path.write_text('{"jdim": {}, "minv": {"x": NaN}, "maxv": {}}')
    with pytest.raises(DataError, match="has no version: specs of the prototype"):
        Specs.load(path)


def test_stale_specs_are_refused_naming_what_differs() -> None:
    specs = scanned(x=np.arange(3.0))
    moved = [FileRecord("/else/a.root", "uuid-a", 1000, 6), FileRecord("b", "uuid-b", 7, 4)]
    specs.check_fits(moved, SELECTION)
    for files, selection, said in (
        (FILES[:1], SELECTION, "2 files were scanned, 1 are given"),
        (FILES[::-1], SELECTION, "b.root: uuid was uuid-a, is uuid-b"),
        ([FileRecord("a.root", "uuid-a", 1001, 6), FILES[1]], SELECTION, "size was 1000, is 1001"),
        ([FileRecord("a.root", "uuid-a", 1000, 9), FILES[1]], SELECTION, "entries was 6, is 9"),
        (FILES, SELECTION | {"nevts": 10}, "nevts was -1, is 10"),
        (FILES, SELECTION | {"selected_branches": ("x",)}, r"was \[\], is \['x'\]"),
        (FILES, {"tree": "Events", "nevts": -1}, r"selected_branches was \[\], is None"),
    ):
        with pytest.raises(DataError, match=f"stale specs: .*{said}") as error:
            specs.check_fits(files, selection)
        assert "new specs" in error.value.remedy


def test_collections_are_those_of_all_parts() -> None:
    def scan(*branches: Jagged) -> SpecsScan:
        names = [f"j{i}" for i in range(len(branches))]
        found = SpecsScan("Events", [], names, FILES, collections=[names])
        found.add(0, dict(zip(names, branches, strict=True)))
        return found

    one = scan(lists([1], [2, 3]), lists([4], [5, 6]), lists([7], [8, 9]), lists([], []))
    assert one.result().collections == [["j0", "j1", "j2"]]
    other = scan(lists([1, 2]), lists([3]), lists([4, 5]), lists([]))
    assert other.result().collections == [["j0", "j2"]]
    one.merge(other)
    assert one.result().collections == [["j0", "j2"]]


def test_specs_of_earlier_releases_know_no_collections() -> None:
    value = scanned(x=np.arange(3.0), y=lists([1], [2, 3], [])).to_json()
    del value["collections"], value["left_out"]
    assert Specs.from_json(value, "old.json").collections == []
    for wrong in ({"collections": [["x"]]}, {"collections": "y"}, {"left_out": {"z": 1}}):
        with pytest.raises(DataError, match=f"old.json: {next(iter(wrong))}"):
            Specs.from_json(value | wrong, "old.json")


def test_warnings_name_what_is_left_out_and_the_longest_list() -> None:
    specs = scanned(x=np.arange(1.0), long=lists([0.5] * 1500), short=lists([0.5]))
    specs = replace(specs, left_out={"a": "of type A", "b": "of type B", "c": "of type A"})
    left_out, many = specs.warnings
    assert left_out == "3 branches can't be used: a, c (of type A); b (of type B)"
    assert many.startswith("1502 columns; the longest list, of 1500 values, is in long")
    assert scanned(x=np.arange(2.0)).warnings == []


@pytest.mark.hostile
def test_a_collection_of_very_many_branches_takes_linear_time() -> None:
    """Looking for each name in all others took 87 s for 40,000; the suite's timeout ends it."""
    names = [f"a{i:06}" for i in range(200_000)]
    zeros, ones = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    specs = Specs("t", [], names, zeros, ones, dict.fromkeys(names, 1), collections=[names])
    assert Specs.from_json(specs.to_json(), "specs.json").collections == [names]


def test_a_branch_is_of_one_collection() -> None:
    value = scanned(x=lists([1.0], [2.0]), y=lists([3.0], [4.0])).to_json()
    for groups in ([["x", "y", "x"]], [["x", "y"], ["y", "x"]], [["x", ["y"]]], ["xy"]):
        with pytest.raises(DataError, match="each once"):
            Specs.from_json(value | {"collections": groups}, "specs.json")


def test_files_whose_addresses_differ_in_a_credential_only_are_told_apart() -> None:
    address = "https://h/a?token="
    files = [FileRecord(f"{address}x", "u", 1, 6), FileRecord(f"{address}y", "v", 1, 4)]
    specs = Specs("t", ["x"], [], {"x": 0.0}, {"x": 1.0}, {}, files=files)
    written = {f"{address}...": 6, f"{address}... (2)": 4, "total": 10}
    assert specs.to_json()["events"] == written
