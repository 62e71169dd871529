from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from mlaas4hep.core.errors import DataError, UsageError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selected, Selection, select
from real.files import RealFile, each
from sources.plain import plain_tree, write_tree

NO_IDENTIFIER = Selection("events", identifier=())


def chosen(files: list[Path], selection: Selection) -> Selected:
    with ExitStack() as stack:
        return select(
            [stack.enter_context(RootFile(str(f), selection.tree)) for f in files], selection
        )


def test_all_branches_but_the_identifier(small_files: list[Path]) -> None:
    flat, jagged = chosen(small_files, Selection("events"))
    assert flat == ["n", "nJet", "x", "y"]
    assert jagged == ["Jet_eta", "Jet_id", "Jet_pt"]
    assert "run" in chosen(small_files, NO_IDENTIFIER).flat


@pytest.mark.parametrize(
    ("selected", "exclude", "names"),
    [
        (("x", "Jet_pt"), (), ["x", "Jet_pt"]),
        (("Jet_*",), (), ["Jet_eta", "Jet_id", "Jet_pt"]),
        (("[xy]", "Jet_?t?"), (), ["x", "y", "Jet_eta"]),
        ((), ("Jet_*", "n*"), ["x", "y"]),
        ((), ("nJet",), ["n", "x", "y", "Jet_eta", "Jet_id", "Jet_pt"]),
        (("Jet_*",), ("Jet_eta",), ["Jet_id", "Jet_pt"]),
        (("x", "Jet_*"), ("Jet_p*",), ["x", "Jet_eta", "Jet_id"]),
        (("Jet_pt", "Jet_*"), ("Jet_*t*",), ["Jet_id", "Jet_pt"]),
    ],
)
def test_names_and_wildcards(
    small_files: list[Path], selected: tuple[str, ...], exclude: tuple[str, ...], names: list[str]
) -> None:
    selection = Selection("events", selected_branches=selected, exclude_branches=exclude)
    found = chosen(small_files, selection)
    assert [*found.flat, *found.jagged] == names


@each("nanoaod")
def test_nanoaod_by_name_and_wildcard(real: RealFile) -> None:
    selection = Selection(selected_branches=("MET_pt", "Jet_p*", "HLT_IsoMu2?"))
    found = chosen([real.path], selection)
    every = plain_tree(real.path, "Events").keys()
    triggers = [k for k in every if k.startswith("HLT_IsoMu2") and len(k) == len("HLT_IsoMu2x")]
    assert found.flat == sorted(["MET_pt", *triggers])
    assert found.jagged == sorted(k for k in every if k.startswith("Jet_p"))


@each("zmumu")
def test_the_label_branch_is_no_feature(real: RealFile) -> None:
    path = real.path
    found = chosen([path], Selection("events", label_branch="Q1"))
    assert "Q1" not in found.flat
    for label, said in (("Tpye", "no branch 'Tpye'"), ("q1", "no branch 'q1'")):
        with pytest.raises(UsageError, match=f"{real.name}: {said}") as error:
            chosen([path], Selection("events", label_branch=label))
        assert "Did you mean" in error.value.remedy


@each("hzz")
def test_labels_come_from_no_list(real: RealFile) -> None:
    with pytest.raises(UsageError, match="labels can't be taken from Jet_Px, which is jagged"):
        chosen([real.path], Selection("events", label_branch="Jet_Px"))


@each("atlas")
def test_lists_of_lists_are_refused_with_the_way_out(real: RealFile) -> None:
    with pytest.raises(UsageError, match=r"jet_tracks of .* neither numbers nor lists") as error:
        chosen([real.path], Selection("nominal", selected_branches=("jet_tracks",)))
    assert "ak.flatten" in error.value.remedy
    with pytest.raises(UsageError, match="mu_names") as error:
        chosen([real.path], Selection("nominal", selected_branches=("mu_names",)))
    assert "ak.flatten" not in error.value.remedy


@each("delphes")
def test_the_parent_of_a_split_branch_is_said_to_be_that(real: RealFile) -> None:
    """uproot gives its type as that of the number of its objects, int32_t."""
    found = chosen([real.path], Selection("Delphes"))
    parts = "of type TClonesArray, whose parts are branches of their own: neither numbers nor lists"
    assert found.left_out["Jet"].startswith(parts)
    assert not any("int32_t" in reason for reason in found.left_out.values())
    with pytest.raises(UsageError, match=f"the branch Jet of .* is {parts}"):
        chosen([real.path], Selection("Delphes", selected_branches=("Jet",)))


@each("zmumu")
def test_a_text_is_left_out_and_refused_by_name(real: RealFile) -> None:
    path = real.path
    found = chosen([path], Selection("events"))
    assert list(found.left_out) == ["Type"]
    assert "char*" in found.left_out["Type"]
    assert chosen([path], Selection("events", selected_branches=("[TE]*",))).left_out
    with pytest.raises(
        UsageError, match=f"selected_branches: the branch Type of .*{real.name}.* char"
    ):
        chosen([path], Selection("events", selected_branches=("E1", "Type")))


@pytest.mark.parametrize("key", ["selected_branches", "exclude_branches"])
@pytest.mark.parametrize(
    ("name", "near"), [("jet_pt", "'Jet_pt'"), ("Jets_*", "'Jet_"), ("zzz", "There are: 'run'")]
)
def test_unknown_names_are_errors_with_the_nearest(
    small_files: list[Path], key: str, name: str, near: str
) -> None:
    with pytest.raises(UsageError, match=f"{key}: no branch '{name[:4]}") as error:
        chosen(small_files[:1], Selection("events", **{key: (name,)}))  # type: ignore[arg-type]
    assert str(small_files[0]) in error.value.message
    assert near in error.value.remedy


def test_a_selection_of_nothing(small_files: list[Path]) -> None:
    with pytest.raises(DataError, match="no branch is left"):
        chosen(small_files, Selection("events", exclude_branches=("*",)))


@pytest.fixture
def differing(tmp_path: Path) -> list[Path]:
    lists = np.arange(6, dtype=np.float64).reshape(3, 2)
    a, b = np.arange(3.0), np.arange(3, dtype=np.int32)
    return [
        write_tree(tmp_path / "one.root", "events", {"a": a, "b": b, "kind": a, "more": a}),
        write_tree(tmp_path / "two.root", "events", {"a": b, "b": a, "kind": lists}),
    ]


def test_files_whose_branches_differ(differing: list[Path]) -> None:
    with pytest.raises(DataError, match="the files' branches differ") as error:
        chosen(differing, NO_IDENTIFIER)
    message = error.value.message
    assert f"more is not in {differing[1]}" in message
    assert f"kind is flat (double) in {differing[0]}, jagged (double[2]) in" in message
    assert message.endswith("They share 2 of 4")
    assert '"branches": "common"' in error.value.remedy

    common = chosen(differing, Selection("events", branches="common"))
    assert (common.flat, common.jagged) == (["a", "b"], [])
    assert set(common.left_out) == {"kind", "more"}


def test_files_may_differ_in_what_is_not_used(differing: list[Path]) -> None:
    assert chosen(differing, Selection("events", selected_branches=("a",))).flat == ["a"]
    assert chosen(differing[::-1], Selection("events", exclude_branches=("kind", "more"))).flat == [
        "a",
        "b",
    ]
    with pytest.raises(DataError, match="differ: more is not in"):
        chosen(differing, Selection("events", selected_branches=("a", "more")))


def test_more_than_ten_differences_are_counted(tmp_path: Path) -> None:
    x = np.arange(2.0)
    files = [
        write_tree(tmp_path / "one.root", "events", {"x": x} | {f"b{i}": x for i in range(14)}),
        write_tree(tmp_path / "two.root", "events", {"x": x}),
    ]
    with pytest.raises(DataError, match=r"; and 4 more\. They share 1 of 15: are they"):
        chosen(files, NO_IDENTIFIER)


def test_selected_and_excluded_by_the_same_name(small_files: list[Path]) -> None:
    selection = Selection("events", selected_branches=("x", "Jet_*"), exclude_branches=("x",))
    with pytest.raises(UsageError, match="x: in selected_branches and in exclude_branches"):
        chosen(small_files, selection)


@pytest.mark.parametrize(
    ("selected", "exclude", "idle"),
    [
        (("x",), ("Jet_*",), ["Jet_*"]),
        (("Jet_*",), ("Jet_pt", "n*"), ["n*"]),
        (("Jet_pt",), ("Jet_p*",), ["Jet_p*"]),
        (("x",), ("run",), []),
        ((), ("Jet_*",), []),
    ],
)
def test_an_exclusion_that_leaves_nothing_out_is_a_warning(
    small_files: list[Path], selected: tuple[str, ...], exclude: tuple[str, ...], idle: list[str]
) -> None:
    selection = Selection("events", selected_branches=selected, exclude_branches=exclude)
    found = chosen(small_files, selection).warnings
    assert [warning.split("'")[1] for warning in found] == idle


def test_an_identifier_that_no_file_has(small_files: list[Path]) -> None:
    with pytest.raises(UsageError, match="identifier: no branch 'rum'") as error:
        chosen(small_files, Selection("events", identifier=("x", "rum")))
    assert "'run'" in error.value.remedy
    assert "x" not in chosen(small_files, Selection("events", identifier=("x", "r*"))).flat
    assert chosen(small_files, Selection("events", identifier=("event", "run", "x"))).flat


def test_all_that_cannot_be_used_is_named_with_its_type(tmp_path: Path) -> None:
    texts = ak.Array(["a", "b"])
    path = write_tree(tmp_path / "t.root", "t", {f"text{i:02d}": texts for i in range(30)})
    with pytest.raises(DataError, match=r"no branch is left .*text00, .*text29 \(of type") as error:
        chosen([path], Selection("t"))
    assert "Loosen" not in error.value.remedy


def test_arrays_of_different_lengths(tmp_path: Path) -> None:
    def file(name: str, values: np.ndarray | ak.Array) -> Path:
        return write_tree(tmp_path / name, "t", {"x": values, "y": np.arange(2.0)})

    three, four = file("three.root", np.zeros((2, 3))), file("four.root", np.zeros((2, 4)))
    lists = file("lists.root", ak.unflatten(np.zeros(4), [1, 3]))
    with pytest.raises(DataError, match=r"x holds 3 values .*three\.root, 4 values .*four\.root"):
        chosen([three, four], Selection("t"))
    with pytest.raises(DataError, match=r"x holds 3 values .*, any number of values"):
        chosen([three, lists], Selection("t", selected_branches=("x",)))
    common = chosen([three, four], Selection("t", branches="common"))
    assert (common.flat, common.jagged) == (["y"], [])


def test_whole_and_real_numbers_are_merged_with_a_warning(tmp_path: Path) -> None:
    files = [
        write_tree(tmp_path / "i.root", "t", {"x": np.arange(2), "y": np.arange(2)}),
        write_tree(tmp_path / "f.root", "t", {"x": np.arange(2.0), "y": np.arange(2)}),
    ]
    found = chosen(files, Selection("t"))
    assert found.flat == ["x", "y"]
    [warning] = found.warnings
    assert "x is int64_t in" in warning
    assert "double in" in warning
