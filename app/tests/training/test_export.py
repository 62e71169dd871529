from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas4hep.core.errors import LimitError, UsageError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training import export as module
from mlaas4hep.training.export import check, export
from mlaas4hep.training.library import open_data
from training.root_files import two

PARAMS: dict[str, Any] = {"identifier": ["run"], "selection": "met > 20", "weights": [2, 0.5]}


def test_npz_and_parquet_hold_the_rows(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_GROUP_BYTES", 10_000)
    with open_data(two(tmp_path), ["bkg", "sig"], PARAMS) as data:
        for name in ("a.npz", "a.parquet"):
            assert export(data, tmp_path / name) == sum(data.events.values())
        with pytest.raises(UsageError, match="unknown ending"):
            export(data, tmp_path / "a.csv")
        rows = list(data.rows())
        columns, files = data.columns, data.files
    wanted = {
        k: np.concatenate([getattr(r, k) for r in rows])
        for k in ("x", "mask", "y", "w", "part", "entry")
    }
    wanted["file"] = np.concatenate([np.full(len(r.y), r.file, np.int32) for r in rows])
    with np.load(tmp_path / "a.npz") as found:
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
        assert found["columns"].tolist() == columns
        assert found["classes"].tolist() == ["bkg", "sig"]
        assert found["files"].tolist() == files

    table = pq.read_table(tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups >= 2
    assert table.schema.metadata[b"classes"] == b"bkg\nsig"
    for i, name in enumerate(columns):
        column = table[name].to_numpy()
        expected = np.where(wanted["mask"][:, i] == 1, np.nan, wanted["x"][:, i])
        np.testing.assert_array_equal(column, expected.astype(np.float32))
    for name in ("y", "w", "part", "entry"):
        np.testing.assert_array_equal(table[f"_{name}"].to_numpy(), wanted[name])
    assert table["_file"].to_pylist() == [files[i] for i in wanted["file"]]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".root") == [
        "a.npz", "a.parquet"
    ]  # fmt: skip


def write_events(path: Path, events: int) -> Path:
    """24 columns of chance and a label, in clusters of 5,000 events, uncompressed."""
    random = np.random.default_rng(0)
    kinds = {f"x{i}": np.dtype(np.float32) for i in range(24)}
    label = (np.arange(5000) % 2).astype(np.int32)
    with uproot.recreate(path, compression=None) as file:
        file.mktree("Events", kinds | {"lab": label.dtype})
        for _ in range(events // 5000):
            values = {name: random.random(5000, dtype=np.float32) for name in kinds}
            file["Events"].extend(values | {"lab": label})
    return path


def memory(name: str) -> int:
    """VmRSS, the process's memory now, or VmHWM, the most of it so far; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_memory_does_not_grow_with_the_events(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    """Arrow's own memory included, with buffers of 1 MiB."""
    monkeypatch.setattr(module, "_GROUP_BYTES", 1 << 20)
    monkeypatch.setattr("mlaas4hep.training.library._ROWS", 1000)
    monkeypatch.setattr(RootFile.reader, "__defaults__", (1 << 20, 0, None))
    out = tmp_path / name
    for events in (50_000, 400_000):  # the first loads modules and fills pools
        with open_data([write_events(tmp_path / f"{events}.root", events)], ["lab"]) as data:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM from now on
            before = memory("VmRSS")
            assert export(data, out) == events
            grown = memory("VmHWM") - before
    assert out.stat().st_size > 36 << 20
    assert grown < 12 << 20


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Further bytes are refused as a full disk refuses them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.setattr(module, "_GROUP_BYTES", 10_000)
    path = tmp_path / name
    path.write_text("older")
    with open_data(two(tmp_path), [0, 1], PARAMS) as data:
        said = f"{name} can't be written: .*[Ff]ile too large"
        with files_of_at_most(20_000), pytest.raises(LimitError, match=said):
            export(data, path)
        assert path.read_text() == "older"
        assert [p.name for p in tmp_path.iterdir() if p.suffix != ".root"] == [name]
        export(data, path)
    assert path.stat().st_size > 20_000


def test_what_can_t_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match=r"--out .*a\.csv: unknown ending '\.csv'"):
        check(tmp_path / "a.csv")
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UsageError, match=r"a\.npz is a folder"):
        check(tmp_path / "a.npz")
    with pytest.raises(UsageError, match=r"b\.npz: there is no folder .*"):
        check(tmp_path / "none/b.npz")
    check(tmp_path / "b.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as if it weren't installed
    with pytest.raises(UsageError, match="Parquet needs pyarrow") as error:
        check(tmp_path / "b.parquet")
    assert error.value.remedy == "pip install 'mlaas4hep[parquet]'"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
