from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlaas4hep.core.errors import DataError, FileError, UsageError
from mlaas4hep.sources.filelist import FileList, Listed
from mlaas4hep.training.dataset import Dataset
from mlaas4hep.training.library import open_data
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import prepare, scan_files
from mlaas4hep.training.skipping import BadFile, Skipping, allowed_missing
from training.faults import EVENTS, LABELS, TREE, essence, flip, four, ledger_of, trained
from training.root_files import content, write

KERAS = """
import keras

def model(idim):
    network = keras.Sequential([
        keras.Input((idim,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(1, activation="sigmoid"),
    ])
    network.compile(optimizer="adam", loss="binary_crossentropy")
    return network
"""


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


def without_tree(file: Path) -> None:
    write(file, content(9, 1), "Other")


BEFORE: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    # what happens, what is said, whether the number of events is known
    "removed": (Path.unlink, "no such file: .*b2.root", False),
    "empty": (lambda file: file.write_bytes(b""), "b2.root is empty: 0 bytes", False),
    "truncated": (cut_short, "b2.root is truncated: it has", False),
    "text": (lambda file: file.write_text("no" * 99), "b2.root is not a ROOT file", False),
    "without tree": (without_tree, "b2.root: no tree 'Events'", False),
    "flipped byte": (flip, "b2.root: branch jet_pt can't be read, it seems damaged", True),
    "in the selection": (
        lambda file: flip(file, "met"),
        "b2.root: branch met can't be read, it seems damaged",
        True,
    ),
}


def matrix(data: Dataset) -> str:
    """The hash of all rows, classes, weights and parts, in their order."""
    found = sha256()
    for chunk in data.chunks():
        for array in chunk:
            found.update(array.tobytes())
    return found.hexdigest()


def prepared(
    folder: Path, stack: ExitStack, names: list[str], skipping: Skipping, **params: Any
) -> Dataset:
    parsed, _ = Params.parse(params, "params.json", folder)
    labels = [LABELS[name] for name in names]
    return Dataset(prepare(names, labels, parsed, folder, stack, None, skipping=skipping))


@pytest.mark.parametrize("fault", BEFORE)
def test_a_bad_file_is_an_error_or_left_out_as_a_whole(
    tmp_path: Path, stack: ExitStack, fault: str
) -> None:
    four(tmp_path)
    names = [name for name in LABELS if name != "b2.root"]
    params: dict[str, Any] = {"selection": "met > 20", "weights": "half"}
    expected = matrix(prepared(tmp_path, stack, names, Skipping(), **params))
    harm, said, is_counted = BEFORE[fault]
    harm(tmp_path / "b2.root")
    with pytest.raises(FileError, match=said):
        prepared(tmp_path, stack, list(LABELS), Skipping(), **params)
    told: list[str] = []
    skipping = Skipping(1, told.append)
    data = skipping.run(lambda: prepared(tmp_path, stack, list(LABELS), skipping, **params))
    assert matrix(data) == expected
    (bad,) = data.task.skipped.values()
    assert told == skipping.warnings == [f"left out as a whole: {bad.reason}"]
    assert bad.name.endswith("b2.root")
    assert bad.entries == (EVENTS["b2.root"] if is_counted else None)
    assert (bad.traffic.bytes > 0) == is_counted


def test_several_bad_files_are_told_at_once(tmp_path: Path, stack: ExitStack) -> None:
    four(tmp_path)
    for name in ("b1.root", "s2.root"):
        cut_short(tmp_path / name)
    flip(tmp_path / "b2.root")
    tries: list[int] = []
    skipping = Skipping(1)

    def attempt() -> Dataset:
        tries.append(len(skipping.bad))
        return prepared(tmp_path, stack, list(LABELS), skipping)

    with pytest.raises(DataError, match=r"no file of the class '0' can be read: .*; .*b2") as error:
        skipping.run(attempt)
    assert tries == [0, 2, 3]
    assert not isinstance(error.value, FileError)


@pytest.mark.parametrize("model", [TREE, KERAS])
def test_a_file_that_fails_in_a_later_epoch_leaves_nothing(tmp_path: Path, model: str) -> None:
    four(tmp_path)
    asked: dict[str, Any] = {"cache_bytes": 0, "epochs": 3, "model": model}
    expected = essence(trained(tmp_path, "s1.root", **asked))
    harmed: list[str] = []

    def during(now: str, done: int, total: int, **_: object) -> None:
        if now == "training" and not harmed:
            harmed.append(now)
            flip(tmp_path / "s1.root")

    told: list[str] = []
    result = trained(tmp_path, during=during, told=told, **asked)
    assert essence(result) == expected
    (bad,) = [each for each in ledger_of(result)["files"] if each["skipped"]]
    assert "s1.root: branch jet_pt can't be read, it seems damaged" in bad["skipped"]
    assert (bad["entries"], bad["lost"], bad["used"]) == (400, 400, {})
    warning = f"left out as a whole: {bad['skipped']}"
    assert told.count(warning) == result.warnings.count(warning) == 1
    page = (result.bundle / "report.html").read_text()
    assert "<details open>" in page
    assert "left out: " in page


def rewritten(file: Path) -> None:
    """In place, by the same program with other numbers: as many bytes."""
    file.write_bytes(file.read_bytes())


def replaced(file: Path) -> None:
    file.rename(file.with_suffix(".old"))
    write(file, content(7, 9))


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path, stack: ExitStack) -> None:
    data = prepared(four(tmp_path), stack, list(LABELS), Skipping())
    chunks = data.chunks()
    next(chunks)
    rewritten(tmp_path / "s1.root")
    with pytest.raises(FileError, match=r"s1\.root was changed while it was read") as error:
        list(chunks)
    assert error.value.file.endswith("s1.root")


@pytest.mark.parametrize("harm", [Path.unlink, replaced])
def test_a_file_that_is_replaced_or_removed_is_read_to_its_end(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    """The old content is whole, and what was trained on it is said."""
    expected = essence(trained(four(tmp_path), cache_bytes=0))

    def during(now: str, done: int, total: int, **_: object) -> None:
        if now == "reading" and done == total:
            harm(tmp_path / "s1.root")

    result = trained(tmp_path, during=during, cache_bytes=0)
    assert essence(result) == expected
    (warning,) = [each for each in result.warnings if "s1.root was replaced or removed" in each]
    (account,) = [each for each in ledger_of(result)["files"] if "s1.root" in each["file"]]
    assert account["uuid"] in warning


@pytest.mark.parametrize("stage", ["specs", "selection", "open_data"])
def test_the_other_commands_leave_out_files_too(tmp_path: Path, stage: str) -> None:
    four(tmp_path)
    flip(tmp_path / "b2.root")
    keys: dict[str, Any] = {"skip_bad_files": True, "exclude_branches": ["id"]}
    names = [str(tmp_path / name) for name in LABELS]
    if stage == "open_data":
        with open_data(names, list(LABELS.values()), keys) as data:
            assert sum(len(rows.y) for rows in data.rows()) == 1100
            assert any("left out as a whole" in warning for warning in data.warnings)
        return
    if stage == "selection":
        keys["selection"] = "count(jet_pt) > 1"
    parsed, _ = Params.parse(keys, "params.json", tmp_path)
    specs, warnings = scan_files(names, [], parsed, tmp_path)
    assert [Path(file.name).name for file in specs.files] == ["b1.root", "s1.root", "s2.root"]
    assert any("left out as a whole" in warning for warning in warnings)


@pytest.mark.parametrize(("allow", "is_allowed"), [("20%", False), ("22%", True), ("100%", True)])
@pytest.mark.parametrize("harm", [flip, cut_short])
def test_no_more_is_missing_than_allowed(
    tmp_path: Path, stack: ExitStack, allow: str, is_allowed: bool, harm: Callable[[Path], None]
) -> None:
    """300 of 1,400 events are 21.4 %; of a file that was never opened nobody knows how many."""
    harm(four(tmp_path) / "b2.root")
    skipping = Skipping(allowed_missing(True, allow))

    def attempt() -> Dataset:
        return prepared(tmp_path, stack, list(LABELS), skipping)

    if harm is cut_short:  # counts as 500 of 1,600
        is_allowed = allow == "100%"
    if is_allowed:
        assert sum(skipping.run(attempt).task.use.counts) == 1100
    else:
        share = "31.2" if harm is cut_short else "21.4"
        said = f"{share} % of the events are missing, allowed are .*b2.root"
        with pytest.raises(DataError, match=said):
            skipping.run(attempt)


def test_all_files_bad(tmp_path: Path, stack: ExitStack) -> None:
    four(tmp_path)
    for name in LABELS:
        (tmp_path / name).unlink()
    skipping = Skipping(1)
    with pytest.raises(DataError, match=r"none of 4 files can be read: no such file: .*b1\.root"):
        skipping.run(lambda: prepared(tmp_path, stack, list(LABELS), skipping))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 2, 3, 4], [1, 3, 4]),
        ({"files": {"b1.root": 1, "b2.root": 2, "s*": 3}}, [1, 3, 3]),
        ({"files": {"0": 5, "1": 6}}, [5, 6, 6]),
    ],
)
def test_weights_stay_with_their_files(
    tmp_path: Path, stack: ExitStack, weights: Any, expected: list[float]
) -> None:
    cut_short(four(tmp_path) / "b2.root")
    skipping = Skipping(1)
    data = skipping.run(lambda: prepared(tmp_path, stack, list(LABELS), skipping, weights=weights))
    assert data.task.weights
    assert data.task.weights.per_file == expected


def test_all_trees_of_a_file_and_a_file_with_its_friend_go_together(
    tmp_path: Path, stack: ExitStack
) -> None:
    four(tmp_path)
    for name in LABELS:
        write(tmp_path / f"{name[:2]}_friend.root", {"run": content(EVENTS[name], 5)["met"]}, "F")
    flip_friend = tmp_path / "b2_friend.root"
    flip_friend.write_bytes(flip_friend.read_bytes()[:-300])
    skipping = Skipping(1)
    data = skipping.run(
        lambda: prepared(
            tmp_path, stack, list(LABELS), skipping, friends={"F": "{dir}/{stem}_friend.root"}
        )
    )
    (bad,) = data.task.skipped.values()
    assert bad.name.endswith("b2.root")
    assert "friends: F: " in bad.reason
    assert "b2_friend.root is truncated" in bad.reason


def test_a_wrong_parameter_is_no_bad_file(tmp_path: Path, stack: ExitStack) -> None:
    four(tmp_path)
    skipping = Skipping(1)
    with pytest.raises(UsageError, match="no branch 'mett'"):
        skipping.run(
            lambda: prepared(tmp_path, stack, list(LABELS), skipping, selection="mett > 1")
        )
    with pytest.raises(DataError, match="is a folder"):
        skipping.run(
            lambda: prepare(
                [*LABELS, "."],
                [*LABELS.values(), "1"],
                Params(),
                tmp_path,
                stack,
                skipping=skipping,
            )
        )
    assert not skipping.bad


@pytest.mark.parametrize("share", ["100%", "0.5", "50%", "50 %", 0.5, 0])
def test_shares(share: str | float) -> None:
    assert allowed_missing(True, share) in (0, 0.5, 1)


@pytest.mark.parametrize(
    "share", ["2", "101%", "1", 1, 1.0, "-1%", "much", "%", "nan", True, -0.1, "1%5"]
)
def test_what_is_no_share(share: str | float) -> None:
    with pytest.raises(UsageError, match=r"allow_missing is .*, not a share"):
        allowed_missing(True, share)


def test_as_much_as_allowed_may_be_missing() -> None:
    """Also where the share is no binary fraction: 0.29 * 100 is less than 29."""
    skipping = Skipping(allowed_missing(True, "29%"))
    skipping.bad = {0: BadFile("a.root", "", entries=29)}
    skipping.check([SimpleNamespace(entries=71)], [])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"29.6 % of the events are missing"):
        skipping.check([SimpleNamespace(entries=69)], [])  # type: ignore[list-item]


@pytest.mark.parametrize("number", [3, 5])
def test_labels_and_weights_go_by_the_position_in_the_whole_list(
    tmp_path: Path, stack: ExitStack, number: int
) -> None:
    """As many as files are left would be those of other files."""
    (four(tmp_path) / "b1.root").write_bytes(b"root")
    names = [str(tmp_path / name) for name in LABELS]
    for labels, params, message in (
        (["0", "1", "1", "0", "1"][:number], {}, f"{number} labels for 4 files"),
        (
            list(LABELS.values()),
            {"weights": {"files": [1, 2, 3, 4, 5][:number]}},
            f"{number} numbers for 4 files",
        ),
    ):
        parsed, _ = Params.parse(params, "params.json", tmp_path)
        skipping = Skipping(1)
        with pytest.raises(UsageError, match=message):
            skipping.run(
                partial(prepare, names, labels, parsed, tmp_path, stack, skipping=skipping)
            )


def test_the_tree_that_is_named_with_a_file_is_no_bad_file(
    tmp_path: Path, stack: ExitStack
) -> None:
    four(tmp_path)
    names = [str(tmp_path / f"{name}:Evnts") for name in LABELS]
    skipping = Skipping(1)
    with pytest.raises(DataError, match="no tree 'Evnts'") as error:
        skipping.run(
            lambda: prepare(
                names, list(LABELS.values()), Params(), tmp_path, stack, skipping=skipping
            )
        )
    assert "'Events'" in error.value.remedy
    assert not skipping.bad


def test_too_many_open_files_are_no_bad_files(tmp_path: Path, stack: ExitStack) -> None:
    four(tmp_path)
    names = [str(tmp_path / name) for name in LABELS]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, limits[1]))
    skipping = Skipping(1)
    try:
        with pytest.raises(DataError, match="Too many open files") as error:
            skipping.run(
                lambda: prepare(
                    names, list(LABELS.values()), Params(), tmp_path, stack, skipping=skipping
                )
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for each in held:
            os.close(each)
    assert "ulimit -n" in error.value.remedy
    assert not skipping.bad


def test_a_share_needs_skip_bad_files() -> None:
    with pytest.raises(UsageError, match="without skip_bad_files"):
        allowed_missing(False, "1%")
    assert allowed_missing(False, None) is None


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: write(file, content(299, 2))])
def test_what_the_list_says_of_a_file_counts(
    tmp_path: Path, stack: ExitStack, harm: Callable[[Path], object]
) -> None:
    """Its entries are known though it was never opened; one of other entries is a bad file."""
    harm(four(tmp_path) / "b2.root")
    listed = FileList(
        [
            Listed(name, "line 2", f"set{label}", entries=EVENTS[name])
            for name, label in LABELS.items()
        ]
    )
    parsed, _ = Params.parse({"weights": {"files": {"set*": 2}}}, "params.json", tmp_path)
    skipping = Skipping(1)
    task = skipping.run(lambda: prepare(listed, [], parsed, tmp_path, stack, skipping=skipping))
    (bad,) = task.skipped.values()
    assert "line 2" in bad.reason
    assert bad.entries == 300
    assert [file.name for file in task.listed.files] == ["b1.root", "s1.root", "s2.root"]
    assert task.labels_of_list == ["set0", "set0", "set1", "set1"]
    assert task.weights
    assert task.weights.per_file == [2, 2, 2]


def test_a_label_is_named_as_a_number_also_of_a_lost_file(tmp_path: Path, stack: ExitStack) -> None:
    """A file labelled 01 is lost; its class has another."""
    flip(four(tmp_path) / "s1.root")
    params, _ = Params.parse({}, "params.json", tmp_path)
    skipping = Skipping(1)
    labels = ["0", "0", "01", "01"]

    def attempt() -> Dataset:
        return Dataset(prepare(list(LABELS), labels, params, tmp_path, stack, skipping=skipping))

    data = skipping.run(attempt)
    assert data.task.classes == ["0", "1"]
    assert list(data.task.labels_of_list) == ["0", "0", "1", "1"]


def test_specs_that_were_made_with_a_file_that_is_left_out(
    tmp_path: Path, stack: ExitStack
) -> None:
    four(tmp_path)
    params, _ = Params.parse({"skip_bad_files": True}, "params.json", tmp_path)
    specs = tmp_path / "old.json"
    scan_files(list(LABELS), [], params, tmp_path)[0].save(specs)
    cut_short(tmp_path / "b2.root")
    skipping = Skipping(1)
    with pytest.raises(DataError) as error:
        skipping.run(
            lambda: prepare(
                list(LABELS), list(LABELS.values()), params, tmp_path, stack, specs,
                skipping=skipping,
            )
        )  # fmt: skip
    assert "4 files were scanned, 3 are given" in error.value.message
    assert re.search(r"left out as a whole: \S*b2\.root is truncated", error.value.message)
    assert "old.json may have been made with" in error.value.remedy
