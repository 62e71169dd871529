from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Jagged
from mlaas4hep.sources.root import RootFile, known_trees
from real.files import EMPTY, REAL, RealFile, each, written
from sources.plain import assert_same, plain_branches, write_tree


def can_be_read(branch: Any) -> bool:
    """By uproot, which gives too many values for the bits of objects that others refer to."""
    try:
        values = branch.array()
        collection, _, leaf = branch.name.rpartition("/")[2].rpartition(".")
        if leaf == "fBits" and (size := f"{collection}_size") in branch.tree:
            return bool(ak.all(ak.num(values) == branch.tree[size].array()))
    except Exception:
        return False
    return True


@each(files=REAL + EMPTY)
def test_every_branch_of_real_files_is_what_uproot_reads(real: RealFile) -> None:
    path, tree = real.path, real.tree
    with RootFile(str(path), tree) as file, uproot.open(path) as plain:
        assert tree in known_trees(str(path))
        assert file.entries == plain[tree].num_entries
        assert file.uuid == str(plain.file.uuid)
        assert file.size == path.stat().st_size
        branches = plain_branches(path, tree)
        assert list(file.branches) == list(branches)
        usable = [n for n, b in file.branches.items() if b.kind in ("flat", "jagged", "string")]
        readable = [name for name in usable if can_be_read(branches[name])]
        assert readable
        events = file.read(readable)
        for unreadable in set(usable) - set(readable):
            with pytest.raises(DataError, match=unreadable):
                file.read([unreadable])
    for branch, values in events.items():
        assert_same(values, path, tree, branch, 0, file.entries)


@each("zmumu")
def test_a_text_in_a_real_file(real: RealFile) -> None:
    with RootFile(str(real.path), "events") as file:
        assert file.branches["Type"].kind == "string"
        assert file.branches["E1"].kind == "flat"
        assert set(file.read(["Type"])["Type"]) == {"GT", "GG", "TT"}


@each("nanoaod")
def test_kinds_of_branches_in_real_files(real: RealFile) -> None:
    with RootFile(str(real.path), "Events") as file:
        kinds = {b.type: b.kind for b in file.branches.values()}
    assert kinds["uint64_t"] == kinds["bool"] == kinds["uint8_t"] == "flat"
    assert kinds["bool[]"] == kinds["float[]"] == kinds["uint8_t[]"] == "jagged"


def test_what_root_writes_and_uproot_cannot() -> None:
    """Every type of number is read; objects, texts and lists of lists aren't."""
    with RootFile(str(written() / "kinds.root"), "kinds") as file:
        kinds = {name: branch.kind for name, branch in file.branches.items()}
    prefixes = {"flat": "flat_", "jagged": ("three_", "list_")}
    for kind, prefix in prefixes.items():
        found = {name: k for name, k in kinds.items() if name.startswith(prefix)}
        assert set(found.values()) == {kind}, found
        assert len(found) >= 13
    assert kinds["label"] == kinds["name"] == "string"
    assert kinds["ranged"] == "flat"
    members = {f"p4.{name}" for name in ("fP.fX", "fP.fY", "fP.fZ", "fE")}
    members |= {f"point.{name}" for name in ("fX", "fY", "fZ")}
    assert {name for name in kinds if name.startswith(("p4", "point"))} == members
    assert {kinds[name] for name in members} == {"flat"}
    assert {kinds[name] for name in ("nested", "pair")} == {"unsupported"}


def test_part_of_the_events(small_files: list[Path]) -> None:
    branches = ["x", "Jet_pt", "Jet_eta"]
    with RootFile(str(small_files[0]), "events") as file:
        for start, stop in ((0, 700), (150, 151), (199, 201), (350, 350), (650, 700)):
            for branch, values in file.read(branches, start, stop).items():
                assert_same(values, small_files[0], "events", branch, start, stop)
        assert len(file.read(["x"], 690, 9999)["x"]) == 10
        assert len(file.read(["Jet_pt"], 9999)["Jet_pt"]) == 0


def test_what_was_read_outlives_the_file(small_files: list[Path]) -> None:
    with RootFile(str(small_files[0]), "events") as file:
        events = file.read(["x", "Jet_pt"])
    assert_same(events["Jet_pt"], small_files[0], "events", "Jet_pt", 0, 700)


def test_trees_in_folders_and_their_newest_cycle(tmp_path: Path) -> None:
    path = tmp_path / "folders: and a colon.root"
    with uproot.recreate(path) as file:
        for tree, events in (("boostedAk8/events", 3), ("other", 2), ("boostedAk8/events", 5)):
            file.mktree(tree, {"x": np.float64}).extend({"x": np.arange(float(events))})
        file["histogram"] = np.histogram([1, 2, 3])
        assert {"boostedAk8/events;1", "boostedAk8/events;2"} <= set(file.keys())
    assert sorted(known_trees(str(path))) == ["boostedAk8/events", "other"]
    with RootFile(str(path), "boostedAk8/events") as root:
        assert root.read(["x"])["x"].tolist() == [0, 1, 2, 3, 4]
    for name, tree, entries in (("", "", 5), (";2", "", 5), (";1", ";1", 3)):
        with RootFile(str(path), f"boostedAk8/events{name}") as root:
            assert (root.record.tree, root.entries) == (f"boostedAk8/events{tree}", entries)
    with pytest.raises(DataError, match="no tree 'boostedAK8/event'") as error:
        RootFile(str(path), "boostedAK8/event")
    assert "'boostedAk8/events'" in error.value.remedy
    with pytest.raises(DataError, match="'histogram' is a TH1D, not a tree"):
        RootFile(str(path), "histogram")


def test_fixed_size_arrays_are_lists_of_one_length(tmp_path: Path) -> None:
    path = tmp_path / "fixed.root"
    values = np.arange(24, dtype=np.int32).reshape(4, 2, 3)
    write_tree(path, "t", {"a": values, "b": values[:, 0].astype(np.float64)})
    with RootFile(str(path), "t") as root:
        assert {b.kind for b in root.branches.values()} == {"jagged"}
        events = root.read(["a", "b"], 1, 3)
    a, b = events["a"], events["b"]
    assert isinstance(a, Jagged)
    assert isinstance(b, Jagged)
    assert a.counts.tolist() == [6, 6]
    assert a.content[a.offsets[0] : a.offsets[-1]].tolist() == values[1:3].ravel().tolist()
    assert b.counts.tolist() == [3, 3]


def test_a_list_branch_that_is_always_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty_lists.root"
    nothing = ak.unflatten(np.empty(0, np.float32), [0, 0, 0])
    write_tree(path, "t", {"x": np.arange(3.0), "void": nothing})
    with RootFile(str(path), "t") as root:
        void = root.read(["void"])["void"]
    assert isinstance(void, Jagged)
    assert void.counts.tolist() == [0, 0, 0]
    assert void.content.dtype == np.float32


def test_a_tree_without_events(tmp_path: Path) -> None:
    path = tmp_path / "no_events.root"
    no_lists = ak.unflatten(np.empty(0, np.int32), np.empty(0, np.int64))
    write_tree(path, "t", {"x": np.empty(0, np.float32), "y": no_lists})
    with RootFile(str(path), "t") as root:
        assert root.entries == 0
        events = root.read(["x", "y"])
    assert events["x"].dtype == np.float32
    assert len(events["y"]) == 0


def test_branches_that_do_not_exist(small_files: list[Path]) -> None:
    name = str(small_files[0])
    with RootFile(name, "events") as file:
        with pytest.raises(DataError, match="no branch 'jet_pt' in the tree events") as error:
            file.read(["jet_pt"])
        assert str(small_files[0]) in error.value.message
        assert "'Jet_pt'" in error.value.remedy


def test_files_that_are_none(tmp_path: Path, small_files: list[Path]) -> None:
    none, empty, text = (tmp_path / name for name in ("none.root", "empty.root", "text.root"))
    empty.touch()
    text.write_text("runs,events\n1,2\n" * 100)
    for path, said in (
        (none, "no such file"),
        (empty, "is empty: 0 bytes"),
        (text, "is not a ROOT file: it starts with .*, not .root"),
        (tmp_path, "is a folder\n.*Name ROOT files"),
        (small_files[0] / "x.root", "Not a directory"),
    ):
        with pytest.raises(DataError, match=said) as error:
            RootFile(str(path), "events")
        assert str(path) in error.value.message
        assert error.value.remedy


def test_file_addresses_and_names_that_are_no_files(small_files: list[Path]) -> None:
    for name in (f"file:{small_files[0]}", f"file://{small_files[0]}"):
        with RootFile(name, "events") as file:
            assert file.name == str(small_files[0])
    with RootFile(f"{small_files[0]}:events", "Events") as file:
        assert (file.name, file.tree) == (f"{small_files[0]}:events", "events")
        assert_same(file.read(["Jet_pt"])["Jet_pt"], small_files[0], "events", "Jet_pt", 0, 700)
    with pytest.raises(DataError, match="wildcards are not expanded"):
        RootFile(str(small_files[0].parent / "*.root"), "events")


def test_another_name_of_the_tree(small_files: list[Path]) -> None:
    with pytest.raises(DataError, match=r"a\.root: no tree 'events_nominal'") as error:
        RootFile(str(small_files[0]), "events_nominal")
    assert "'events'" in error.value.remedy
    assert "`branch` in params.json" in error.value.remedy
    assert "FILE:TREE" in error.value.remedy


def test_a_colon_in_the_name_of_a_file(small_files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a.root:events"
    path.symlink_to(small_files[0])
    with RootFile(str(path), "events") as file:
        assert file.tree == "events"
    with pytest.raises(DataError, match="no tree 'other'"):
        RootFile(str(path), "other")
