"""Reading remote files: deadlines, retries, replicas and renewed credentials, for every protocol.

A protocol is a Connection (``web.py``, ``xrootd.py``, ``bucket.py``), which tries each thing once
and says by its error what may help: PassingError another try, DeniedError a renewed token, anything
else nothing. RemoteSource, through which uproot gets every byte, acts on that.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Queue
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import numpy as np
from uproot.source.chunk import Chunk, Source

from mlaas4hep.core.errors import (
    DataError,
    FileError,
    RefusedError,
    UnreachedError,
    first_line,
)
from mlaas4hep.core.units import size
from mlaas4hep.sources.columns import Place
from mlaas4hep.sources.credentials import X509, Bearer, bearer_token, x509_proxy
from mlaas4hep.sources.names import missing

T = TypeVar("T")
_log = logging.getLogger(__name__)
_failing: set[str] = set()
"""Servers that failed when they were last asked: other replicas than theirs come first."""
_silent: dict[str, float] = {}
"""Servers that gave no answer at all, and since when (time.monotonic), see ``note_silent``."""

HEAD_BYTES = 1024
"""Bytes from the start that are read with the opening: what uproot reads first is among them."""
MOST_BYTES = 1 << 30
"""Of one part of a file; ROOT's own limit for a basket."""
_IDENTITY_BYTES = 100
"""Bytes from the start in which ROOT keeps the file's UUID and where it ends."""
_CLOCKS = 10
"""Seconds by which clocks may differ: a token refused so long before its end counts as expired."""


@dataclass(frozen=True)
class Patience:
    """Seconds for a connection and for a request, further tries, and seconds before the first.

    Each further pause is twice as long, but no longer than ``renewal``, the seconds by which a
    token's renewal may be late.
    """

    connect: int = 15
    request: int = 60
    retries: int = 4
    pause: float = 1
    renewal: float = 60

    @classmethod
    def of_environment(cls) -> Patience:
        """With what the variables of XRootD's client say, for all protocols."""
        usual = cls()
        return cls(
            connect=_number("XRD_CONNECTIONWINDOW", usual.connect),
            request=_number("XRD_REQUESTTIMEOUT", usual.request),
            retries=_number("XRD_CONNECTIONRETRY", usual.retries),
        )

    def before(self, turn: int, asked: float = 0) -> float:
        """Seconds before a further try, the first of which is turn 1; the server asked for some."""
        return min(max(self.pause * 2.0 ** (turn - 1), asked), self.renewal)


def _number(variable: str, usual: int) -> int:
    try:
        return int(os.environ[variable])
    except (KeyError, ValueError):
        return usual


_PORTS = {
    **dict.fromkeys(("http", "dav"), 80),
    **dict.fromkeys(("https", "davs"), 443),
    **dict.fromkeys(("root", "roots", "xroot", "xroots", "xrootd"), 1094),
}


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, however they are written; of s3:// the endpoint, too."""
    server = "/".join(url.split("/", 3)[:3]).lower()
    scheme, _, place = server.partition("://")
    if scheme == "s3":
        # Of a bucket, as what is wrong with it isn't of the others there.
        by = map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"))
        return " ".join([server, *(value or "" for value in by)])
    host = place.rpartition("@")[2].removesuffix(f":{_PORTS.get(scheme, '')}")
    return f"{scheme}://{host}"


def note_silent(url: str, is_silent: bool) -> None:
    """Remember, for all of the process, that a file's server answers nobody, or that it does."""
    if is_silent:
        _silent[server_of(url)] = time.monotonic()
    else:
        _silent.pop(server_of(url), None)


def silent_for(url: str) -> float | None:
    """Seconds since the file's server was last found to answer nobody; None if it wasn't."""
    when = _silent.get(server_of(url))
    return None if when is None else time.monotonic() - when


class PassingError(Exception):
    """What may pass by itself: a cut connection, a busy server; ``wait`` is what it asks for."""

    def __init__(self, message: str, wait: float = 0) -> None:
        super().__init__(message)
        self.wait = wait


def until_it_passes(action: Callable[[Patience], T]) -> T:
    """What an action returns that is tried again after a PassingError, a few times."""
    patience = Patience.of_environment()
    for turn in range(1, patience.retries + 1):
        try:
            return action(patience)
        except PassingError as error:
            time.sleep(patience.before(turn, error.wait))
    return action(patience)


class DeniedError(Exception):
    """The server refuses; ``token`` is what it was shown, if anything."""

    def __init__(self, message: str, token: Bearer | None = None) -> None:
        super().__init__(message)
        self.token = token


class ReplacedError(Exception):
    """The file at the server isn't the one that was opened; the message says what it is."""


@dataclass
class Traffic:
    """What was read of a file since it was opened, and what got in the way.

    ``retries`` are further tries after failures, ``renewals`` how often another token was found
    than before, ``evictions`` how often an older version of the file was dropped from the
    installation's cache, ``replica`` the URL or path that is being read.
    """

    bytes: int = 0
    requests: int = 0
    retries: int = 0
    renewals: int = 0
    evictions: int = 0
    replica: str = ""


class Connection(Protocol):
    """A file that is open at a server.

    ``size`` is in bytes, None where the server doesn't tell; ``head`` are the first HEAD_BYTES;
    ``versioned`` whether each ``read`` raises ReplacedError if the file was replaced; ``token``
    what the server was shown last.
    """

    size: int | None
    head: bytes
    versioned: bool
    token: Bearer | None

    def read(self, ranges: Sequence[Place]) -> list[bytes]:
        """The bytes of each range."""

    def confirm(self) -> None:
        """ReplacedError if the file was replaced by now, where no read says so."""

    def close(self) -> None:
        """Give the connection back; never fails."""


Connect = Callable[[str, Patience, Traffic], Connection]
"""Opens a URL; each request that is sent is counted in the Traffic."""


class RemoteSource(Source):  # type: ignore[misc]
    """A remote file as uproot's source; the first of its replicas that can be read.

    Another is used only in place of the same file: one of the same size and UUID. Failures are
    DataErrors that name the URL.
    """

    def __init__(
        self,
        file_path: str,
        connect: Connect,
        replicas: Sequence[str] = (),
        uuid: str | None = None,
        **_: Any,
    ) -> None:
        """With ``uuid``, a replica that has another at its opening is passed over."""
        super().__init__()
        self._file_path = file_path
        self._urls = list(dict.fromkeys((file_path, *replicas)))
        self._urls.sort(key=lambda url: server_of(url) in _failing)
        self._connect, self._patience = connect, Patience.of_environment()
        self._wanted, self._unlike = uuid, set[str]()
        self._connection: Connection | None = None
        self._size: int | None = None
        self._head = b""
        self._token: Bearer | None = None
        self._proxy_end: float | None = None
        self._closed = False
        self.traffic = Traffic(replica=self._urls[0])
        self._persist(lambda connection: None)

    def __repr__(self) -> str:
        return f"<RemoteSource {self._file_path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._disconnect()

    @property
    def closed(self) -> bool:
        """Whether it was closed; uproot asks."""
        return self._closed

    @property
    def num_bytes(self) -> int | None:
        """The file's size; None where the server doesn't tell."""
        return self._size

    def chunk(self, start: int, stop: int) -> Chunk:
        """A range of bytes, as uproot asks for metadata; it may reach beyond the end."""
        if self._size is not None:
            stop = max(start, min(stop, self._size))
        data = self._head[start:stop]
        if len(data) < stop - start:
            (data,) = self.read([(start, stop)], check=False)
        return Chunk.wrap(self, np.frombuffer(data, np.uint8), start)

    def chunks(self, ranges: list[Place], notifications: Queue[Chunk]) -> list[Chunk]:
        """Several ranges of bytes."""
        found = [
            Chunk.wrap(self, np.frombuffer(data, np.uint8), start)
            for data, (start, _) in zip(self.read(ranges), ranges, strict=True)
        ]
        for chunk in found:
            notifications.put(chunk)
        return found

    def read(self, ranges: Sequence[Place], check: bool = True) -> list[bytes]:
        """The bytes of each range; with ``check`` they are of the file that was opened.

        A range that reaches beyond the end is an error. Metadata needn't be checked: what is read
        by them is.
        """
        if any(stop - start > MOST_BYTES for start, stop in ranges):
            raise FileError(
                f"{self._file_path} seems damaged: parts of more than {size(MOST_BYTES)} are in it",
                "Copy the file again from where it came from, or take it off the list.",
            )

        def once(connection: Connection) -> list[bytes]:
            found = connection.read(ranges)
            for data, (start, stop) in zip(found, ranges, strict=True):
                if len(data) != stop - start:
                    raise OSError(f"{len(data)} bytes came for bytes {start} to {stop}")
            self.traffic.bytes += sum(map(len, found))
            if check and not connection.versioned:
                own = self._head[:_IDENTITY_BYTES]
                (head,) = connection.read([(0, len(own))])
                if head != own:
                    raise ReplacedError(_described(None, head))
            return found

        return self._persist(once)

    def _persist(self, action: Callable[[Connection], T]) -> T:
        """Do something by each replica in turn until one can; by those that may, after a pause."""
        current = self._urls.index(self.traffic.replica)
        ordered = self._urls[current:] + self._urls[:current]
        urls = [url for url in ordered if url not in self._unlike]
        failures: dict[str, Exception] = {}
        for turn in range(self._patience.retries + 1):
            if turn:
                time.sleep(self._pause(turn, failures))
            for url in list(urls):
                self.traffic.retries += bool(failures)
                try:
                    done = self._by(url, action)
                except ReplacedError as error:
                    raise self._replaced(url, error) from None
                except PassingError as error:
                    failures[url] = error
                    _failing.add(server_of(url))
                except Exception as error:
                    failures[url] = error
                    urls.remove(url)
                else:
                    _failing.discard(server_of(url))
                    return done
                self._disconnect()
            if not urls:
                break
        raise _failure(self._file_path, failures) from failures[self.traffic.replica]

    def _pause(self, turn: int, failures: dict[str, Exception]) -> float:
        asked = max(e.wait for e in failures.values() if isinstance(e, PassingError))
        return self._patience.before(turn, asked)

    def _by(self, url: str, action: Callable[[Connection], T]) -> T:
        while True:
            try:
                connection = self._opened(url)
                done = action(connection)
            except DeniedError as error:
                self._disconnect()
                self._note(error.token)
                renewed = self._is_renewed(error.token) if error.token else self._has_new_proxy()
                if not renewed:
                    raise
                self.traffic.retries += 1
            else:
                self._note(connection.token)
                return done

    def _opened(self, url: str) -> Connection:
        if self._connection and self.traffic.replica == url:
            return self._connection
        self._disconnect()
        proxy = x509_proxy()
        self._proxy_end = proxy.expires if proxy else None
        connection = self._connect(url, self._patience, self.traffic)
        first, self._connection = not self._head, connection
        found = _uuid_of(connection.head)
        if first and self._wanted and found not in (None, self._wanted):
            self._unlike.add(url)
            raise FileError(f"it has the UUID {found}, not {self._wanted}")
        if first:
            self._size, self._head = connection.size, connection.head
        elif (connection.size, connection.head) != (self._size, self._head):
            raise ReplacedError(_described(connection.size, connection.head))
        self.traffic.replica = url
        self.traffic.bytes += len(connection.head)
        return connection

    def confirm(self) -> None:
        """FileError if the file was replaced while it was read, up to now."""
        if not self._connection:
            return
        try:
            self._connection.confirm()
        except ReplacedError as error:
            raise self._replaced(self.traffic.replica, error) from None
        except PassingError as error:
            _log.warning("%s: nobody tells whether it was replaced: %s", self._file_path, error)

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _note(self, token: Bearer | None) -> None:
        if token and self._token and token.value != self._token.value:
            self.traffic.renewals += 1
        self._token = token or self._token

    def _has_new_proxy(self) -> bool:
        """Whether there is another proxy certificate than the one that was shown and has expired.

        It may have come before that, or come soon enough after.
        """
        shown = self._proxy_end
        if shown is None or shown > time.time() + _CLOCKS:
            return False
        while True:
            proxy = x509_proxy()
            if proxy and proxy.expires not in (None, shown) and not has_expired(proxy):
                self.traffic.renewals += 1
                return True
            if time.time() >= shown + self._patience.renewal:
                return False
            time.sleep(0.2)

    def _is_renewed(self, token: Bearer) -> bool:
        """Whether there is another token now, or soon enough after its expiry."""
        if not token.file:
            return False
        # After its expiry, wait for one that is late, but not for one that nobody renews.
        end = (token.expires or 0) + self._patience.renewal if has_expired(token, _CLOCKS) else 0
        while True:
            with suppress(DataError):  # such as a file that is just being written
                found = bearer_token()
                if found and found.value != token.value and not has_expired(found):
                    return True
            if time.time() >= end:
                return False
            time.sleep(0.2)

    def _replaced(self, url: str, error: ReplacedError) -> DataError:
        was = f"it was {_described(self._size, self._head)}"
        return FileError(
            f"{self._file_path} was replaced while it was read: {was}, now {url} is {error}",
            "Start again; if a replica differs from the others, take it off the list.",
        )


def has_expired(credential: Bearer | X509, early: float = 0) -> bool:
    """Whether it has by its own account, or will in ``early`` seconds."""
    end = credential.expires
    return end is not None and end <= time.time() + early


def _described(length: int | None, head: bytes) -> str:
    """Size and UUID of a ROOT file, as far as they are known."""
    parts = [size(length)] if length is not None else []
    if found := _uuid_of(head):
        parts.append(f"UUID {found}")
    return ", ".join(parts) or "no ROOT file"


def _uuid_of(head: bytes) -> str | None:
    """The UUID of a ROOT file by its first bytes; None if they aren't such a file's."""
    large = head[4:8] >= (1_000_000).to_bytes(4, "big")
    start = 59 if large else 47
    found = head[start : start + 16]
    return str(UUID(bytes=found)) if head[:4] == b"root" and len(found) == 16 else None


def _failure(name: str, failures: dict[str, Exception]) -> DataError:
    """What to tell of a file, ``name``, that can't be read from any of its replicas.

    A FileError, unless credentials or the like are to blame: other files would fail, too.
    """
    (url, error), *others = failures.items()
    if others:
        reasons = "; ".join(f"{url}: {reason(error)}" for url, error in failures.items())
        ours = any(
            isinstance(each, DeniedError | DataError) and not isinstance(each, FileError)
            for each in failures.values()
        )
        kind = RefusedError if ours else UnreachedError
        return kind(
            f"{name} can't be read from any of its {len(failures)} replicas: {reasons}",
            "Check the addresses, and whether the servers answer and let you read.",
        )
    if isinstance(error, DataError):
        return error
    if isinstance(error, FileNotFoundError):
        return missing(url, "Give a path or URL that exists.")
    if isinstance(error, DeniedError):
        return RefusedError(f"{url} can't be read: {reason(error)}", _advice(error.token))
    return UnreachedError(
        f"{url} can't be read: {reason(error)}",
        "Check the address, and whether the server answers and lets you read.",
    )


def reason(error: Exception) -> str:
    """Why something failed, in a line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, DataError):
        return error.message
    if not isinstance(error, PassingError | DeniedError | OSError) or not str(error):
        return first_line(error)
    return str(error).strip().splitlines()[0]


def _advice(token: Bearer | None) -> str:
    """What to do about a refusal, by what the server was shown."""
    if token and has_expired(token):
        ended = datetime.fromtimestamp(token.expires or 0, UTC)
        renew = "" if token.file else " Name its file in BEARER_TOKEN_FILE."
        return f"The token in {token.where} expired at {ended:%F %T} UTC: get a new one.{renew}"
    if token:
        return f"The token in {token.where} isn't good for it: check its audience and scope."
    if proxy := x509_proxy():
        return (
            f"Check the proxy certificate {proxy.path} (voms-proxy-info), or get a bearer token"
            " (BEARER_TOKEN_FILE)."
        )
    return "Get a proxy certificate (voms-proxy-init) or a bearer token (BEARER_TOKEN_FILE)."
