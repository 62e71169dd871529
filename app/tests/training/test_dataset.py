from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.data import TEST, TRAIN, VALIDATION
from mlaas4hep.training import dataset
from mlaas4hep.training.dataset import MIX_BYTES, READ_BYTES, cache_size
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import scan_files
from training.root_files import rows_of, sorted_by_class, two, write
from training.tasks import streamed

FLAT, JAGGED = ["constant", "good", "half", "id", "kind", "met", "njet_id", "njet_pt"], [
    "jet_id",
    "jet_pt",
]  # fmt: skip


def joined(parts: Iterator[tuple[Any, Any]]) -> tuple[Any, Any]:
    held = list(parts)
    return np.concatenate([x for x, _ in held]), np.concatenate([y for _, y in held])


def test_rows_are_what_a_plain_loop_makes(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    data, _ = streamed(stack, files, chunk_size=100)
    expected, columns = rows_of(files, FLAT, JAGGED)
    assert data.task.specs.columns == columns
    found = np.concatenate([rows for rows, _, _ in data.chunks()])
    column = columns.index("id")
    np.testing.assert_allclose(
        found[np.argsort(found[:, column])],
        expected[np.argsort(expected[:, column])],
        rtol=1e-5,
        atol=2e-7,
    )


def test_a_chunk_has_events_of_every_file_in_proportion(tmp_path: Path, stack: ExitStack) -> None:
    data, _ = streamed(stack, two(tmp_path, (9000, 6000)), chunk_size=9000)
    chunks = list(data.chunks())
    assert [np.bincount(classes).tolist() for _, classes, _ in chunks] == [
        [5400, 3600],
        [3600, 2400],
    ]


def test_the_same_seed_gives_the_same_everything(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (first, seen), (second, also) = (
        streamed(stack, files, cwd=tmp_path / name, seed=4) for name in "ab"
    )
    assert first.task.specs == second.task.specs
    for mine, theirs in zip(first.chunks(), second.chunks(), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in ((first.epoch(3), second.epoch(3)), (first.test(), second.test())):
        for mine, theirs in zip(joined(a), joined(b), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(seen.to_compare, also.to_compare)
    other, _ = streamed(stack, files, seed=5)
    assert other.task.specs == first.task.specs
    assert (next(other.chunks())[2] != next(first.chunks())[2]).any()


@pytest.mark.parametrize("cache_bytes", [0, 10_000, 40_000, 1 << 30])
def test_every_event_is_in_one_part_whatever_is_cached(
    tmp_path: Path, stack: ExitStack, cache_bytes: int
) -> None:
    files = two(tmp_path)
    data, seen = streamed(stack, files, cache_bytes=cache_bytes, chunk_size=130)
    column = data.task.specs.columns.index("id")
    size = {
        part: int(n) * (4 * data.width + 8) for part, n in enumerate(data.task.counts.sum(axis=0))
    }
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
        assert np.bincount(classes, minlength=2).tolist() == data.task.counts[:, index].tolist()
    whole, all_seen = streamed(stack, files, chunk_size=130)
    for mine, theirs in zip(joined(data.test()), joined(whole.test()), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(seen.to_compare, all_seen.to_compare)


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
        data, seen = streamed(stack, [file], ["lab"], cache_bytes=cache_bytes, shuffle=shuffle)
        assert data.cached == cached
        batches = [*data.epoch(1), *data.validation(), *data.test()]
        found.append(batches)
        assert [len(y) for _, y in data.epoch(1)][:-1] == [1000] * (data.train_events // 1000)
        assert data.task.warnings + seen.warnings == []
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
    _, seen = streamed(stack, [file], ["lab"])
    assert len(seen.warnings) == 1
    assert "sorted.root is read at 2 of 16 places at once" in seen.warnings[0]
    assert streamed(stack, [file], ["lab"], shuffle=False)[1].warnings == []


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_shuffle_mixes_anew_each_epoch(tmp_path: Path, stack: ExitStack, cache_bytes: int) -> None:
    files = two(tmp_path)
    data, _ = streamed(stack, files, cache_bytes=cache_bytes, chunk_size=300)
    (x0, y0), (x1, y1) = joined(data.epoch(0)), joined(data.epoch(1))
    again, _ = joined(data.epoch(0))
    np.testing.assert_array_equal(x0, again)
    assert (x0 != x1).any()
    order0, order1 = np.lexsort(x0.T), np.lexsort(x1.T)
    np.testing.assert_array_equal(x0[order0], x1[order1])
    np.testing.assert_array_equal(y0[order0], y1[order1])
    still, _ = streamed(stack, files, cache_bytes=cache_bytes, chunk_size=300, shuffle=False)
    (a, _), (b, _) = joined(still.epoch(0)), joined(still.epoch(1))
    np.testing.assert_array_equal(a, b)
    expected = np.concatenate([rows[parts == TRAIN] for rows, _, parts in still.chunks()])
    np.testing.assert_array_equal(a, expected)


def test_nevts_takes_a_share_of_each_file(tmp_path: Path, stack: ExitStack) -> None:
    data, _ = streamed(stack, two(tmp_path), nevts=150, chunk_size=40)
    assert data.task.counts.sum(axis=1).tolist() == [90, 60]
    assert sum(len(y) for _, y, _ in data.chunks()) == 150


def test_the_cache_is_a_quarter_of_a_small_memory(monkeypatch: Any) -> None:
    for limit, size in ((None, 1 << 30), (2 << 30, 512 << 20), (64 << 30, 1 << 30)):
        monkeypatch.setattr("mlaas4hep.training.dataset.memory_limit", lambda limit=limit: limit)
        assert cache_size() == size


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
    data, _ = streamed(stack, files, nevts=200)
    # 16 places of a file, the first events of each: 100 = 4 x 6 + 12 x 6.33 of 1000 entries.
    begins = [100 * place // 16 for place in range(17)]
    entries = [
        1000 * first // 100 + i for first, after in pairwise(begins) for i in range(after - first)
    ]
    rows = np.concatenate([rows for rows, _, _ in data.chunks()])
    classes = np.concatenate([classes for _, classes, _ in data.chunks()])
    low, high = data.task.specs.minv["i"], data.task.specs.maxv["i"]
    i = np.rint(rows[:, data.task.specs.columns.index("i")].astype(float) * (high - low) + low)
    proc = np.rint(rows[:, data.task.specs.columns.index("proc")] * 3).astype(int)
    for label in (0, 1):
        assert np.sort(i[classes == label]).tolist() == entries
        assert np.bincount(proc[classes == label]).tolist() == [25, 25, 25, 25]
    assert data.task.specs.scanned == 200
    assert (low, high) == (min(entries), max(entries))
    params, _ = Params.parse({"nevts": 200}, "params.json", tmp_path)
    assert scan_files([str(file) for file in files], [], params, tmp_path)[0] == data.task.specs
