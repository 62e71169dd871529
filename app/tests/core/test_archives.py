"""Hostile archives, one each: refused, named, and nothing left behind."""

from __future__ import annotations

import gzip
import io
import resource
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mlaas4hep.core.archives import PIECE, unpack_tar
from mlaas4hep.core.errors import ArchiveError, ConflictError, LimitError

LIMITS = {"max_bytes": 1 << 20, "max_files": 50}


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class OneWay:
    """A stream as a network gives it: forwards only, short reads."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 1000) if size > 0 else 1000)


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_honest_archive(tmp_path: Path, compress: Callable[[bytes], bytes], format: int) -> None:
    long = "/".join(["top", "d" * 60, "e" * 60, "f" * 20])
    data = tar_of(
        member(".", type=tarfile.DIRTYPE, mode=0o755),
        member("./top", type=tarfile.DIRTYPE, mode=0o700),
        member("top/a.txt", b"hello", mode=0o4777),
        member("top/empty/", type=tarfile.DIRTYPE),
        member("top/no/entry/b.bin", b"x" * 5000),
        member(long, b"long"),
        format=format,
    )
    files = unpack_tar(OneWay(compress(data)), tmp_path / "into", **LIMITS)
    assert files == sorted(["top/a.txt", "top/no/entry/b.bin", long])
    assert (tmp_path / "into/top/a.txt").read_bytes() == b"hello"
    assert (tmp_path / "into/top/a.txt").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "into/top/no/entry/b.bin").stat().st_size == 5000
    assert (tmp_path / "into/top/empty").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


def test_an_archive_of_git_with_a_global_header(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "0123abc"}) as tar:
        info, data = member("a", b"1")
        tar.addfile(info, io.BytesIO(data))
    assert unpack_tar(io.BytesIO(buffer.getvalue()), tmp_path / "into", **LIMITS) == ["a"]


def sparse() -> bytes:
    info, _ = member("hole", type=tarfile.GNUTYPE_SPARSE)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\0" + b"00000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    return bytes(block) + bytes(1024)


def damaged_second_header() -> bytes:
    return tar_of(member("a", b"1"))[:1024] + b"\xff" * 512 + bytes(1024)


HOSTILE: dict[str, tuple[Callable[[], bytes], type[Exception], str]] = {
    "symlink": (
        lambda: tar_of(member("l", type=tarfile.SYMTYPE, linkname="/etc")),
        ArchiveError,
        "'l' is a link",
    ),
    "hard link": (
        lambda: tar_of(member("a", b"1"), member("l", type=tarfile.LNKTYPE, linkname="a")),
        ArchiveError,
        "'l' is a link",
    ),
    "device": (lambda: tar_of(member("d", type=tarfile.CHRTYPE)), ArchiveError, "not a file"),
    "block device": (lambda: tar_of(member("d", type=tarfile.BLKTYPE)), ArchiveError, "not a file"),
    "pipe": (lambda: tar_of(member("p", type=tarfile.FIFOTYPE)), ArchiveError, "not a file"),
    "unknown type": (lambda: tar_of(member("u", type=b"Q")), ArchiveError, "not a file"),
    "absolute": (lambda: tar_of(member("/tmp/x", b"1")), ArchiveError, "outside"),
    "parent": (lambda: tar_of(member("a/../../x", b"1")), ArchiveError, "outside"),
    "dots": (lambda: tar_of(member("..", type=tarfile.DIRTYPE)), ArchiveError, "outside"),
    "file twice": (lambda: tar_of(member("a", b"1"), member("./a", b"2")), ArchiveError, "twice"),
    "folder twice": (
        lambda: tar_of(*[member("d", type=tarfile.DIRTYPE)] * 2),
        ArchiveError,
        "twice",
    ),
    "file and folder": (
        lambda: tar_of(member("a", b"1"), member("a/b", b"2")),
        ArchiveError,
        "'a' as a folder",
    ),
    "folder and file": (
        lambda: tar_of(member("a/b", b"2"), member("a", b"1")),
        ArchiveError,
        "'a'",
    ),
    "file as dot": (lambda: tar_of(member(".", b"2")), ArchiveError, r"'\.'"),
    "newline": (lambda: tar_of(member("a\nb", b"1")), ArchiveError, "control character"),
    "escape": (lambda: tar_of(member("a\x1b[2Jb", b"1")), ArchiveError, "control character"),
    "nul": (
        lambda: tar_of(member("a", b"1", pax_headers={"path": "a\0b"})),
        ArchiveError,
        "control character",
    ),
    "not utf-8": (
        lambda: tar_of(member("a\udcff", b"1"), format=tarfile.GNU_FORMAT),
        ArchiveError,
        "UTF-8",
    ),
    "name too long": (lambda: tar_of(member("a" * 300, b"1")), ArchiveError, "too long"),
    "too many files": (
        lambda: tar_of(*[member(f"f{i}", b"") for i in range(51)]),
        LimitError,
        "more than 50",
    ),
    "too many implied folders": (
        lambda: tar_of(member("/".join(["d"] * 60), b"")),
        LimitError,
        "more than 50",
    ),
    "too large": (
        lambda: tar_of(member("a", bytes((1 << 20) + 1))),
        LimitError,
        "larger than 1 MB unpacked",
    ),
    "gzip bomb": (
        lambda: gzip.compress(tar_of(member("a", bytes(200 << 20)))),
        LimitError,
        "larger than 1 MB unpacked",
    ),
    "size only claimed": (
        lambda: member("a", size=1 << 40)[0].tobuf(tarfile.GNU_FORMAT),
        LimitError,
        "larger than 1 MB unpacked",
    ),
    "sparse": (sparse, ArchiveError, "sparse"),
    "sparse by pax": (
        lambda: tar_of(member("a", b"1", pax_headers={"GNU.sparse.realsize": "1000000"})),
        ArchiveError,
        "sparse|can't be read",
    ),
    "huge pax header": (
        lambda: gzip.compress(tar_of(member("a", pax_headers={"comment": "x" * (64 << 20)}))),
        ArchiveError,
        "a header of more than",
    ),
    "chain of pax headers": (
        lambda: b"".join(member("x", type=tarfile.XHDTYPE)[0].tobuf() for _ in range(5000)),
        ArchiveError,
        "can't be read",
    ),
    "not an archive": (lambda: b"PK\x03\x04" + bytes(2000), ArchiveError, "Send a tar"),
    "empty": (lambda: b"", ArchiveError, "Send a tar"),
    "truncated": (lambda: tar_of(member("a", b"1" * 3000))[:2048], ArchiveError, "truncated"),
    "truncated between members": (
        lambda: tar_of(member("a", b"1"), member("b", b"1"))[:1024],
        ArchiveError,
        "truncated",
    ),
    "truncated gzip": (
        lambda: gzip.compress(tar_of(member("a", bytes(range(256)) * 20)))[:-9],
        ArchiveError,
        "can't be read",
    ),
    "wrong checksum of gzip": (
        lambda: (d := gzip.compress(tar_of(member("a", b"1"))))[:-8] + bytes(4) + d[-4:],
        ArchiveError,
        "can't be read",
    ),
    "damaged header": (damaged_second_header, ArchiveError, "damaged"),
    "more after the end": (
        lambda: gzip.compress(tar_of(member("a", b"1")) + bytes(64 << 20)),
        ArchiveError,
        "a header of more than",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    make, error, match = HOSTILE[what]
    with pytest.raises(error, match=match):
        unpack_tar(io.BytesIO(make()), tmp_path / "into", **LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """100 MB pass through a peak of a few pieces of 1 MiB."""
    data = gzip.compress(tar_of(member("a", bytes(100 << 20))), compresslevel=1)
    tracemalloc.start()
    unpack_tar(io.BytesIO(data), tmp_path / "into", max_bytes=1 << 30, max_files=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "into/a").stat().st_size == 100 << 20
    assert peak < 10 * PIECE


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(ConflictError, match="into exists"):
        unpack_tar(io.BytesIO(tar_of(member("a", b"1"))), tmp_path / "into", **LIMITS)


def test_a_full_disk_says_where(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LimitError, match=r"can't be unpacked in .*File too large"):
            unpack_tar(io.BytesIO(tar_of(member("a", b"1" * 5000))), tmp_path / "into", **LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
