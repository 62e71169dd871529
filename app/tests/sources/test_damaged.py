from __future__ import annotations

import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.root import RootFile
from real.files import EMPTY, REAL, RealFile, each


def damaged(file: Path, folder: Path, at: int, content: bytes) -> Path:
    """A copy of the file with other bytes at a place."""
    copy = Path(shutil.copy(file, folder / "damaged.root"))
    copy.chmod(0o644)
    with copy.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)
    return copy


def read_all(path: Path, tree: str) -> None:
    with RootFile(str(path), tree) as file:
        file.read([b.name for b in file.branches.values() if b.kind != "unsupported"])


@pytest.mark.parametrize("tenth", range(10))
@each(files=REAL + EMPTY)
def test_truncated_anywhere(real: RealFile, tmp_path: Path, tenth: int) -> None:
    name, whole = real.name, real.path.read_bytes()
    length = [7, 30, *(len(whole) * part // 8 for part in range(1, 8)), len(whole) - 1][tenth]
    path = tmp_path / name
    path.write_bytes(whole[:length])
    with pytest.raises(DataError, match=rf"{name} is truncated: it has [\d.]+ \w+") as error:
        read_all(path, real.tree)
    assert error.value.remedy


def test_a_file_that_lost_its_end_while_open(small_files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(small_files[0], tmp_path / "shrinks.root"))
    with RootFile(str(path), "events") as file:
        assert "x" in file.branches
        with path.open("r+b") as stream:
            stream.truncate(2000)
        with pytest.raises(DataError, match=r"shrinks\.root can't be read.* ends at byte"):
            file.read(["x"])


def test_corrupted_bytes_in_a_compressed_basket(small_files: list[Path], tmp_path: Path) -> None:
    with uproot.open(small_files[0]) as file:
        branch = file["events"]["Jet_pt"]
        start = int(branch.member("fBasketSeek")[2])
        middle = start + branch.basket_compressed_bytes(2) // 2
    path = damaged(small_files[0], tmp_path, middle, b"\xff" * 40)
    with RootFile(str(path), "events") as file:
        assert len(file.read(["Jet_eta", "x"])["x"]) == 700
        assert len(file.read(["Jet_pt"], 0, 200)["Jet_pt"]) == 200
        with pytest.raises(DataError, match=r"damaged\.root: branch Jet_pt .*damaged") as error:
            file.read(["Jet_pt"])
        assert "Copy the file again" in error.value.remedy


@pytest.mark.parametrize("offset", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"])
@pytest.mark.parametrize("entry", [1, 50, 99])
def test_corrupted_offsets_in_a_plain_basket(tmp_path: Path, offset: bytes, entry: int) -> None:
    """Without compression no checksum tells: the offsets themselves are checked."""
    plain = tmp_path / "plain.root"
    lists = ak.unflatten(np.arange(200, dtype=np.float32), np.full(100, 2))
    with uproot.recreate(plain, compression=None) as file:
        file.mktree("events", {"v": lists.type}).extend({"v": lists})
    with uproot.open(plain) as file:
        branch = file["events"]["v"]
        offsets = int(branch.member("fBasketSeek")[0]) + branch.basket(0).member("fLast")
    path = damaged(plain, tmp_path, offsets + 4 * (entry + 1), offset)
    with pytest.raises(DataError, match=r"damaged\.root: branch v .*damaged: ValueError"):
        read_all(path, "events")


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_is_an_error_that_names_the_file_or_none(tmp_path: Path, seed: int) -> None:
    real = REAL[seed % len(REAL)]
    rng = np.random.default_rng(seed)
    size = real.path.stat().st_size
    place = int(rng.integers(24, size - 64))
    path = damaged(real.path, tmp_path, place, rng.bytes(int(rng.integers(1, 64))))
    try:
        read_all(path, real.tree)
    except DataError as error:
        assert "damaged.root" in error.message  # noqa: PT017
