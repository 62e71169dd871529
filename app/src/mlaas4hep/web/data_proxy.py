"""The data proxy: trainings reach the hosts that the operator lists through it, and nothing else.

A forward proxy for http (GET and HEAD) and, by CONNECT, https. It listens on a Unix socket that is
mounted into the containers of trainings with remote files. It looks a name up itself and connects
to the very address that it has checked, so a name whose address changes meanwhile gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
import signal
import socket
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import psutil

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.hosts import Address, DataHosts, Network, parse_target
from mlaas4hep.core.origins import Cache
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.remote import PROBE, SOCKET, SOCKETS, EndedError, Known, job_of, make_key
from mlaas4hep.web.protocol import allow_connections

log = logging.getLogger(__name__)

MOST = 256
"""Connections of all trainings."""
MOST_OF_A_JOB = 64
MOST_STRANGERS = 64
"""Connections that have not said yet whose they are: with more of them, the oldest goes."""
GRACE_SECONDS = 0.5
"""For a relay to say it, which it does at once."""
CLOSE_SECONDS = 10.0
"""For a client to take what was sent last; until then its connection counts."""
HELLO_SECONDS = 5.0
HEAD_SECONDS = 30.0
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
HEAD_BYTES = 16 << 10
PIECE_BYTES = 1 << 16
"""Copied at once. A connection whose client takes nothing holds 8 times this at most: what asyncio
reads at once (256 KiB), the buffers of a reader (2 pieces) and a writer (1 piece), and the piece
between them; so MOST of them hold 128 MiB."""
OWN_SECONDS = 60.0
"""How long the addresses of this machine's own names are taken as they were found."""

_FRESH = re.compile(rb"GET /fresh\?door=([0-9]{1,5})&path=[^&;#]* HTTP")
_REQUEST = re.compile(r"(CONNECT|GET|HEAD) ([!-~]+) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_NO_ADDRESS = (socket.EAI_NONAME, socket.EAI_NODATA)
"""Errors that say that a name has no address."""
_OF_ONE_HOP = frozenset(
    ("host", "connection", "keep-alive", "te", "trailer", "upgrade", "content-length")
)


class RefusedError(Exception):
    """A request that is not served: the status, and the reason that its client shows."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Request:
    """What a client asks for; ``head`` is what the server gets of it, empty for a tunnel."""

    host: str
    port: int
    head: bytes


@dataclass
class Flow:
    """Bytes from and to the training, and when the last of them came."""

    sent: int = 0
    received: int = 0
    last: float = 0.0


class DataProxy:
    """Serves trainings at the socket in ``folder``, for the hosts in ``hosts``.

    ``own`` are this machine's names and addresses: each is reached only where it is listed itself.
    The ``cache`` of grid data is reached at any address: at the doors of a training's groups, and
    to ask whether a file behind one of them was replaced.
    """

    def __init__(
        self,
        folder: Path,
        hosts: DataHosts,
        own: Iterable[str] = (),
        cache: Cache | None = None,
    ) -> None:
        self._cache = cache
        self._path = folder / SOCKET
        self._hosts = hosts
        self._own = own_networks()
        self._own_names: list[str] = []
        for name in filter(None, own):
            try:
                self._own.append(ipaddress.ip_network(name))
            except ValueError:
                self._own_names.append(name)
        self._found: dict[str, list[Network]] = {}
        self._looked_up = -math.inf
        (folder / SOCKETS).mkdir(parents=True, exist_ok=True)
        self._key = make_key(folder)
        self._strangers: dict[StreamWriter, float] = {}
        self._open: Counter[str] = Counter()

    async def start(self) -> asyncio.Server:
        """Listen; what an earlier proxy left is replaced."""
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            self._client, self._path, limit=HEAD_BYTES, backlog=512
        )
        self._path.chmod(0o666)  # who sees the folder may connect, and needs a credential
        return server

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if job := await self._known(reader, writer):
                await self._serve(job, reader, writer)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it went away, or sends what is no request
        finally:
            writer.close()

    async def _known(self, reader: StreamReader, writer: StreamWriter) -> Known | None:
        """The training whose connection this is; None for any other's, which is answered."""
        self._make_room()
        self._strangers[writer] = monotonic()
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                line = (await reader.readline()).decode("latin-1").rstrip("\n")
        finally:
            self._strangers.pop(writer, None)
        status = HTTPStatus.OK if line == PROBE else HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        reason = status.phrase
        try:
            if job := job_of(self._key, line):
                return job
        except EndedError as ended:
            reason = "the training of this credential has ended"
            log.warning("refused: %s", reason, extra={"job": str(ended)})
        await _answer(writer, status, reason)
        return None

    def _make_room(self) -> None:
        """Close the oldest that have not said whose they are, but none before it could do so."""
        while len(self._strangers) >= MOST_STRANGERS:
            oldest, since = next(iter(self._strangers.items()))
            if monotonic() < since + GRACE_SECONDS and len(self._strangers) < MOST:
                return
            del self._strangers[oldest]
            oldest.transport.abort()

    async def _serve(self, job: Known, reader: StreamReader, writer: StreamWriter) -> None:
        """One request, or one tunnel; a line in the log says what became of it."""
        begun, flow = monotonic(), Flow(last=monotonic())
        about: dict[str, object] = {"job": job.name}
        self._open[job.name] += 1
        outcome = "served"
        try:
            if self._open[job.name] > MOST_OF_A_JOB or self._open.total() > MOST:
                raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, "too many connections are open")
            async with asyncio.timeout(HEAD_SECONDS):
                request = parse_request(await _head(reader))
            about |= {"host": request.host, "port": request.port}
            up_reader, up_writer, address = await self._connect(request, job)
            about["address"] = str(address)
            try:
                if request.head:
                    up_writer.write(request.head)
                    flow.sent = len(request.head)
                else:
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _relay(reader, writer, up_reader, up_writer, flow, tunnel=not request.head)
            finally:
                up_writer.close()
        except RefusedError as refusal:
            outcome = f"refused: {refusal}"
            with suppress(OSError):
                await _answer(writer, refusal.status, str(refusal))
        finally:
            await _close(writer)
            self._open[job.name] -= 1
            self._open += Counter()  # forgets those with none
            about |= {"sent_bytes": flow.sent, "received_bytes": flow.received}
            log.info(outcome, extra=about | {"seconds": round(monotonic() - begun, 3)})

    def _is_for_cache(self, request: Request, job: Known) -> bool:
        """Whether it is for a door of the cache that this training may use."""
        if not self._cache:
            return False
        mine, target = self._cache.passed(job.doors), (request.host, request.port)
        if request.head:
            asked = _FRESH.match(request.head)
            known = asked and int(asked[1]) in [door.number for door in mine]
            return bool(known) and target == parse_target(self._cache.status)
        return target in [self._cache.at(door) for door in mine]

    async def _connect(
        self, request: Request, job: Known
    ) -> tuple[StreamReader, StreamWriter, Address]:
        """A connection to an address that may be reached for this request, else RefusedError."""
        host, port = request.host, request.port
        for_cache = self._is_for_cache(request, job)
        if not for_cache and not self._hosts.allow(host, port):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"{host}:{port} is not among the hosts that trainings may read from (data_hosts)",
            )
        try:
            own = [] if for_cache else await self._own_networks()
            addresses = await _addresses(host)
        except OSError as error:
            raise RefusedError(HTTPStatus.BAD_GATEWAY, f"{host}: {_reason(error)}") from None
        allowed = [e for e in addresses if for_cache or self._hosts.allow_address(e, own)]
        if not allowed:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"{host} is at {addresses[0]}, which is not a public address, or is this"
                " installation's: the operator must list it in data_hosts",
            )
        problem = ""
        for address in allowed:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    found = await asyncio.open_connection(str(address), port, limit=PIECE_BYTES)
                return *found, address
            except OSError as error:
                problem = f"{host}:{port} at {address}: {_reason(error)}"
        raise RefusedError(HTTPStatus.BAD_GATEWAY, problem)

    async def _own_networks(self) -> list[Network]:
        """Addresses of this machine; of names that aren't answered just now, the last known.

        OSError for a name that never was: its address may be the very one that is asked for.
        """
        if monotonic() > self._looked_up + OWN_SECONDS:
            for name in self._own_names:
                try:
                    found = await _addresses(name)
                except OSError as error:
                    unknown = isinstance(error, socket.gaierror) and error.errno in _NO_ADDRESS
                    if not unknown and name not in self._found:
                        text = f"{name}, a name of this installation, can't be looked up"
                        raise OSError(
                            f"{text} ({_reason(error)}), so nothing is reached"
                        ) from error
                    self._found.setdefault(name, [])
                else:
                    self._found[name] = [ipaddress.ip_network(each) for each in found]
            self._looked_up = monotonic()
        return [*self._own, *chain.from_iterable(self._found.values())]


def parse_request(head: bytes) -> Request:
    """The request in ``head``; RefusedError when the proxy doesn't serve such."""
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if not (match := _REQUEST.fullmatch(line)):
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "only CONNECT, GET and HEAD are served")
    method, asked = match.groups()
    headers = [_HEADER.fullmatch(each) for each in lines]
    named = {each[1].lower(): each[2].strip() for each in headers if each}
    if None in headers or named.get("content-length", "0") != "0" or "transfer-encoding" in named:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "a request without a body is expected")
    try:
        url = urlsplit(f"//{asked}" if method == "CONNECT" else asked)
        port = url.port or (80 if url.scheme == "http" else None)
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "that is no address") from None
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    target = parse_target(f"{host}:{port}")
    if url.scheme != ("" if method == "CONNECT" else "http") or "@" in url.netloc or not target:
        raise RefusedError(
            HTTPStatus.BAD_REQUEST, "http://HOST/PATH or CONNECT HOST:PORT is expected"
        )
    if method == "CONNECT":
        return Request(*target, b"")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    kept = [
        each[0]
        for each in headers
        if each and each[1].lower() not in _OF_ONE_HOP and not each[1].lower().startswith("proxy-")
    ]
    words = [f"{method} {path} HTTP/1.1", f"Host: {url.netloc}", *kept, "Connection: close"]
    return Request(*target, ("\r\n".join(words) + "\r\n\r\n").encode("latin-1"))


async def _relay(
    reader: StreamReader,
    writer: StreamWriter,
    up_reader: StreamReader,
    up_writer: StreamWriter,
    flow: Flow,
    tunnel: bool,
) -> None:
    """Copy both ways until both have ended, or nothing has come for a while.

    Of a request without a tunnel, only the answer: whatever its client sends more is dropped.
    """

    async def copy(source: StreamReader, target: StreamWriter, count: str) -> None:
        while piece := await source.read(PIECE_BYTES):
            setattr(flow, count, getattr(flow, count) + len(piece))
            flow.last = monotonic()
            target.write(piece)
            await target.drain()
        target.write_eof()

    async def both() -> None:
        await asyncio.gather(copy(reader, up_writer, "sent"), copy(up_reader, writer, "received"))

    async def gone() -> None:
        while await reader.read(PIECE_BYTES):
            pass

    async def idle() -> None:
        while (left := flow.last + IDLE_SECONDS - monotonic()) > 0:
            await asyncio.sleep(left)

    work = (both(),) if tunnel else (copy(up_reader, writer, "received"), gone())
    tasks = [asyncio.create_task(each) for each in (*work, idle())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: StreamWriter) -> None:
    """Close the connection of a client, also of one that takes nothing."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _head(reader: StreamReader) -> bytes:
    """All lines of a request, up to the empty one."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise RefusedError(status, f"the request's head has more than {HEAD_BYTES} bytes") from None


async def _answer(writer: StreamWriter, status: HTTPStatus, reason: str) -> None:
    words = "".join(c if " " <= c <= "~" else "?" for c in reason)[:300]
    writer.write(f"HTTP/1.1 {status} {words}\r\nConnection: close\r\n\r\n{words}\n".encode())
    await writer.drain()


async def _addresses(host: str) -> list[Address]:
    """All addresses of ``host``; OSError when it has none, or a name server doesn't answer."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(name[0]) for *_, name in found]


def own_networks() -> list[Network]:
    """The networks that this machine, or its container, is part of."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.netmask:
                bits = int(ipaddress.ip_address(each.netmask)).bit_count()
                address = each.address.partition("%")[0]
                found.append(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    return found


def _reason(error: OSError) -> str:
    return error.strerror or ("no answer" if isinstance(error, TimeoutError) else str(error))


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; prints ``the data proxy listens at PATH`` when ready."""
    if not settings.data_proxy or not (settings.data_hosts or settings.cache):
        raise UsageError(
            "the data proxy needs a folder and hosts",
            "Set MLAAS4HEP_DATA_PROXY, and MLAAS4HEP_DATA_HOSTS to what trainings may read from"
            " (or MLAAS4HEP_XROOTD_CACHE and MLAAS4HEP_XROOTD_ORIGINS).",
        )
    allow_connections()
    own = settings.own_addresses.split(",")
    folder = Path(settings.data_proxy)
    hosts = DataHosts(settings.data_hosts)
    asyncio.run(_serve(DataProxy(folder, hosts, own, settings.cache)))


async def _serve(proxy: DataProxy) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    server = await proxy.start()
    print(f"the data proxy listens at {server.sockets[0].getsockname()}", flush=True)
    await ended.wait()
    server.close()
