"""Files that fail while a training reads them, and what the training then says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uproot

from mlaas4hep.training.train import TrainRequest, TrainResult, train
from training.root_files import content, write

LABELS = {"b1.root": "0", "b2.root": "0", "s1.root": "1", "s2.root": "1"}
EVENTS = {"b1.root": 500, "b2.root": 300, "s1.root": 400, "s2.root": 200}
TREE = """
from sklearn.tree import DecisionTreeClassifier

def model(idim):
    return DecisionTreeClassifier(max_depth=5)
"""


def four(folder: Path, compression: Any = None) -> Path:
    """Two files of each of two classes, by default zlib."""
    for seed, (name, events) in enumerate(EVENTS.items()):
        write(folder / name, content(events, seed, 25.0 * int(LABELS[name])), "Events", compression)
    return folder


def flip(file: Path, branch: str = "jet_pt", keeps_time: bool = True) -> None:
    """Other bytes in the middle of the branch's last basket, as of a disk that rots."""
    before = file.stat()
    with uproot.open(file) as opened:
        found = opened["Events"][branch]
        last = found.num_baskets - 1
        start = int(found.member("fBasketSeek")[last])
        size = int(found.basket_compressed_bytes(last))
        keylen = int(found.basket(last).member("fKeylen"))
    middle = start + keylen + (size - keylen) // 2
    with file.open("r+b") as stream:
        stream.seek(middle)
        old = stream.read(1)
        stream.seek(middle)
        stream.write(bytes([old[0] ^ 0x55]))
    if keeps_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def trained(
    folder: Path,
    *without: str,
    fout: str = "made",
    model: str = TREE,
    during: Callable[..., None] = lambda *_, **__: None,
    told: list[str] | None = None,
    files: list[str] | None = None,
    skip: bool = True,
    allow: str = "",
    cache_bytes: int | None = None,
    **params: Any,
) -> TrainResult:
    """A training on the files but some; ``during`` is its progress."""
    names = files or [name for name in LABELS if name not in without]
    (folder / "model.py").write_text(model)
    (folder / "params.json").write_text(json.dumps({"batch_size": 100, "epochs": 2} | params))
    labels = ",".join(LABELS[name.rpartition("/")[2].partition("?")[0]] for name in names)
    request = TrainRequest(
        ",".join(names),
        labels,
        Path("model.py"),
        fout=Path(fout),
        cwd=folder,
        cache_bytes=cache_bytes,
        skip_bad_files=skip,
        allow_missing=allow,
    )
    return train(request, during, (told if told is not None else []).append)


def ledger_of(result: TrainResult) -> dict[str, Any]:
    """The ledger in the bundle; each account and the sums must add up."""
    found: dict[str, Any] = json.loads((result.bundle / "provenance/ledger.json").read_text())
    for each in found["files"]:
        used, cut = sum(each["used"].values()), sum(each["cut"].values())
        if each["entries"] is not None:
            assert each["entries"] == used + cut + each["lost"], each
        assert each["read"] == used
    sums = found["sum"]
    assert sums["entries"] == sums["used"] + sums["cut"] + sums["lost"]
    return found


def essence(result: TrainResult) -> dict[str, Any]:
    """What two trainings on the same events have in common, bit by bit."""
    names = ("specs.json", "metrics.json", "history.json")
    found: dict[str, Any] = {name: (result.bundle / name).read_text() for name in names}
    columns = len(json.loads((result.bundle / "columns.json").read_text()))
    rows = np.random.default_rng(0).uniform(0, 1, (99, columns)).astype(np.float32)
    session = onnxruntime.InferenceSession(result.bundle / "1/model.onnx")
    found["answers"] = session.run(["outputs"], {"inputs": rows})[0].tobytes().hex()
    ledger = ledger_of(result)
    found["used"] = {each["file"]: each["used"] for each in ledger["files"] if each["used"]}
    return found
