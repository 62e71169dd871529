"""Files behind XRootD servers and redirectors: root://, roots://, and their other names."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.origins import Doors
from mlaas4hep.sources.cached import CachedFile, through
from mlaas4hep.sources.columns import Place
from mlaas4hep.sources.credentials import Bearer, bearer_token
from mlaas4hep.sources.remote import (
    HEAD_BYTES,
    DeniedError,
    PassingError,
    Patience,
    Traffic,
    has_expired,
)

_PATIENCE = {
    "ConnectionWindow": 15,
    "ConnectionRetry": 1,
    "RequestTimeout": 60,
    "TimeoutResolution": 1,
    "StreamErrorWindow": 0,
}
"""Seconds and tries of XRootD's client, for which it waits by itself for minutes, or half an hour
for a server that hangs; further tries are ours. The variables XRD_... have precedence."""
_VECTOR_BYTES = 8 * 2**20
"""Bytes of one vector read; several are on their way at a time."""
_READV = 2097136, 1024
"""Bytes of a part of a vector read and parts, at most, where the server doesn't tell."""


def load(url: str) -> ModuleType:
    """XRootD's client, told how patient to be; DataError where loading it would crash Python."""
    if "XRootD" in sys.modules:
        return import_module("XRootD.client")
    if "tensorflow" in sys.modules:
        # Seen with xrootd 6.2.1 and tensorflow 2.21; the other way round both work.
        raise DataError(
            f"{url} can't be opened: XRootD's client, loaded after TensorFlow, crashes Python",
            "Open a root:// file, or import XRootD, before importing tensorflow or keras.",
        )
    client = import_module("XRootD.client")
    for name, value in _PATIENCE.items():
        client.EnvPutInt(name, value)
    return client


class XRootDConnection:
    """A file at an XRootD server, wherever the redirector sends us; ranges are vector reads.

    In a training of an installation with a cache, it is read through that.
    """

    def __init__(self, url: str, patience: Patience, traffic: Traffic) -> None:
        scheme, rest = url.split("://", 1)
        self._url = f"{'roots' if scheme.lower().endswith('s') else 'root'}://{rest}"
        self._patience, self._traffic = patience, traffic
        client = load(url)
        doors = Doors.of_environment()
        self._cached = CachedFile(url, doors, patience.request) if doors else None
        self.versioned = bool(self._cached)
        if self._cached:
            self._url = self._cached.url
            traffic.evictions += self._cached.was_evicted
        self.token = _token(url)
        self._file = client.File()
        try:
            self._call(self._file.open, self._url, timeout=self._seconds)
            at = str(self._file.get_property("LastURL"))
            if not at.startswith(("root://", "roots://", "xroot://", "xroots://")):
                # The client would follow a server to a file of this machine.
                raise DataError(
                    f"{url} can't be read: its server sends to {at.partition('?')[0]}",
                    "Don't use this server.",
                )
            self._most = _readv_limits(client, self._file.get_property("DataServer"))
            self.size: int = self._call(self._file.stat, timeout=self._seconds).size
            (self.head,) = self.read([(0, min(HEAD_BYTES, self.size))])
        except BaseException as error:
            self.close()
            if self._cached and isinstance(error, PassingError | DeniedError):
                error.args = (f"{error}{self._cached.away}",)
            raise

    @property
    def _seconds(self) -> int:
        return max(1, round(self._patience.request))

    def confirm(self) -> None:
        """ReplacedError if the cache finds now that the file was replaced since it was opened."""
        if self._cached:
            self._cached.check(now=True)

    def close(self) -> None:
        """Close the file without waiting for the server."""
        if self._file.is_open():
            self._file.close(callback=lambda *_: None)

    def read(self, ranges: Sequence[Place]) -> list[bytes]:
        """The bytes of each range."""
        split = [list(_parts(start, stop, self._most[0])) for start, stop in ranges]
        vectors = _vectors([part for each in split for part in each], self._most[1])
        calls = [_Call(self._file.vector_read, v, timeout=self._seconds) for v in vectors]
        self._traffic.requests += len(calls)
        found = iter([c for call in calls for c in self._done(call).chunks])
        if self._cached:
            self._cached.check()
        return [b"".join([next(found).buffer for _ in each]) for each in split]

    def _call(self, function: Any, *given: Any, **named: Any) -> Any:
        self._traffic.requests += 1
        return self._done(_Call(function, *given, **named))

    def _done(self, call: _Call) -> Any:
        status, answer = call.result(2 * self._patience.request + self._patience.connect)
        if not status.ok:
            raise _understood(status, self._shown())
        return answer

    def _shown(self) -> Bearer | None:
        """The token that the client showed last.

        A cut connection it makes again by itself, with what the token's file holds by then.
        """
        with suppress(DataError):
            now = bearer_token()
            if now and has_expired(now):
                self.token = now
        return self.token


def list_folder(url: str, patience: Patience) -> list[str]:
    """Names of the files in the folder at that URL."""
    client = load(url)
    from XRootD.client.flags import DirListFlags, StatInfoFlags

    _token(url)
    doors = Doors.of_environment()
    where = client.URL(through(url, doors)[0] if doors else url)
    server = client.FileSystem(f"{where.protocol}://{where.hostid}/")
    seconds = max(1, round(patience.request))
    path = f"/{where.path.strip('/')}/"
    status, found = _Call(server.dirlist, path, DirListFlags.STAT, timeout=seconds).result(
        2 * seconds + patience.connect
    )
    if not status.ok:
        raise _understood(status, bearer_token())
    other = StatInfoFlags.IS_DIR | StatInfoFlags.OTHER
    return [each.name for each in found if each.statinfo and not each.statinfo.flags & other]


class _Call:
    """A request that is on its way; the client calls back from a thread of its own."""

    def __init__(self, function: Any, *given: Any, **named: Any) -> None:
        self._came = threading.Event()
        self._answer: tuple[Any, Any] | None = None
        submitted = function(*given, **named, callback=self._take)
        if not submitted.ok:
            self._take(submitted, None, None)

    def _take(self, status: Any, answer: Any, _hosts: Any) -> None:
        self._answer = status, answer
        self._came.set()

    def result(self, seconds: float) -> tuple[Any, Any]:
        """Status and answer; the client's own timeouts are shorter."""
        if not self._came.wait(seconds) or not self._answer:
            raise PassingError(f"no answer within {seconds:g} s")
        return self._answer


def _token(url: str) -> Bearer | None:
    """What the client would show; DataError for a file that it refuses, without a word of it."""
    token = bearer_token()
    if token and token.exposed:
        raise DataError(
            f"{url} can't be opened: others may read the token file {token.file}, so that XRootD's"
            " client doesn't use it",
            f"chmod 600 {token.file}",
        )
    return token


def _parts(start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """A range as consecutive (position, length), none longer than ``most``."""
    for position in range(start, max(stop, start + 1), most):
        yield position, min(most, stop - position)


def _vectors(parts: list[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    vector: list[tuple[int, int]] = []
    total = 0
    for part in parts:
        if vector and (len(vector) == most or total + part[1] > _VECTOR_BYTES):
            yield vector
            vector, total = [], 0
        vector.append(part)
        total += part[1]
    if vector:
        yield vector


@cache
def _readv_limits(client: ModuleType, server: str) -> tuple[int, int]:
    """Bytes of a part and parts of a vector read that a server takes."""
    if not server:
        return _READV
    from XRootD.client.flags import QueryCode

    url = client.URL(server)
    asked = client.FileSystem(f"{url.protocol}://{url.hostid}/")
    status, answer = asked.query(QueryCode.CONFIG, "readv_ior_max readv_iov_max", timeout=10)
    try:
        size, count = map(int, answer.split()) if status.ok else _READV
    except ValueError:
        return _READV
    return (size, count) if 4096 <= size <= 1 << 28 and 0 < count <= 1 << 16 else _READV


_DENIED, _MISSING = (3010, 3030), 3011
_FINAL = {3000, 3001, 3002, 3006, 3013, 3019, 3020, 3022, 3023}
"""Errors of a server that don't pass: what was asked was wrong, not possible, or damaged."""


def _understood(status: Any, token: Bearer | None) -> Exception:
    """What a status of the client means, in its own words."""
    text = str(status.message).strip(" \0\n")
    if status.code == status.errErrorResponse:
        if status.errno == _MISSING:
            return FileNotFoundError(text)
        if status.errno in _DENIED:
            return DeniedError(text, token)
        return OSError(text) if status.errno in _FINAL else PassingError(text)
    if status.code == status.errNotFound:
        return FileNotFoundError(text)
    if status.code == status.errAuthFailed:
        return DeniedError(text, token)
    if status.code in (status.errLoginFailed, status.errTlsError):
        # Also what comes of a CA that isn't known.
        return OSError(f"{text} (CAs: X509_CERT_DIR)")
    if status.code in (status.errInvalidArgs, status.errInvalidAddr):
        return OSError(text)
    return PassingError(text)
