"""Damaged files: each is read, or refused with a DataError that names it; never anything else.

Neither ROOT's uncompressed baskets nor the pages that uproot writes have a checksum: a change in
their values can't be noticed.

300 cases; ``make soak`` tries 10,000 others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection

CASES = int(os.environ.get("MLAAS4HEP_TEST_FUZZ", "300"))
FIRST = 1980 if CASES == 300 else 1000  # 1997 had lists whose ends overflow int64


def written(path: Path, kind: str, compression: Any) -> Path:
    random = np.random.default_rng(1)
    counts = random.integers(0, 4, 60)
    branches = {
        "x": random.normal(0, 1, 60).astype(np.float32),
        "n": random.integers(0, 9, 60),
        "v": ak.unflatten(random.normal(0, 1, counts.sum()), counts),
        "t": ak.Array([f"text {i}" for i in range(60)]),
    }
    with uproot.recreate(path, compression=compression) as file:
        types = {name: ak.Array(values).type.content for name, values in branches.items()}
        make = file.mktree if kind == "tree" else file.mkrntuple
        tree = make("Events", types)
        for start in (0, 30):
            tree.extend({name: values[start : start + 30] for name, values in branches.items()})
    return path


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, a stretch overwritten, zeroed or lost."""
    data = bytearray(content)
    size = len(data)
    for _ in range(random.integers(1, 4)):
        start = int(random.integers(0, size))
        length = int(random.integers(1, 40))
        match random.integers(0, 4):
            case 0:
                data[start] ^= 1 << int(random.integers(0, 8))
            case 1:
                data[start : start + length] = random.bytes(min(length, len(data) - start))
            case 2:
                data[start : start + length] = bytes(min(length, len(data) - start))
            case _:
                data[start : start + 4] = b"\x7f\xff\xff\xff"[: max(0, len(data) - start)]
    return bytes(data[: int(random.integers(1, size))] if random.random() < 0.1 else data)


FOUND = (1012,)
"""Cases that once ended otherwise: a branch with fewer entries than its tree."""


@pytest.mark.timeout(300 if CASES == 300 else 3600)
@pytest.mark.parametrize("kind", ["tree", "rntuple"])
@pytest.mark.parametrize("compression", [None, uproot.LZ4(4), uproot.ZLIB(1)], ids=str)
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str, compression: Any) -> None:
    content = written(tmp_path / "whole.root", kind, compression).read_bytes()
    path = tmp_path / "damaged.root"
    told = []
    for case in (*range(FIRST, FIRST + CASES // 6), *FOUND):
        path.write_bytes(damaged(content, np.random.default_rng(case)))
        try:
            with RootFile(str(path)) as file:
                usable = [b.name for b in file.branches.values() if b.kind != "unsupported"]
                file.read(usable)
                scan([file], Selection(identifier=()))
        except DataError as error:
            told.append(error.message)
        except Exception as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error}") from error
    print(f"{kind}, {compression}: {len(told)} of {CASES // 6} damaged files refused")
    assert all("damaged.root" in message for message in told)
    assert len(told) > CASES // 60
