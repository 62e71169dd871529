from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlaas4hep.core.errors import LimitError, UsageError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training import export as module
from mlaas4hep.training.export import export
from mlaas4hep.training.library import open_data
from training.root_files import sorted_by_class, two

PARAMS: dict[str, Any] = {"identifier": ["run"], "selection": "met > 20", "weights": [2, 0.5]}


def test_npz_and_parquet_hold_the_rows(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_GROUP_BYTES", 10_000)
    with open_data(two(tmp_path), ["bkg", "sig"], PARAMS) as data:
        for name in ("a.npz", "a.parquet"):
            assert export(data, tmp_path / name) == sum(data.events.values())
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


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_memory_does_not_grow_with_the_events(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.setattr(module, "_GROUP_BYTES", 1 << 18)
    monkeypatch.setattr("mlaas4hep.training.library._ROWS", 1000)
    monkeypatch.setattr(RootFile.reader, "__defaults__", (1 << 18, 0, None))
    peaks = []
    for clusters in (20, 100):
        path = sorted_by_class(tmp_path / f"{clusters}.root", clusters, 1000 * clusters)
        with open_data([path], ["lab"]) as data:
            tracemalloc.start()
            assert export(data, tmp_path / name) == 1000 * clusters
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + (1 << 20)


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    path = tmp_path / name
    path.write_text("older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for of in ("_Npz", "_Parquet"):
        monkeypatch.setattr(f"mlaas4hep.training.export.{of}.add", full)
    with open_data(two(tmp_path), [0, 1], PARAMS) as data:
        with pytest.raises(LimitError, match=f"{name} can't be written: No space left"):
            export(data, path)
        with pytest.raises(UsageError, match=r"--out .*a\.csv: unknown ending '\.csv'"):
            export(data, tmp_path / "a.csv")
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".root"] == [name]
