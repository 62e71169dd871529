from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.library import NumPy
from uproot.interpretation.numerical import AsDtype
from uproot.models.TBasket import Model_TBasket

from mlaas4hep.core.errors import UsageError
from mlaas4hep.data import Branch, Jagged
from mlaas4hep.sources.columns import NotUnderstoodError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selection, select
from mlaas4hep.sources.ttree import BranchColumn, layout
from real.files import RealFile, each, written
from sources.plain import assert_same, write_tree


def test_numbers_in_stl_vectors(tmp_path: Path) -> None:
    """In a basket a std::vector<float> is 10 bytes of header and its values, big-endian."""
    vectors = [[1.5, -2.0], [], [3.25], [4.0, 5.0, 6.0]]
    path = tmp_path / "vector.root"
    bytes_on_disk = [[*([0] * 9), len(v), *np.array(v, ">f4").tobytes()] for v in vectors]
    write_tree(path, "t", {"v": ak.values_astype(ak.Array(bytes_on_disk), np.uint8)})
    with uproot.open(path) as file:
        branch = file["t"]["v"]
        branch._interpretation = AsJagged(AsDtype(">f4"), header_bytes=10)
        assert branch.array().tolist() == vectors
        column = BranchColumn(branch)
        assert (column.layout.kind, column.layout.dtype) == ("jagged", np.dtype(np.float32))
        column.start_at(0)
        [(number, [place])] = column.baskets_before(4)
        column.extend([column.decode(number, [file.file.source.chunk(*place)])], 0, {})
    assert column.offsets is not None
    assert np.diff(column.offsets).tolist() == [2, 0, 1, 3]
    assert column.content.tolist() == [x for v in vectors for x in v]


@pytest.mark.parametrize(
    ("interpretation", "kind"),
    [
        (AsDtype(">f8"), "flat"),
        (AsDtype("?"), "flat"),
        (AsDtype(np.dtype((">i4", (3,)))), "jagged"),
        (AsDtype([("a", ">i4"), ("b", ">f4")]), "unsupported"),
        (AsJagged(AsDtype(">i8")), "jagged"),
        (AsJagged(AsDtype(np.dtype((">f4", (3,))))), "unsupported"),
        (AsJagged(AsDtype([("a", ">i4")])), "unsupported"),
        (uproot.AsStrings(), "string"),
        (uproot.AsObjects(uproot.AsVector(True, uproot.AsVector(False, ">f4"))), "unsupported"),
        (uproot.AsObjects(uproot.AsString(True)), "unsupported"),
        (ValueError("unknown"), "unsupported"),
    ],
)
def test_kinds_by_interpretation(
    small_files: list[Path], interpretation: object, kind: str
) -> None:
    with uproot.open(small_files[0]) as file:
        branch = file["events"]["x"]
        branch._interpretation = interpretation
        assert layout(branch).kind == kind


@each("hzz")
def test_lists_written_without_offsets_are_counted_by_their_counter(
    real: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some CMS files have no offsets in their baskets (ROOT's IO feature kGenerateOffsetMap)."""
    path = real.path
    monkeypatch.setattr(Model_TBasket, "byte_offsets", property(lambda self: None))
    with RootFile(str(path), "events") as file:
        events = file.read(["Jet_Px", "Muon_Charge", "Muon_Px"], 5, 2300)
    monkeypatch.undo()
    for branch, lists in events.items():
        assert isinstance(lists, Jagged)
        assert_same(lists, path, "events", branch, 5, 2300)


def test_objects_of_another_size_are_not_taken_apart() -> None:
    """As a referenced one has two bytes more; what uproot reads then is shifted."""
    with uproot.open(written() / "kinds.root") as file:
        branch = file["kinds/p4"]
        column, basket = BranchColumn(branch, "fE"), branch.basket(0)
        objects = branch.interpretation.basket_array(
            basket.data, basket.byte_offsets, basket, branch, {}, 0, NumPy(), {}
        )
    assert (column._members_of(objects) > 0).all()
    damaged = np.array(objects)
    damaged.view(np.uint8)[3 + 5 * damaged.dtype.itemsize] += 2
    with pytest.raises(NotUnderstoodError, match="different sizes, as some are referenced"):
        column._members_of(damaged)


def test_a_bitset_is_a_list_of_its_bits() -> None:
    """In a TTree, as in an RNTuple; the lowest bit is the first."""
    path = written() / "bitsets.root"
    with RootFile(str(path), "bits") as file:
        infos = file.branches
        kinds = {name: (info.kind, info.fixed) for name, info in infos.items()}
        assert kinds["few"] == kinds["part/hits"] == ("jagged", 12)
        assert kinds["many"] == ("jagged", 70)
        assert kinds["lists"] == ("unsupported", 0)
        whole, some = file.read(["few", "many", "part/hits"]), file.read(["many"], 35, 90)
        with pytest.raises(
            UsageError, match=r"lists of .* is of type std::vector<std::bitset"
        ) as error:
            select([file], Selection("bits", selected_branches=("few", "lists")))
        assert "to_ulong()" in error.value.remedy
    expected = {
        "few": [entry * 37 % 2**12 for entry in range(300)],
        "part/hits": [entry * 37 % 2**12 for entry in range(300)],
        "many": [(entry * 1000003 | entry << 60) % 2**70 for entry in range(300)],
    }
    for name, wanted in expected.items():
        assert numbers_of(whole[name], infos[name].fixed) == wanted
    assert numbers_of(some["many"], 70) == expected["many"][35:90]


def numbers_of(values: Branch, bits: int) -> list[int]:
    assert isinstance(values, Jagged)
    assert values.content.dtype == bool
    flat = values.content[values.offsets[0] : values.offsets[-1]].reshape(-1, bits)
    return [sum(1 << at for at in np.flatnonzero(row).tolist()) for row in flat]


def test_a_bitset_that_is_stored_otherwise_is_not_understood() -> None:
    """The number of bits stands before those of each event."""
    with uproot.open(written() / "bitsets.root") as file:
        branch = file["bits/few"]
        column, basket = BranchColumn(branch), branch.basket(0)
    stored = np.array(basket.data[: 22 * 40]).reshape(40, 22)
    for at, value in ((9, 13), (10, 2)):
        damaged = stored.copy()
        damaged[7, at] = value
        with pytest.raises(NotUnderstoodError, match="other than 12 bits, a byte each"):
            column._bits_of(damaged.view(column._interpretation.from_dtype).reshape(-1))
