"""A multipart body written to disk as it comes, and turns for the work that follows.

Nothing of a body is kept in memory or in /tmp.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import IO, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from mlaas4hep.core.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")
PIECE = 1 << 20
HOW = "Send it as curl does: curl -F file=@FOLDER.tar.gz 'SERVER/upload?name=NAME'"


async def receive_file(
    content_type: str,
    body: AsyncIterator[bytes],
    target: IO[bytes],
    check: Callable[[int], None],
    field: str = "file",
) -> int:
    """Write the content of ``field`` to ``target`` and return its size in bytes.

    ``check`` is called with the number of bytes of the body so far, to raise when it is too much.
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
    seen, piece = 0, bytearray()
    try:
        async for data in body:
            seen += len(data)
            check(seen)
            piece += data
            if len(piece) >= PIECE:
                await run_in_threadpool(parser.write, bytes(piece))
                piece.clear()
        await run_in_threadpool(parser.write, bytes(piece))
    except MultipartParseError as error:
        raise UsageError(f"the body is not valid multipart/form-data: {error}", HOW) from error
    if not parts.found:
        raise UsageError(f"no file was provided: the body has no field {field!r}", HOW)
    if not parts.ended:
        raise UsageError("the body ends in the middle: the upload was interrupted", "Upload again.")
    return parts.size


class Turns:
    """Long work of users, in threads: a few at a time, first come, first served.

    Of one owner one fewer runs, so that the others need not wait until all of theirs is done. What
    waits for its turn holds no thread.
    """

    def __init__(self, at_once: int = 2) -> None:
        self._at_once = at_once
        self._all = asyncio.Semaphore(at_once)
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, owner: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns; the owner "" is everybody."""
        mine = self._at_once - 1 if owner else self._at_once
        turn = self._owners.setdefault(owner, asyncio.Semaphore(max(1, mine)))
        async with turn, self._all:
            return await run_in_threadpool(work, *args, **kwargs)


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
