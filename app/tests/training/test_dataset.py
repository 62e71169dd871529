from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, MlaasError, UsageError
from mlaas4hep.data import TEST, TRAIN, VALIDATION, membership
from mlaas4hep.training import dataset
from mlaas4hep.training.dataset import (
    MIX_BYTES,
    READ_BYTES,
    Dataset,
    _ahead,
    open_files,
    scan_files,
)
from mlaas4hep.training.params import Params
from real.files import RealFile, each
from training.root_files import content, rows_of, sorted_by_class, two, write

FLAT, JAGGED = ["constant", "good", "half", "id", "kind", "met", "njet_id", "njet_pt"], [
    "jet_id",
    "jet_pt",
]  # fmt: skip


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def make(
    stack: ExitStack,
    files: list[Path],
    labels: list[str] | None = None,
    cwd: Path | None = None,
    specs: Path | None = None,
    cache_bytes: int = 1 << 30,
    **params: Any,
) -> Dataset:
    parsed, _ = Params.parse(params, "params.json", files[0].parent)
    cwd = cwd or files[0].parent
    opened = open_files([str(file) for file in files], parsed, cwd, stack)
    labels = labels or [str(i) for i in range(len(files))]
    return Dataset(opened, labels, parsed, cwd, specs, cache_bytes)


def joined(parts: Iterator[tuple[Any, Any]]) -> tuple[Any, Any]:
    held = list(parts)
    return np.concatenate([x for x, _ in held]), np.concatenate([y for _, y in held])


def test_rows_are_what_a_plain_loop_makes(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    data = make(stack, files, chunk_size=100)
    expected, columns = rows_of(files, FLAT, JAGGED)
    assert data.specs.columns == columns
    found = np.concatenate([rows for rows, _, _ in data.chunks()])
    column = columns.index("id")
    np.testing.assert_allclose(
        found[np.argsort(found[:, column])],
        expected[np.argsort(expected[:, column])],
        rtol=1e-5,
        atol=2e-7,
    )


def test_a_chunk_has_events_of_every_file_in_proportion(tmp_path: Path, stack: ExitStack) -> None:
    data = make(stack, two(tmp_path, (9000, 6000)), chunk_size=9000)
    chunks = list(data.chunks())
    assert [np.bincount(classes).tolist() for _, classes, _ in chunks] == [
        [5400, 3600],
        [3600, 2400],
    ]


def test_the_same_seed_gives_the_same_everything(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (make(stack, files, cwd=tmp_path / name, seed=4) for name in "ab")
    assert first.specs == second.specs
    for mine, theirs in zip(first.chunks(), second.chunks(), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in ((first.epoch(3), second.epoch(3)), (first.test(), second.test())):
        for mine, theirs in zip(joined(a), joined(b), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(first.sample(), second.sample())
    other = make(stack, files, seed=5)
    assert other.specs == first.specs
    assert (next(other.chunks())[2] != next(first.chunks())[2]).any()


@pytest.mark.parametrize("cache_bytes", [0, 10_000, 40_000, 1 << 30])
def test_every_event_is_in_one_part_whatever_is_cached(
    tmp_path: Path, stack: ExitStack, cache_bytes: int
) -> None:
    files = two(tmp_path)
    data = make(stack, files, cache_bytes=cache_bytes, chunk_size=130)
    column = data.specs.columns.index("id")
    size = {part: int(n) * (4 * data.width + 8) for part, n in enumerate(data.counts.sum(axis=0))}
    if cache_bytes == 0:
        assert data.cached == set()
    elif cache_bytes == 1 << 30:
        assert data.cached == {TRAIN, VALIDATION, TEST}
    else:
        assert sum(size[part] for part in data.cached) <= cache_bytes
    parts = [joined(data.epoch(0)), joined(data.validation()), joined(data.test())]
    assert [len(y) for _, y in parts] == [
        data.train_events,
        data.validation_events,
        data.test_events,
    ]
    assert [len(y) / 1500 for _, y in parts] == pytest.approx([0.64, 0.16, 0.2], abs=0.04)
    ids = np.concatenate([x[:, column] for x, _ in parts])
    assert len(np.unique(ids)) == 1500
    for index, (_, classes) in enumerate(parts):
        assert np.bincount(classes, minlength=2).tolist() == data.counts[:, index].tolist()
    whole = make(stack, files, chunk_size=130)
    for mine, theirs in zip(joined(data.test()), joined(whole.test()), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(data.sample(), whole.sample())


@pytest.mark.parametrize(
    ("clusters", "read_bytes"), [(1, READ_BYTES), (50, READ_BYTES), (50, 160_000)]
)
@pytest.mark.parametrize("mix_bytes", [MIX_BYTES, 0])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_the_same_whatever_is_cached(
    tmp_path: Path,
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    clusters: int,
    read_bytes: int,
    mix_bytes: int,
    shuffle: bool,
) -> None:
    """Bit for bit, with a mixing buffer that holds all events or MIX_EVENTS of them.

    The file is read at once, or a cluster at a time.
    """
    monkeypatch.setattr(dataset, "MIX_BYTES", mix_bytes)
    monkeypatch.setattr(dataset, "READ_BYTES", read_bytes)
    monkeypatch.setattr(dataset, "_BLOCK", 0)
    file = sorted_by_class(tmp_path / "sorted.root", clusters)
    found = []
    for cache_bytes, cached in ((0, set()), (300_000, {TEST, VALIDATION}), (1 << 30, {0, 1, 2})):
        data = make(stack, [file], ["lab"], cache_bytes=cache_bytes, shuffle=shuffle)
        assert data.cached == cached
        batches = [*data.epoch(1), *data.validation(), *data.test()]
        found.append(batches)
        assert [len(y) for _, y in data.epoch(1)][:-1] == [1000] * (data.train_events // 1000)
        assert data.warnings == []
        if shuffle:  # every batch is a sample of both classes: 5 standard deviations
            assert all(abs(y.mean() - 0.5) < 5 * 0.5 / len(y) ** 0.5 for _, y in data.epoch(1))
    for other in found[1:]:
        for (a, b), (c, d) in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


def test_a_file_of_large_clusters_says_that_its_order_may_be_seen(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MIX_BYTES", 0)
    monkeypatch.setattr(dataset, "READ_BYTES", 1000)
    file = sorted_by_class(tmp_path / "sorted.root", 4)
    data = make(stack, [file], ["lab"])
    assert len(data.warnings) == 1
    assert "sorted.root is read at 2 of 16 places at once" in data.warnings[0]
    assert make(stack, [file], ["lab"], shuffle=False).warnings == []


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_shuffle_mixes_anew_each_epoch(tmp_path: Path, stack: ExitStack, cache_bytes: int) -> None:
    files = two(tmp_path)
    data = make(stack, files, cache_bytes=cache_bytes, chunk_size=300)
    (x0, y0), (x1, y1) = joined(data.epoch(0)), joined(data.epoch(1))
    again, _ = joined(data.epoch(0))
    np.testing.assert_array_equal(x0, again)
    assert (x0 != x1).any()
    order0, order1 = np.lexsort(x0.T), np.lexsort(x1.T)
    np.testing.assert_array_equal(x0[order0], x1[order1])
    np.testing.assert_array_equal(y0[order0], y1[order1])
    still = make(stack, files, cache_bytes=cache_bytes, chunk_size=300, shuffle=False)
    (a, _), (b, _) = joined(still.epoch(0)), joined(still.epoch(1))
    np.testing.assert_array_equal(a, b)
    expected = np.concatenate([rows[parts == TRAIN] for rows, _, parts in still.chunks()])
    np.testing.assert_array_equal(a, expected)


def test_the_sample_holds_the_extremes(tmp_path: Path, stack: ExitStack) -> None:
    data = make(stack, two(tmp_path, (3000, 2500)), chunk_size=170)
    rows = np.concatenate([rows for rows, _, _ in data.chunks()])
    sample = data.sample()
    assert len(sample) >= 1000
    np.testing.assert_array_equal(sample[:-2].min(axis=0), rows.min(axis=0))
    np.testing.assert_array_equal(sample[:-2].max(axis=0), rows.max(axis=0))
    np.testing.assert_array_equal(sample[-2:], [[0] * data.width, [1] * data.width])
    real = {row.tobytes() for row in rows}
    assert sum(row.tobytes() in real for row in sample[:-2]) == len(sample) - 2
    few = make(stack, two(tmp_path, (30, 20)))
    assert len(few.sample()) >= 52


def test_nevts_takes_a_share_of_each_file(tmp_path: Path, stack: ExitStack) -> None:
    data = make(stack, two(tmp_path), nevts=150, chunk_size=40)
    assert data.counts.sum(axis=1).tolist() == [90, 60]
    assert sum(len(y) for _, y, _ in data.chunks()) == 150


def test_nevts_sees_every_process_of_a_sorted_file_and_specs_see_the_same_events(
    tmp_path: Path, stack: ExitStack
) -> None:
    files = []
    for name in ("sig", "bkg"):
        branches = {
            "run": np.zeros(1000, np.int32),
            "i": np.arange(1000.0),
            "proc": np.repeat([0, 1, 2, 3], 250).astype(np.int32),
        }
        files.append(write(tmp_path / f"{name}.root", branches))
    data = make(stack, files, nevts=200)
    # 16 places of a file, the first events of each: 100 = 4 x 6 + 12 x 6.33 of 1000 entries.
    begins = [100 * place // 16 for place in range(17)]
    entries = [
        1000 * first // 100 + i for first, after in pairwise(begins) for i in range(after - first)
    ]
    rows = np.concatenate([rows for rows, _, _ in data.chunks()])
    classes = np.concatenate([classes for _, classes, _ in data.chunks()])
    low, high = data.specs.minv["i"], data.specs.maxv["i"]
    i = np.rint(rows[:, data.specs.columns.index("i")].astype(float) * (high - low) + low)
    proc = np.rint(rows[:, data.specs.columns.index("proc")] * 3).astype(int)
    for label in (0, 1):
        assert np.sort(i[classes == label]).tolist() == entries
        assert np.bincount(proc[classes == label]).tolist() == [25, 25, 25, 25]
    assert data.specs.scanned == 200
    assert (low, high) == (min(entries), max(entries))
    params, _ = Params.parse({"nevts": 200}, "params.json", tmp_path)
    assert scan_files([str(file) for file in files], params, tmp_path)[0] == data.specs


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [
        (["10", "9"], ["9", "10"], [1, 0]),
        (["1", "-1"], ["-1", "1"], [1, 0]),
        (["sig", "bkg"], ["bkg", "sig"], [1, 0]),
        (["01", "2"], ["1", "2"], [0, 1]),
        (["1", "b"], ["1", "b"], [0, 1]),
    ],
)
def test_labels_per_file(
    tmp_path: Path, stack: ExitStack, labels: list[str], names: list[str], classes: list[int]
) -> None:
    data = make(stack, two(tmp_path), labels)
    assert data.classes == names
    assert data.labels.per_file == classes
    assert data.labels.branch is None


@pytest.mark.parametrize(
    ("branch", "names"),
    [("kind", ["-1", "0", "1"]), ("good", ["0", "1"]), ("half", ["0", "1"])],
)
def test_a_label_branch(tmp_path: Path, stack: ExitStack, branch: str, names: list[str]) -> None:
    files = two(tmp_path)
    data = make(stack, files, [branch], chunk_size=100)
    assert data.classes == names
    assert branch not in data.specs.columns
    column = data.specs.columns.index("id")
    ids = np.concatenate([uproot.open(f)["Events/id"].array(library="np") for f in files])
    values = np.concatenate([uproot.open(f)[f"Events/{branch}"].array(library="np") for f in files])
    low, high = data.specs.minv["id"], data.specs.maxv["id"]
    expected = dict(zip(ids.tolist(), values.astype(int).tolist(), strict=True))
    for rows, classes, _ in data.chunks():
        found = np.rint(rows[:, column].astype(float) * (high - low) + low)
        assert [int(names[c]) for c in classes] == [expected[i] for i in found]
    total = np.unique(values.astype(int), return_counts=True)[1]
    assert data.counts.sum(axis=1).tolist() == total.tolist()


def test_labels_that_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    odd = write(
        tmp_path / "odd.root", content(50, 1) | {"score": np.linspace(0, 1, 50), "one": np.ones(50)}
    )
    many = write(tmp_path / "many.root", content(2000, 1))
    cases: list[tuple[list[Path], list[str], type[MlaasError], str]] = [
        (files, ["1", "0", "0"], UsageError, "3 labels for 2 files"),
        (files, ["1"], UsageError, "1 labels for 2 files"),
        (files, ["sig"], UsageError, "1 labels for 2 files"),
        (files, ["1", "1"], UsageError, "all files have the label '1': there is one class"),
        (files[:1], ["1"], UsageError, "all files have the label '1'"),
        (files[:1], ["knd"], UsageError, r"'knd' is no branch.*\n.*'kind'"),
        ([odd], ["score"], DataError, r"label branch score holds 0\.02.*no whole number"),
        ([odd], ["met"], DataError, "label branch met holds nan"),
        ([odd], ["one"], DataError, "label branch one holds the value 1 only"),
        ([odd, files[0]], ["score"], DataError, r"background\.root: no branch 'score'"),
        (files, ["jet_pt"], DataError, "labels can't be taken from jet_pt, which is jagged"),
        ([many], ["id"], DataError, "id has more than 1000 different values"),
    ]
    for given, labels, error, match in cases:
        with pytest.raises(error, match=match):
            make(stack, given, labels)


def test_a_class_without_training_events_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    files = [
        write(tmp_path / "a.root", content(200, 1)),
        write(tmp_path / "b.root", content(1, 2)),
    ]
    with uproot.open(files[1]) as opened:
        uuid = opened.file.uuid
    failed = 0
    for seed in range(20):
        part = membership(seed, f"1:{uuid}", 0, 1)[0]
        if part == TRAIN:
            data = make(stack, files, ["a", "b"], seed=seed)
            assert data.warnings == ["the class 'b' has no event in the test part"]
        else:
            with pytest.raises(DataError, match="the class 'b' has no event to train on"):
                make(stack, files, ["a", "b"], seed=seed)
            failed += 1
    assert 0 < failed < 20


def test_no_events(tmp_path: Path, stack: ExitStack) -> None:
    files = [write(tmp_path / f"{name}.root", content(0, 1)) for name in "ab"]
    with pytest.raises(DataError, match=r"no events in the tree Events of .*a\.root, .*b\.root"):
        make(stack, files)


def test_a_branch_of_nan_names_the_remedy(tmp_path: Path, stack: ExitStack) -> None:
    files = [
        write(tmp_path / f"{i}.root", content(50, i) | {"bad": np.full(50, np.nan)}) for i in (1, 2)
    ]
    with pytest.raises(DataError, match=r"missing.*bad") as found:
        make(stack, files)
    assert "exclude_branches" in found.value.remedy
    data = make(stack, files, exclude_branches=["bad"])
    assert "bad" not in data.specs.columns


@each("zmumu")
def test_unusable_branches_are_told(tmp_path: Path, real: RealFile, stack: ExitStack) -> None:
    data = make(stack, [real.path], ["Q1"], cwd=tmp_path, branch="events")
    told = "1 branch can't be used: Type (of type char*: neither numbers nor lists of numbers)"
    assert data.warnings == [told]


class TestSpecsFile:
    def test_written_once_and_used_again(self, tmp_path: Path, stack: ExitStack) -> None:
        files = two(tmp_path)
        first = make(stack, files)
        path = tmp_path / "global-specs.json"
        value = json.loads(path.read_text())
        assert value == first.specs.to_json()
        value["maxv"]["met"] *= 2
        path.write_text(json.dumps(value))
        second = make(stack, files)
        assert second.specs.maxv["met"] == 2 * first.specs.maxv["met"]
        assert second.warnings == []

    @pytest.mark.parametrize("change", [{"nevts": 100}, {"exclude_branches": ["kind"]}, {}])
    def test_stale_ones_are_made_anew(
        self, tmp_path: Path, stack: ExitStack, change: dict[str, Any]
    ) -> None:
        make(stack, two(tmp_path))
        files = (
            two(tmp_path, seed=3)
            if not change
            else [tmp_path / "background.root", tmp_path / "signal.root"]
        )
        data = make(stack, files, **change)
        assert len(data.warnings) == 1
        assert data.warnings[0].startswith("global-specs.json is made anew: stale specs")
        assert json.loads((tmp_path / "global-specs.json").read_text()) == data.specs.to_json()

    @pytest.mark.parametrize("text", ["{", '{"jdim": {}}', "[]"])
    def test_damaged_or_old_ones_too(self, tmp_path: Path, stack: ExitStack, text: str) -> None:
        (tmp_path / "global-specs.json").write_text(text)
        data = make(stack, two(tmp_path))
        assert "global-specs.json is made anew" in data.warnings[0]

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, stack: ExitStack) -> None:
        data = make(stack, two(tmp_path), cwd=Path("/proc/self"))
        assert len(data.warnings) == 1
        assert "/proc/self/global-specs.json can't be written" in data.warnings[0]

    def test_given_ones_must_fit(self, tmp_path: Path, stack: ExitStack) -> None:
        files = two(tmp_path)
        names = [str(file) for file in files]
        params, _ = Params.parse({"exclude_branches": ["kind"]}, "params.json", tmp_path)
        specs, _ = scan_files(names, params, tmp_path)
        specs.save(tmp_path / "mine.json")
        data = make(stack, files, specs=Path("mine.json"), exclude_branches=["kind"])
        assert data.specs == specs
        assert not (tmp_path / "global-specs.json").exists()
        with pytest.raises(
            DataError, match=r"stale specs: exclude_branches was \['kind'\], is \[\]"
        ):
            make(stack, files, specs=Path("mine.json"))

    def test_longer_lists_than_the_specs_know_are_told(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = two(tmp_path)
        make(stack, files)
        path = tmp_path / "global-specs.json"
        value = json.loads(path.read_text())
        value["jdim"]["jet_pt"] = 2
        path.write_text(json.dumps(value))
        data = make(stack, files)
        lists = [uproot.open(f)["Events/jet_pt"].array() for f in files]
        dropped = sum(int(ak.sum(ak.num(a) == 3)) for a in lists)
        assert data.warnings == [
            f"{dropped} values beyond the longest list of the specs were dropped"
        ]


class TestAhead:
    def test_items_and_errors_pass(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            yield 2
            raise DataError("gone")

        ahead = _ahead(items())
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(DataError, match="gone"):
            next(ahead)

    def test_it_is_one_ahead_and_ends_when_it_is_closed(self) -> None:
        made: list[int] = []

        def items() -> Iterator[int]:
            for i in range(1000):
                made.append(i)
                yield i

        threads = threading.active_count()
        ahead = _ahead(items())
        for expected in range(5):
            assert next(ahead) == expected
        ahead.close()  # type: ignore[attr-defined]
        assert threading.active_count() == threads
        assert 5 <= len(made) <= 8
