"""Files that come and go in pieces: nothing is in memory as a whole, nor in /tmp."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from mlaas4hep.core.errors import NotFoundError, UsageError
from mlaas4hep.core.files import open_plain

PIECE = 1 << 20
HOW = "Send it as curl does: curl -F file=@FOLDER.tar.gz 'SERVER/upload?name=NAME'"


def open_download(folder: Path, name: str) -> IO[bytes]:
    """Open ``folder/name``; user code ran there, so NotFoundError for all but a plain file."""
    try:
        if folder.is_symlink():
            raise NotFoundError(f"{folder.name} is not a folder")
        return open_plain(folder / name)
    except OSError:
        raise NotFoundError(f"there is no {name} any more") from None


def download(stream: IO[bytes], media_type: str, name: str = "", head: bool = False) -> Response:
    """The answer with the file ``stream`` as it is now, which browsers keep as ``name``, if given.

    The answer closes it. ``head`` asks for the headers alone.
    """
    size = os.fstat(stream.fileno()).st_size
    headers = {"content-length": str(size)} | attached(name)
    if head:
        stream.close()
        return Response(None, 200, headers, media_type)
    return StreamingResponse(_pieces(stream, size), 200, headers, media_type)


def attached(name: str) -> dict[str, str]:
    """The header of what browsers keep as the file ``name``; none for ""."""
    return {"content-disposition": f'attachment; filename="{name}"'} if name else {}


def _pieces(stream: IO[bytes], left: int) -> Iterator[bytes]:
    with stream:
        while left > 0 and (piece := stream.read(min(left, PIECE))):
            left -= len(piece)
            yield piece


async def receive(
    body: AsyncIterator[bytes], write: Callable[[bytes], object], check: Callable[[int], None]
) -> None:
    """Give ``write`` the body as it comes, in a thread.

    ``check`` is called with the number of bytes so far, to raise when it is too much.
    """
    seen, piece = 0, bytearray()
    async for data in body:
        seen += len(data)
        check(seen)
        piece += data
        if len(piece) >= PIECE:
            await run_in_threadpool(write, bytes(piece))
            piece.clear()
    await run_in_threadpool(write, bytes(piece))


async def receive_file(
    content_type: str,
    body: AsyncIterator[bytes],
    target: IO[bytes],
    check: Callable[[int], None],
    field: str = "file",
) -> int:
    """Write ``field`` of a body in multipart form to ``target``; its size in bytes.

    ``check`` is as in ``receive``. UsageError for a body that isn't whole, or lacks the field.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise UsageError("the body is not multipart/form-data", HOW)
    parts = _Parts(field, target)
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": parts.begin,
            "on_header_field": parts.header_field,
            "on_header_value": parts.header_value,
            "on_header_end": parts.header_end,
            "on_headers_finished": parts.headers_finished,
            "on_part_data": parts.data,
            "on_end": parts.end,
        },
    )
    try:
        await receive(body, parser.write, check)
    except MultipartParseError as error:
        raise UsageError(f"the body is not valid multipart/form-data: {error}", HOW) from error
    if not parts.found:
        raise UsageError(f"no file was provided: the body has no field {field!r}", HOW)
    if not parts.ended:
        raise UsageError("the body ends in the middle: the upload was interrupted", "Upload again.")
    return parts.size


class _Parts:
    """What the parser finds: the headers of each part, and the data of the one that is wanted."""

    def __init__(self, field: str, target: IO[bytes]) -> None:
        self._field = field.encode()
        self._target = target
        self._name = self._value = b""
        self._wanted = False
        self.found = self.ended = False
        self.size = 0

    def begin(self) -> None:
        self._wanted = False

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._wanted = options.get(b"name") == self._field and not self.found
        self._name = self._value = b""

    def headers_finished(self) -> None:
        self.found = self.found or self._wanted

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._target.write(memoryview(data)[start:end])
            self.size += end - start

    def end(self) -> None:
        self.ended = True
