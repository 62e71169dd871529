"""2 GB of events within the memory that is said: ``make soak`` runs it, as root, in minutes.

MLAAS4HEP_TEST_LARGE is how many bytes the file holds uncompressed, by default 2 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.models.bundle import Bundle
from training.test_train import answers

SIZE = int(float(os.environ.get("MLAAS4HEP_TEST_LARGE", "2e9")))
GIB = 1 << 30
STEP = 100_000
FLAT = 50
PARAMS = {"branch": "Events", "epochs": 2, "batch_size": 1024, "max_vec_sizes": {"jet_pt": 3}}
MODEL = """
import keras

def model(width):
    layers = [keras.layers.Input((width,)), keras.layers.Dense(16, "relu")]
    net = keras.Sequential([*layers, keras.layers.Dense(1, "sigmoid")])
    net.compile(optimizer="adam", loss="binary_crossentropy")
    return net
"""
COMMAND = "from mlaas4hep.cli.main import main; main()"
CACHE = "from mlaas4hep.training.dataset import cache_size; print(cache_size())"


def write_large(path: Path) -> int:
    """Numbers of a few values each, which compress; lists of 0 to 3; the number of events."""
    random = np.random.default_rng(0)
    steps = -(-SIZE // (4 * (FLAT + 2) * STEP))
    kinds = {f"x{i:02}": np.dtype(np.float32) for i in range(FLAT)} | {"lab": np.dtype(np.int32)}
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        file.mktree("Events", kinds | {"jet_pt": "var * float32"})
        for _ in range(steps):
            label = random.integers(0, 2, STEP, dtype=np.int32)
            values: dict[str, Any] = {
                name: (random.integers(0, 16, STEP) / 4).astype(np.float32) for name in kinds
            }
            values["x00"] += 2 * label
            values["lab"] = label
            counts = random.integers(0, 4, STEP)
            content = random.integers(20, 50, counts.sum()).astype(np.float32)
            values["jet_pt"] = ak.unflatten(content, counts)
            file["Events"].extend(values)
    return steps * STEP


@contextmanager
def group_of(limit: int) -> Iterator[Path]:
    """A control group, of version 1 or 2, that may use so many bytes."""
    top = Path("/sys/fs/cgroup")
    first = (top / "memory/memory.limit_in_bytes").exists()
    folder = (top / "memory" if first else top) / f"mlaas4hep-large-{os.getpid()}-{limit}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        yield folder
    finally:
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:  # the kernel hasn't seen yet that its last process is gone
                time.sleep(0.1)


def run(folder: Path, group: Path | None, code: str, *arguments: str) -> str:
    """Run a command, in the group; print what it took. What is killed for memory fails."""

    def join() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    begin = time.monotonic()
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=join,
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text()
    seconds = time.monotonic() - begin
    where = "no limit" if group is None else group.name.rpartition("-")[2]
    print(f"{arguments[:1]} {where}: {used.ru_maxrss / 1024:.0f} MiB, {seconds:.0f} s", flush=True)
    assert process.returncode == 0, text[-3000:]
    return text


@pytest.mark.timeout(3600)
def test_2_gb_within_1_gb_and_keras_within_2_gb(tmp_path: Path) -> None:
    events = write_large(tmp_path / "large.root")
    with uproot.open(tmp_path / "large.root") as file:
        assert file["Events"].uncompressed_bytes > SIZE
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    (tmp_path / "model.py").write_text(MODEL)
    given = ["--files", "large.root", "--labels", "lab", "--params", "params.json"]
    hashes = []
    out = tmp_path / "out.parquet"
    for within in (group_of(GIB), nullcontext()):
        with within as group:
            said = run(tmp_path, group, COMMAND, "export", *given, "--out", out.name)
        with out.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
        out.unlink()
        assert f"{events:,}" in said or str(events) in said
    assert hashes[0] == hashes[1]

    with group_of(2 * GIB) as group:
        assert int(run(tmp_path, group, CACHE)) == GIB // 2
        run(tmp_path, group, COMMAND, "train", *given, "--model", "model.py", "--fout", "within")
    run(tmp_path, None, COMMAND, "train", *given, "--model", "model.py", "--fout", "free")
    metrics = [
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("within", "free")
    ]
    assert metrics[0] == metrics[1]
    assert metrics[0]["auc"] > 0.6
    bundles = [Bundle.open(tmp_path / name) for name in ("within", "free")]
    rows = np.random.default_rng(1).random((100, len(bundles[0].columns)), dtype=np.float32)
    first, second = (answers(bundle.path, rows) for bundle in bundles)
    np.testing.assert_array_equal(first, second)
