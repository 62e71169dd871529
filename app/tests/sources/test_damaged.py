from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, FileError
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
        with pytest.raises(DataError, match=r"shrinks\.root was changed while it was read"):
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


def one_bit_off(folder: Path, codec: Any, branch: str) -> Path:
    """A file of whole numbers, which compress, with another bit in the middle of a basket."""
    path, values = folder / "one_bit.root", np.arange(2000, dtype=np.int32) // 3
    with uproot.recreate(path, compression=codec) as file:
        lists = ak.unflatten(np.repeat(values, 2), np.full(2000, 2))
        file.mktree("events", {"flat": "int32", "list": "var * int32"}).extend(
            {"flat": values, "list": lists}
        )
    with uproot.open(path) as file:
        found = file["events"][branch]
        start, header = int(found.member("fBasketSeek")[0]), found.basket(0).member("fKeylen")
        middle = start + header + (found.basket_compressed_bytes(0) - header) // 2
    raw = bytearray(path.read_bytes())
    raw[middle] ^= 4
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("codec", [uproot.ZLIB(1), uproot.LZ4(4), uproot.LZMA(1)])
@pytest.mark.parametrize("branch", ["flat", "list"])
def test_one_bit_is_an_error_where_the_codec_has_a_checksum(
    tmp_path: Path, codec: Any, branch: str
) -> None:
    path = one_bit_off(tmp_path, codec, branch)
    with RootFile(str(path), "events") as file, pytest.raises(FileError, match="seems damaged"):
        file.read([branch])


@pytest.mark.parametrize("codec", [uproot.ZSTD(1), None])
@pytest.mark.parametrize("branch", ["flat", "list"])
def test_one_bit_where_nothing_tells_changes_no_number_of_events(
    tmp_path: Path, codec: Any, branch: str
) -> None:
    """Frames of zstd have no checksum in ROOT files, plain baskets neither (ledger.md)."""
    path = one_bit_off(tmp_path, codec, branch)
    with RootFile(str(path), "events") as file, suppress(FileError):
        assert len(file.read([branch])[branch]) == 2000
