from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, MlaasError, UsageError
from mlaas4hep.sources.filelist import FileList, Listed
from mlaas4hep.training.library import open_data
from training.root_files import content, two, write
from training.tasks import prepared, streamed


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [
        (["10", "9"], ["9", "10"], [1, 0]),
        (["1", "-1"], ["-1", "1"], [1, 0]),
        (["sig", "bkg"], ["bkg", "sig"], [1, 0]),
        (["01", "2"], ["1", "2"], [0, 1]),
        (["1", "b"], ["1", "b"], [0, 1]),
        (["+2", "01"], ["1", "2"], [1, 0]),
        # What int() takes too, but nobody would write for a number, are names.
        (["1_0", "10"], ["10", "1_0"], [1, 0]),
        (["１", "1"], ["1", "１"], [1, 0]),
        ([" 2", "2"], [" 2", "2"], [0, 1]),
    ],
)
def test_labels_per_file(
    tmp_path: Path, stack: ExitStack, labels: list[str], names: list[str], classes: list[int]
) -> None:
    found = prepared(stack, two(tmp_path), labels).labels
    assert (found.names, found.per_file, found.branch) == (names, classes, None)


@pytest.mark.parametrize("labels", [["01", "1"], ["+1", "1"], ["-0", "0"]])
def test_a_number_that_is_written_in_two_ways(
    tmp_path: Path, stack: ExitStack, labels: list[str]
) -> None:
    with pytest.raises(UsageError, match=r"'[-+0]*\d' and '\d' are the same number, \d"):
        prepared(stack, two(tmp_path), labels)


@pytest.mark.parametrize(
    "labels",
    [["*ackg*=bkg", "signal.root=sig"], ["*/background.root=bkg", "s*=sig", "*gnal*=sig"]],
)
def test_labels_by_pattern(tmp_path: Path, stack: ExitStack, labels: list[str]) -> None:
    found = prepared(stack, two(tmp_path), labels).labels
    assert (found.names, found.per_file) == (["bkg", "sig"], [0, 1])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["back*=0", "sig*=1", "data*=1"], "'data\\*' matches no file"),
        (["back*=0", "*.root=1"], "background.root gets the labels '0' and '1'"),
        (["back*=0", "*background.root=0"], "signal.root gets no label"),
    ],
)
def test_patterns_give_each_file_one_label(
    tmp_path: Path, stack: ExitStack, labels: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        prepared(stack, two(tmp_path), labels)


def fileset(folder: Path, *datasets: str) -> FileList:
    """The two files, each of the dataset of that name."""
    files = zip(two(folder), datasets, strict=False)
    return FileList([Listed(str(file), dataset=dataset) for file, dataset in files])


@pytest.mark.parametrize(
    ("labels", "classes", "per_file"),
    [
        ("", ["/DY=50/NANO", "TT"], [1, 0]),
        ("TT=s,/DY*=b", ["b", "s"], [1, 0]),
        ("*signal*=s,TT=b", ["b", "s"], [0, 1]),
        ("kind", ["-1", "0", "1"], []),
        ("1,0", ["0", "1"], [1, 0]),
    ],
)
def test_datasets_are_labels(
    tmp_path: Path, labels: str, classes: list[str], per_file: list[int]
) -> None:
    files = fileset(tmp_path, "TT", "/DY=50/NANO")
    weights = {"files": {"/DY*/NANO": 3, "background.root": 2}}
    params = {"selected_branches": ["met", "jet_pt"], "weights": weights}
    with open_data(files, labels.split(",") if labels else (), params) as data:
        assert data.classes == classes
        of_files: dict[int, set[int]] = {}
        for rows in data.rows():
            assert set(rows.w.tolist()) == {(2, 3)[rows.file]}
            of_files.setdefault(rows.file, set()).update(rows.y.tolist())
        assert not per_file or of_files == {at: {label} for at, label in enumerate(per_file)}


@pytest.mark.parametrize(
    ("datasets", "labels", "said"),
    [
        (("TT", "TT"), (), "all files are of the dataset 'TT': there is only one class"),
        (("met",), (), "all files are of the dataset 'met'"),  # which is a branch, too
        (("TT", ""), (), "--labels is missing"),
        (("TT", "QCD"), ("TT=s", "QDC=b"), "'QDC' matches no file\n.*'QCD'"),
        (("TT", "QCD"), ("TT=s", "*T=b"), "of the dataset 'TT' gets the labels 's' and 'b'"),
        (("TT", "QCD"), ("TT=s",), "of the dataset 'QCD' gets no label"),
        (("TT",), ("TT=met",), "TT=met gives the only file one class"),
    ],
)
def test_datasets_that_give_no_labels(
    tmp_path: Path, datasets: tuple[str, ...], labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        open_data(fileset(tmp_path, *datasets), labels)


@pytest.mark.parametrize(
    ("branch", "names"),
    [("kind", ["-1", "0", "1"]), ("good", ["0", "1"]), ("half", ["0", "1"])],
)
def test_a_label_branch(tmp_path: Path, stack: ExitStack, branch: str, names: list[str]) -> None:
    files = two(tmp_path)
    data, _ = streamed(stack, files, [branch], chunk_size=100)
    assert data.task.classes == names
    assert branch not in data.task.specs.columns
    column = data.task.specs.columns.index("id")
    ids = np.concatenate([uproot.open(f)["Events/id"].array(library="np") for f in files])
    values = np.concatenate([uproot.open(f)[f"Events/{branch}"].array(library="np") for f in files])
    low, high = data.task.specs.minv["id"], data.task.specs.maxv["id"]
    expected = dict(zip(ids.tolist(), values.astype(int).tolist(), strict=True))
    for rows, classes, _ in data.chunks():
        found = np.rint(rows[:, column].astype(float) * (high - low) + low)
        assert [int(names[c]) for c in classes] == [expected[i] for i in found]
    total = np.unique(values.astype(int), return_counts=True)[1]
    assert data.task.counts.sum(axis=1).tolist() == total.tolist()


def test_labels_that_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    odd = write(
        tmp_path / "odd.root", content(50, 1) | {"score": np.linspace(0, 1, 50), "one": np.ones(50)}
    )
    many = write(tmp_path / "many.root", content(2000, 1))
    cases: list[tuple[list[Path], list[str], type[MlaasError], str]] = [
        (files, ["1", "0", "0"], UsageError, "3 labels for 2 files"),
        (files, ["1"], UsageError, "1 label for 2 files\n"),
        (files, ["sig"], UsageError, "1 label for 2 files: none .* branch 'sig'"),
        (files, ["1", "1"], UsageError, "all files have the label '1': there is only one class"),
        (files[:1], ["1"], UsageError, "all files have the label '1'"),
        (files[:1], ["knd"], UsageError, r"'knd' is not a branch.*\n.*'kind'"),
        ([odd], ["score"], DataError, r"label branch score holds 0\.02.*not a whole number"),
        ([odd], ["met"], DataError, "label branch met holds nan"),
        ([odd], ["one"], DataError, "label branch one holds the value 1 only"),
        ([odd, files[0]], ["score"], UsageError, r"background\.root: no branch 'score'"),
        (files, ["jet_pt"], UsageError, "labels can't be taken from jet_pt, which is jagged"),
        ([many], ["id"], DataError, "id has more than 1000 different values"),
    ]
    for given, labels, error, match in cases:
        with pytest.raises(error, match=match):
            prepared(stack, given, labels)


@pytest.mark.parametrize(
    ("labels", "signal", "names", "classes"),
    [
        (["Higgs", "QCD"], "Higgs", ["QCD", "Higgs"], [1, 0]),
        (["Higgs", "QCD"], "QCD", ["Higgs", "QCD"], [0, 1]),
        (["1", "0"], 0, ["1", "0"], [0, 1]),
    ],
)
def test_the_score_is_of_the_signal(
    tmp_path: Path, stack: ExitStack, labels: list[str], signal: Any, names: list[str],
    classes: list[int],
) -> None:  # fmt: skip
    found = prepared(stack, two(tmp_path), labels, signal=signal).labels
    assert (found.names, found.per_file) == (names, classes)


def test_the_signal_of_a_label_branch(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    plain, swapped = (
        streamed(stack, files, ["good"], shuffle=False, **given)[0] for given in ({}, {"signal": 0})
    )
    assert swapped.task.classes == ["1", "0"]
    for one, other in zip(plain.chunks(), swapped.chunks(), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], 1 - other[1])


def test_a_signal_that_is_no_class_is_named(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    with pytest.raises(UsageError, match=r"signal: no class 'higs'\n.*'higgs'"):
        prepared(stack, files, ["higgs", "qcd"], signal="higs")
    with pytest.raises(UsageError, match="signal is '1', but there are 3 classes"):
        prepared(stack, files, ["kind"], signal=1)
