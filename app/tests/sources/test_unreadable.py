"""Branches that are whole in the file, but that uproot can't read."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Specs
from mlaas4hep.sources.columns import UnreadableError
from mlaas4hep.sources.inspect import describe
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection
from real.files import REAL, RealFile, each
from sources.plain import plain_branches

DELPHES = [file for file in REAL if file.tree == "Delphes"]
REFERENCED = {"Particle", "Track", "EFlowTrack", "EFlowPhoton", "EFlowNeutralHadron"}
"""Collections of Delphes' objects, to some of which others refer."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A file in which texts are said to be 4-byte numbers: ``one`` fails at once, ``later`` later.

    ``x`` and ``good`` are as they should be.
    """
    path = tmp_path / "odd.root"
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        for start, text in ((0, "abc"), (100, "abcdef")):  # 4 bytes with their length, then 7
            chunk = {
                "x": np.arange(start, start + 101.0),
                "one": ak.Array(["a"] * 101),
                "good": ak.unflatten(np.ones(101 * 3, np.float32), np.full(101, 3)),
                "later": ak.Array([text] * 101),
            }
            if not start:
                file.mktree("t", {k: ak.Array(v).type.content for k, v in chunk.items()})
            file["t"].extend(chunk)
    whole = path.read_bytes()
    text_leaf, number = b"\xff\xff\xff\xffTLeafC\0", b"\xff\xff\xff\xffTLeafI\0"
    assert whole.count(text_leaf) == 2
    path.write_bytes(whole.replace(text_leaf, number))
    return path


def scanned(path: Path, selection: Selection) -> Specs:
    with ExitStack() as stack:
        return scan([stack.enter_context(RootFile(str(path), selection.tree))], selection)


def test_they_are_left_out_of_the_specs_with_the_reason(odd: Path) -> None:
    specs = scanned(odd, Selection("t"))
    assert [*specs.flat, *specs.jagged] == ["ngood", "x", "good"]
    assert (specs.minv["x"], specs.maxv["x"], specs.scanned) == (0, 200, 202)
    assert set(specs.left_out) == {"one", "later"}
    assert "int32_t" in specs.left_out["one"]
    assert "uproot can't read it" in specs.left_out["later"]
    [warning] = specs.warnings
    assert warning.startswith("2 branches can't be used:")


@pytest.mark.parametrize("name", ["one", "later"])
def test_one_that_is_named_is_an_error_and_no_damage(odd: Path, name: str) -> None:
    with pytest.raises(
        DataError, match=rf"odd\.root: uproot can't read the branch {name} \(of ty"
    ) as e:
        scanned(odd, Selection("t", selected_branches=("x", name)))
    assert "exclude_branches" in e.value.remedy
    assert "damaged" not in str(e.value)


def test_nothing_else_is_left(odd: Path) -> None:
    with pytest.raises(
        DataError, match=r"no branch is left .* one \(uproot can't read it: of type"
    ):
        scanned(odd, Selection("t", selected_branches=("on*",)))


def test_all_of_one_window_are_named(odd: Path) -> None:
    with RootFile(str(odd), "t") as file, pytest.raises(UnreadableError) as error:
        file.read(["one", "x", "later"])
    assert set(error.value.branches) == {"one", "later"}


def test_inspect_marks_them_and_goes_on(odd: Path) -> None:
    [tree] = describe(str(odd))
    found = {branch.name: branch for branch in tree.branches}
    assert (found["x"].low, found["x"].high) == (0, 200)
    assert found["good"].multiplicity == (3, 3, 3)
    for name in ("one", "later"):
        assert found[name].kind == "unreadable"
        assert "can't be read: of type int32_t" in found[name].type


@each(files=DELPHES)
def test_delphes_bits_of_referenced_objects(real: RealFile) -> None:
    """They have 6 bytes, not 4: read as if they had 4 there are too many of them."""
    path = real.path
    [tree] = describe(str(path), "Delphes")
    unreadable = {b.name for b in tree.branches if b.kind == "unreadable"}
    referenced = {n for n in REFERENCED if f"{n}/{n}.fBits" in {b.name for b in tree.branches}}
    assert "Particle" in referenced
    assert unreadable == {f"{name}/{name}.fBits" for name in referenced}
    with uproot.open(path) as file:
        plain = file["Delphes"]
        values_of = plain_branches(path, "Delphes")
        for branch in tree.branches:
            if branch.kind in ("flat", "jagged"):
                values = values_of[branch.name].array()
                assert branch.low == ak.min(values, axis=None), branch.name
                assert branch.high == ak.max(values, axis=None), branch.name
        for name in referenced - {"Particle"}:
            bits = plain[f"{name}/{name}.fBits"].array()
            assert ak.all(ak.num(bits) > plain[f"{name}_size"].array())


@each(files=DELPHES)
def test_delphes_is_scanned_without_them(real: RealFile) -> None:
    selection = Selection("Delphes", selected_branches=("Jet/*", "Particle/*"))
    specs = scanned(real.path, selection)
    assert "Jet/Jet.PT" in specs.jagged
    assert "Particle/Particle.fBits" in specs.left_out
    assert any({"Jet/Jet.PT", "Jet/Jet.Eta"} <= set(group) for group in specs.collections)
    exact = Selection("Delphes", selected_branches=("Particle/Particle.fBits",))
    with pytest.raises(DataError, match=r"can't read the branch Particle/Particle\.fBits"):
        scanned(real.path, exact)
