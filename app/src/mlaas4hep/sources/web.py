"""Files behind web servers: http(s)://, and dav(s):// of grid sites."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from time import time
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass
from xml.etree import ElementTree

import aiohttp
from fsspec.asyn import get_loop
from yarl import URL

from mlaas4hep.core.errors import DataError, FileError, RefusedError
from mlaas4hep.sources.columns import Place
from mlaas4hep.sources.credentials import Bearer, bearer_token, ca_folder, x509_proxy
from mlaas4hep.sources.remote import (
    HEAD_BYTES,
    DeniedError,
    PassingError,
    Patience,
    ReplacedError,
    Traffic,
)

T = TypeVar("T")
PART_BYTES = 4 * 2**20
"""Bytes that are asked for at once, at most; several such requests are sent side by side."""
AT_ONCE = 8
"""Connections to one server, by all files of one process."""
CONNECTIONS = 32
"""To all servers."""
_REDIRECTING = {301, 302, 303, 307, 308}
_REDIRECTS = 10
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of what may pass."""
_PAGE_BYTES = 4 << 20
"""Of what describes a folder."""
_LINK = re.compile(
    r"""<a\s(?:[^"'<>]|"[^"]{0,500}"|'[^']{0,500}'){0,300}?(?<=[\s"'])href\s?=\s?
    (?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""",
    re.IGNORECASE | re.VERBOSE,
)
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


_SECONDS = 15
"""For what needs no server, such as to close a session."""


def wait_for(coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
    """What a coroutine returns, in the thread in which all remote files are read.

    PassingError if that takes longer, though each request has an end by itself.
    """
    asked = asyncio.run_coroutine_threadsafe(coroutine, get_loop())
    try:
        return asked.result(seconds)
    except TimeoutError:
        asked.cancel()
        raise PassingError(f"no answer within {seconds:g} s") from None


def parts(ranges: Sequence[Place]) -> list[list[Place]]:
    """Each range as consecutive ones of PART_BYTES at most."""
    return [
        list(pairwise([*range(start, stop, PART_BYTES), stop])) or [(start, stop)]
        for start, stop in ranges
    ]


class WebConnection:
    """A file at a web server; ranges are asked for side by side.

    What the server says of versions is not relied on: its times have seconds, and the hosts behind
    one name may tell different ETags of the same file. RemoteSource looks at the UUID in it.

    A bearer token is shown only by https, and only to servers that refuse to answer without one.
    On a redirect to another server it stays behind, as curl and davix do it: the address has what
    that server wants. A proxy certificate is shown to servers that ask for one.
    """

    versioned = False

    def __init__(self, url: str, patience: Patience, traffic: Traffic) -> None:
        self._url = _web_url(url)
        self._patience, self._traffic = patience, traffic
        self._with_token = False
        self.size: int | None = None
        self._is_open = False
        self.token: Bearer | None = None
        self._session = wait_for(_join(patience), _SECONDS)
        try:
            self.head = wait_for(self._get((0, HEAD_BYTES)), self._most_seconds(1))
        except BaseException:
            self.close()
            raise

    def confirm(self) -> None:
        """Each read says so itself."""

    def close(self) -> None:
        """Close the connections, if no other file uses them."""
        with contextlib.suppress(Exception):
            wait_for(_leave(self._session), _SECONDS)

    def read(self, ranges: Sequence[Place]) -> list[bytes]:
        """The bytes of each range."""
        split = parts(ranges)
        return wait_for(self._read(split), self._most_seconds(sum(map(len, split))))

    def _most_seconds(self, requests: int) -> float:
        """More than so many take: each is sent twice at most, AT_ONCE of them side by side."""
        return 2 * self._patience.request * -(-requests // AT_ONCE) + _SECONDS

    async def _read(self, split: list[list[Place]]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._get(part)) for each in split for part in each]
        try:
            found = iter(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [b"".join([next(found) for _ in each]) for each in split]

    async def _get(self, place: Place) -> bytes:
        try:
            return await self._ask(place)
        except DeniedError as error:
            if error.token or not _is_safe(self._url) or not bearer_token():
                raise
        self._with_token = True
        return await self._ask(place)

    async def _ask(self, place: Place) -> bytes:
        start, stop = place
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        token = bearer_token() if self._with_token else None
        if token:
            headers["Authorization"] = f"Bearer {token.value}"
            self.token = token
        self._traffic.requests += 1
        try:
            async with _asked(self._session, "GET", self._url, headers, self._patience) as answer:
                problem = self._problem(answer, place, token)
                found = b"" if problem else await _body(answer, stop - start)
        except (aiohttp.ClientError, OSError, _PlainError) as error:
            raise _understood(self._url, error, self._patience) from error
        if problem:
            raise problem
        return found

    def _problem(
        self, answer: aiohttp.ClientResponse, place: Place, token: Bearer | None
    ) -> Exception | None:
        """What the answer's head says against reading it; of the first, note size and version."""
        host, status = urlsplit(self._url).netloc, answer.status
        said = f"{answer.status} {answer.reason}"
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if status == 200:
            return DataError(
                f"{self._url} can't be read: {host} doesn't answer range requests (HTTP Range)",
                "Copy the file here, or ask for it by root:// or from a server that does.",
            )
        if status in (404, 410):
            return FileNotFoundError(self._url)
        if status in (401, 403):
            return DeniedError(f"{answer.url.host} refuses: {said}", token)
        if status in BUSY:
            return PassingError(said, retry_after(answer.headers.get("Retry-After", "")))
        if status not in (206, 416) or (status == 206 and (not found or not found[1])):
            return OSError(f"unexpected answer of the server: {said}")
        size = int(found[3]) if found and found[3].isdigit() else None
        if not self._is_open:
            if status == 416:
                return FileError(f"{self._url} is empty: 0 bytes", "Give a file with events.")
            self.size, self._is_open = size, True
        elif size != self.size:
            return ReplacedError(f"another version of {size} bytes")
        if status == 416:
            return OSError(f"the file ends before byte {place[0]}")
        first, last = int(found[1]), int(found[2])  # type: ignore[index]
        stop = place[1] if size is None else min(place[1], size)
        if (first, last + 1) != (place[0], stop) and size != 0:
            return OSError(f"the server sent bytes {first} to {last + 1} for {place[0]} to {stop}")
        return None


@contextlib.asynccontextmanager
async def _asked(
    session: aiohttp.ClientSession,
    method: str,
    address: str,
    headers: dict[str, str],
    patience: Patience,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer after redirects, each of which is followed by the proxy for where it leads.

    A token or a password goes on to the same server only. Seconds in which others have all the
    connections to it are not the request's.
    """
    url, headers = URL(address), dict(headers)
    async with asyncio.timeout(patience.request) as limit:
        for _ in range(_REDIRECTS + 1):
            proxy = _proxy_of(str(url))
            with _proxy_told(proxy):
                answer = await session.request(
                    method,
                    url,
                    headers=headers,
                    proxy=proxy,
                    allow_redirects=False,
                    trace_request_ctx=(limit, patience.request),
                )
            place = answer.headers.get("Location")
            if answer.status not in _REDIRECTING or not place:
                async with answer:
                    yield answer
                return
            answer.release()
            url, is_there = _redirected(url, place)
            if not is_there:
                headers.pop("Authorization", None)
            if answer.status == HTTPStatus.SEE_OTHER:
                method = "GET"
    raise _PlainError(f"{urlsplit(address).hostname} redirects more than {_REDIRECTS} times")


def _redirected(url: URL, place: str) -> tuple[URL, bool]:
    """Where a redirect leads, and whether that is the same server; with its password if so."""
    try:
        found = url.join(URL(place))
        is_there = found.origin() == url.origin()
    except ValueError:
        raise _PlainError(f"{url.host} redirects to an address that is not valid") from None
    if found.scheme not in ("http", "https"):
        raise _PlainError(f"{url.host} redirects to {found.scheme}://, not to a web server")
    if is_there and not found.user:
        found = found.with_user(url.user).with_password(url.password)
    return found, is_there


@contextlib.contextmanager
def _proxy_told(proxy: str | None) -> Iterator[None]:
    """Say of which proxy a refusal is, without its password."""
    try:
        yield
    except aiohttp.ClientHttpProxyError as error:
        name = urlsplit(proxy or "").netloc.rpartition("@")[2]
        raise _PlainError(f"the proxy {name} refuses: {error.status} {error.message}") from error


def _clock() -> aiohttp.TraceConfig:
    """Stops a request's time, its (asyncio.Timeout, seconds), while it waits for a connection."""

    async def stop(_: aiohttp.ClientSession, request: Any, __: object) -> None:
        request.trace_request_ctx[0].reschedule(None)

    async def start(_: aiohttp.ClientSession, request: Any, __: object) -> None:
        limit, seconds = request.trace_request_ctx
        limit.reschedule(asyncio.get_running_loop().time() + seconds)

    found = aiohttp.TraceConfig()
    found.on_connection_queued_start.append(stop)
    found.on_connection_queued_end.append(start)
    return found


def _understood(url: str, error: Exception, patience: Patience) -> Exception:
    """What a failure of aiohttp means, in a text without its details."""
    if isinstance(error, _PlainError):
        return OSError(str(error))
    if isinstance(error, TimeoutError):
        return PassingError(f"no answer within {patience.request:g} s")
    if isinstance(error, aiohttp.InvalidURL):
        return OSError("the address is not valid")
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    elif isinstance(error.__cause__, ssl.SSLError):
        cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RefusedError(
            f"{url} can't be read: its certificate is not accepted: {cause.verify_message}",
            "Name the folder or file with its CA in X509_CERT_DIR or SSL_CERT_FILE.",
        )
    if isinstance(cause, ssl.SSLError):
        said = f"no connection by TLS: {cause.reason or cause}"
        return DeniedError(said, None) if "CERTIFICATE_EXPIRED" in said else OSError(said)
    return unreached(cause)


def list_folder(url: str, patience: Patience) -> list[str]:
    """Names of the files in the folder at that URL, by WebDAV or from a page of links."""
    return wait_for(_list(_web_url(url), patience), 4 * patience.request + _SECONDS)


async def _list(url: str, patience: Patience) -> list[str]:
    session = await _join(patience)
    try:
        answer, said = await _whole(session, url, "PROPFIND", patience)
        if answer.status == HTTPStatus.MULTI_STATUS:
            return _names(str(answer.url), _members(said))
        answer, said = await _whole(session, url, "GET", patience)
    except (aiohttp.ClientError, OSError, _PlainError) as error:
        raise _understood(url, error, patience) from error
    finally:
        await _leave(session)
    if answer.status == HTTPStatus.NOT_FOUND:
        raise FileNotFoundError(url)
    refusal = f"{answer.url.host} refuses: {answer.status} {answer.reason}"
    if answer.status in BUSY:
        raise PassingError(refusal, retry_after(answer.headers.get("Retry-After", "")))
    if answer.status != HTTPStatus.OK:
        raise OSError(refusal)
    return _names(str(answer.url), _linked(str(answer.url), said))


async def _whole(
    session: aiohttp.ClientSession, url: str, method: str, patience: Patience
) -> tuple[aiohttp.ClientResponse, str]:
    """The answer and its text; with the token if it is refused without."""
    headers = {"Depth": "1"} if method == "PROPFIND" else {}
    while True:
        async with _asked(session, method, url, headers, patience) as answer:
            said = (await _body(answer, _PAGE_BYTES)).decode(errors="replace")
        refused = answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        token = bearer_token() if refused and _is_safe(url) else None
        if not token or "Authorization" in headers:
            return answer, said
        headers["Authorization"] = f"Bearer {token.value}"


def _members(said: str) -> list[str]:
    """Paths of the files in an answer to PROPFIND (RFC 4918), which folders are not."""
    try:
        tree = ElementTree.fromstring(said)  # noqa: S314  (expat bounds what entities expand to)
    except ElementTree.ParseError as error:
        raise OSError(f"its answer is no XML: {error}") from None
    if any(" 507 " in each.findtext("{DAV:}status", "") for each in tree):
        raise OSError("the server tells a part of it only (507 Insufficient Storage)")
    hrefs = (
        each.findtext("{DAV:}href", "").strip()
        for each in tree.iterfind("{DAV:}response")
        if each.find(".//{DAV:}resourcetype/{DAV:}collection") is None
    )
    # Some servers don't quote names: what would end a path is part of it.
    paths = (re.sub("^[a-z]+://[^/]*", "", href) for href in hrefs)
    return [path.replace("?", "%3F").replace("#", "%23") for path in paths]


def _linked(folder: str, page: str) -> Iterator[str]:
    """Paths that a page's links lead to, on the same server."""
    for found in _LINK.finditer(page):
        try:
            link = urlsplit(urljoin(folder, html.unescape(found[1] or found[2] or found[3] or "")))
        except ValueError:  # it leads nowhere
            continue
        if link.netloc == urlsplit(folder).netloc and not link.query:
            yield link.path


def _names(folder: str, paths: Iterable[str]) -> list[str]:
    """The last parts of those that are files of the folder itself, as they are quoted there."""
    found: dict[str, str] = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        if name and _plain(parent) == _plain(urlsplit(folder).path):
            found.setdefault(unquote(name), name.replace(" ", "%20"))
    return list(found.values())


def _plain(path: str) -> str:
    return re.sub("/+", "/", unquote(path)).strip("/")


_users: dict[aiohttp.ClientSession, int] = {}
_sessions: dict[tuple[object, ...], aiohttp.ClientSession] = {}
"""By the loop that they belong to, and all that an open connection has been decided by."""


async def _join(patience: Patience) -> aiohttp.ClientSession:
    """The session of all files that are opened under the same circumstances.

    So a training of many files shakes hands with a server a few times, not for each file, and
    a proxy certificate that has been renewed is used from the next file on.
    """
    key = (asyncio.get_running_loop(), patience, *_circumstances())
    if not (session := _sessions.get(key)) or session.closed:
        session = _sessions[key] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS, limit_per_host=AT_ONCE, ssl=tls_context()
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect),
            trace_configs=[_clock()],
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )
    _users[session] = _users.get(session, 0) + 1
    return session


async def _leave(session: aiohttp.ClientSession) -> None:
    """Close a session with its last file."""
    _users[session] -= 1
    if not _users[session]:
        del _users[session]
        for key in [key for key, each in _sessions.items() if each is session]:
            del _sessions[key]
        await session.close()


def _circumstances() -> list[object]:
    """What TLS depends on: variables, and the state of the proxy certificate's file."""
    proxy = x509_proxy()
    found: list[object] = [os.environ.get(name) for name in _TLS_VARIABLES]
    with contextlib.suppress(OSError):
        state = proxy.path.stat() if proxy else None
        found += [proxy, state and (state.st_ino, state.st_mtime_ns, state.st_size)]
    return [*found, ca_folder()]


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL.

    aiohttp's own look (``trust_env``) would send passwords of ~/.netrc, too.
    """
    parts = urlsplit(url)
    bypassed = proxy_bypass(parts.hostname or "")
    return None if bypassed else getproxies().get(parts.scheme)


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """What the server sends; an error as soon as it is more than was asked for."""
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > most:
            raise _PlainError(f"the server sends more than the {most} bytes that were asked for")
    return bytes(found)


class _PlainError(Exception):
    """What is to be told as it is, and doesn't pass."""


def _web_url(url: str) -> str:
    """The address with the scheme that web servers know."""
    scheme, rest = url.split("://", 1)
    return f"{'https' if scheme.lower() in ('https', 'davs') else 'http'}://{rest}"


def _is_safe(url: str) -> bool:
    """Whether a token may be shown there."""
    return url.startswith("https:")


def tls_context() -> ssl.SSLContext:
    """Trusts the system's CAs, the grid's and those that the environment names; has the proxy."""
    context = ssl.create_default_context()  # OpenSSL itself reads SSL_CERT_FILE and SSL_CERT_DIR
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if named := os.environ.get(variable):
            is_folder = Path(named).is_dir()
            try:
                context.load_verify_locations(**{"capath" if is_folder else "cafile": named})
            except OSError as error:
                raise DataError(
                    f"{variable} {named} can't be read: {error.strerror or error}",
                    "Name a file of CA certificates, or unset the variable.",
                ) from None
    if ca_folder().is_dir():
        context.load_verify_locations(capath=ca_folder())
    if (proxy := x509_proxy()) and proxy.path.is_file():
        # Servers that want a certificate say so; others are not to fail for a stale variable.
        with contextlib.suppress(OSError):
            context.load_cert_chain(proxy.path, password="")  # never ask for one
    return context


def unreached(cause: BaseException) -> Exception:
    """What an error of the system below a connection means."""
    if isinstance(cause, socket.gaierror):
        text = f"the host is not known: {cause.strerror}"
        return PassingError(text) if cause.errno == socket.EAI_AGAIN else OSError(text)
    if isinstance(cause, OSError) and cause.errno:
        return PassingError(f"no connection: {os.strerror(cause.errno)}")
    return PassingError(f"the connection was cut: {cause or type(cause).__name__}")


def retry_after(value: str) -> float:
    """Seconds of the header Retry-After: a number or a date."""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return 0.0
