"""Unpacking a tar or tar.gz that a stranger sent."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

from mlaas4hep.core.errors import ArchiveError, ConflictError, LimitError, MlaasError
from mlaas4hep.core.files import remove_tree
from mlaas4hep.core.units import size

PIECE = 1 << 20
"""Bytes that are in memory at once, and the most that the headers before one member may take."""


class _Forward:
    """The plain tar inside the stream, forward only: what tarfile asks of a file object.

    Data that isn't a member's content (headers, long names, padding) is bounded between two
    members, so that no header can fill the memory; content is read in pieces by the caller.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        first = stream.read(2)
        source = _Chained(first, stream)
        self._source: _Chained | gzip.GzipFile = source
        if first == b"\x1f\x8b":
            self._source = gzip.GzipFile(fileobj=source)  # type: ignore[call-overload]
        self._position = 0
        self.overhead = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        self.read(position - self._position)
        return self._position

    def read(self, size: int) -> bytes:
        self.overhead += size
        if size < 0 or self.overhead > PIECE:
            raise tarfile.ReadError(f"a header of more than {PIECE} bytes")
        self.last = self.content(size)
        return self.last

    def content(self, size: int) -> bytes:
        pieces = []
        while size and (piece := self._source.read(size)):
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self._position += len(data)
        return data


class _Chained:
    """A stream with its first bytes put back."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int = PIECE) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        return self._stream.read(size)


def unpack_tar(stream: IO[bytes], into: Path, max_bytes: int, max_files: int) -> list[str]:
    """Unpack a tar or tar.gz from ``stream`` (read forwards only) to the new folder ``into``.

    Only regular files and folders with plain relative names are accepted. ``into`` appears when
    everything is on disk, by a rename; after a failure nothing is left. Memory is bounded by a few
    ``PIECE``. Returns the files' names relative to ``into``, sorted.

    Raises ArchiveError for what is not acceptable, LimitError beyond ``max_bytes`` (unpacked) or
    ``max_files`` (files and folders), ConflictError when ``into`` exists.
    """
    if into.exists():
        raise ConflictError(f"{into.name} exists already")
    temporary = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}."))
    try:
        files = _unpack(_Forward(stream), temporary, max_bytes, max_files)
        temporary.chmod(0o755)
        temporary.rename(into)
    except BaseException as error:
        with suppress(OSError):
            remove_tree(temporary)
        raise _explained(error, into) from error
    return files


def _unpack(source: _Forward, into: Path, max_bytes: int, max_files: int) -> list[str]:
    named: set[str] = set()
    files: set[str] = set()
    folders: set[str] = set()
    left = max_bytes
    with tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            source.overhead = 0
            tar.members.clear()  # what was read is not needed again: memory stays bounded
            tar.pax_headers.clear()
            name = _safe_name(member)
            if not name:  # the archive of a folder as "."
                if member.isreg() or "." in named:
                    raise ArchiveError("the archive holds '.' twice or as a file")
                named.add(".")
                continue
            if name in named or (member.isreg() and name in folders):
                raise ArchiveError(f"the archive holds {name!r} twice")
            named.add(name)
            parent = name if member.isdir() else name.rpartition("/")[0]
            while parent and parent not in folders:
                if parent in files:
                    raise ArchiveError(f"the archive uses the file {parent!r} as a folder too")
                folders.add(parent)
                parent = parent.rpartition("/")[0]
            if member.isreg():
                files.add(name)
            if len(files) + len(folders) > max_files:
                raise LimitError(f"the archive holds more than {max_files} files and folders")
            path = into / name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            left -= member.size
            if left < 0:
                raise LimitError(f"the archive is larger than {size(max_bytes)} unpacked")
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(source, path, member.size)
    if len(source.last) != tarfile.BLOCKSIZE or source.last.strip(b"\0"):
        raise ArchiveError("the archive ends in the middle: it is truncated or damaged")
    source.overhead = 0
    while source.read(tarfile.BLOCKSIZE):  # to the end, where gzip's checksum is compared
        pass
    return sorted(files)


def _write(source: _Forward, path: Path, size: int) -> None:
    with path.open("xb") as target:
        while size:
            piece = source.content(min(size, PIECE))
            if not piece:
                raise ArchiveError("the archive ends in the middle: it is truncated or damaged")
            target.write(piece)
            size -= len(piece)


def _safe_name(member: tarfile.TarInfo) -> str:
    """The member's name without ``.``; ArchiveError for names that no honest archive has."""
    name = member.name
    shown = repr(name[:200])
    if not (member.isreg() or member.isdir()) or member.type == tarfile.CONTTYPE:
        kind = "a link" if member.issym() or member.islnk() else "not a file or folder"
        raise ArchiveError(
            f"the archive's member {shown} is {kind}", "Put the files themselves in it (tar -h)."
        )
    if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        raise ArchiveError(f"the archive's member {shown} is sparse", "Pack without --sparse.")
    if member.size < 0:
        raise ArchiveError(f"the archive's member {shown} has a negative size")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ArchiveError(f"the archive's name {shown} is not UTF-8") from None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ArchiveError(f"the archive's name {shown} holds a control character")
    if name.startswith("/") or ".." in name.split("/"):
        raise ArchiveError(
            f"the archive's name {shown} leads outside of the folder",
            "Pack with relative names, without '..'.",
        )
    if len(encoded) > 1024 or any(len(part) > 255 for part in encoded.split(b"/")):
        raise ArchiveError(f"the archive's name {shown}... is too long")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _explained(error: BaseException, into: Path) -> BaseException:
    match error:
        case MlaasError():
            return error
        case tarfile.TarError() | gzip.BadGzipFile() | zlib.error() | EOFError():
            return ArchiveError(f"the archive can't be read: {error}", "Send a tar or a tar.gz.")
        case RecursionError() | ValueError() | OverflowError():
            return ArchiveError("the archive can't be read: a header is damaged")
        case OSError():
            return LimitError(f"the archive can't be unpacked in {into.parent}: {error.strerror}")
    return error
