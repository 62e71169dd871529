from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.inspect import BranchReport, describe
from real.files import WRITTEN, RealFile, each
from sources.plain import plain_tree, write_tree


@each("hzz")
def test_a_real_file(real: RealFile) -> None:
    path = real.path
    [tree] = describe(str(path))
    assert (tree.name, tree.entries) == ("events", plain_tree(path, "events").num_entries)
    plain = plain_tree(path, "events")
    assert [b.name for b in tree.branches] == plain.keys()
    for branch in tree.branches:
        values = plain[branch.name].array()
        assert branch.low == float(ak.min(values))
        assert branch.high == float(ak.max(values))
        assert branch.type == plain[branch.name].typename
        if branch.kind == "jagged":
            counts = ak.to_numpy(ak.num(values))
            assert branch.multiplicity == (counts.min(), pytest.approx(counts.mean()), counts.max())
        else:
            assert branch.multiplicity is None


# Delphes has a branch that uproot can't read: test_scan leaves it out and looks at the rest.
@each(files=[file for file in WRITTEN if file.tree != "Delphes"])
def test_ranges_and_lengths_are_what_root_itself_finds(real: RealFile) -> None:
    [tree] = describe(str(real.path), real.tree)
    opinion = real.opinion()
    numbers = [b for b in tree.branches if b.low is not None]
    assert len(numbers) >= len(opinion) - 4  # all but texts, pairs and what is NaN everywhere
    for branch in numbers:
        if branch.name.endswith((".fE", ".fX", ".fY", ".fZ")):  # no columns of RDataFrame
            continue
        root = opinion[branch.name.rpartition("/")[2]]
        assert (branch.low, branch.high) == (root["low"], root["high"]), branch
        if branch.multiplicity is not None:
            mean = pytest.approx(root["values"] / tree.entries)
            assert branch.multiplicity == (root["least"], mean, root["most"]), branch


@each("zmumu")
def test_a_text_branch_has_no_range(real: RealFile) -> None:
    [tree] = describe(str(real.path), "events")
    assert tree.branches[0] == BranchReport("Type", "string", "char*")
    assert tree.branches[0].cells() == ("Type", "string", "char*", "", "", "", "")


def test_cells_as_a_table_shows_them(tmp_path: Path) -> None:
    lists = ak.unflatten(np.array([1.5, np.nan, 2.5], np.float32), [0, 2, 1])
    path = write_tree(tmp_path / "a.root", "t", {"y": lists, "x": np.array([1, 2, 4])})
    [tree] = describe(str(path), "t")
    assert [b.cells() for b in tree.branches] == [
        ("ny", "flat", "int32_t", "0", "2", "", ""),
        ("y", "jagged", "float[]", "1.5", "2.5", "0 / 1 / 2", "1"),
        ("x", "flat", "int64_t", "1", "4", "", ""),
    ]


def test_numbers_that_identify_are_shown_whole(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", "t", {"event": np.array([-1, 227291001])})
    assert describe(str(path))[0].branches[0].cells()[3:5] == ("-1", "227291001")


def test_all_trees_or_one(tmp_path: Path) -> None:
    path = tmp_path / "two.root"
    with uproot.recreate(path) as file:
        for name, events in (("a", 2), ("folder/b", 0)):
            file.mktree(name, {"x": np.float64}).extend({"x": np.arange(float(events))})
    assert [(t.name, t.entries) for t in describe(str(path))] == [("a", 2), ("folder/b", 0)]
    assert describe(str(path))[1].branches == [BranchReport("x", "flat", "double")]
    assert [t.name for t in describe(str(path), "a")] == ["a"]
    with pytest.raises(DataError, match="no tree 'c'"):
        describe(str(path), "c")


def test_a_file_without_trees(tmp_path: Path) -> None:
    path = tmp_path / "histogram.root"
    with uproot.recreate(path) as file:
        file["h"] = np.histogram([1, 2, 3])
    with pytest.raises(DataError, match=r"histogram\.root holds no tree"):
        describe(str(path))


def test_an_rntuple_beside_a_tree(tmp_path: Path) -> None:
    path = tmp_path / "both.root"
    lists = ak.unflatten(np.array([1.5, np.nan, 2.5], np.float32), [0, 2, 1])
    with uproot.recreate(path) as file:
        file.mktree("old", {"x": "float64"}).extend({"x": np.arange(4.0)})
        file.mkrntuple("new", {"y": lists, "n": np.array([3, 1, 2], np.int8)})
    old, new = describe(str(path))
    assert (old.name, old.entries, new.name, new.entries) == ("old", 4, "new", 3)
    assert [b.cells() for b in new.branches] == [
        ("n", "flat", "std::int8_t", "1", "3", "", ""),
        ("y", "jagged", "std::vector<float>", "1.5", "2.5", "0 / 1 / 2", "1"),
    ]
    assert describe(f"{path}:new") == [new]
