"""A file behind a web server: each hop, its certificate, and what it answers to a range request."""

from __future__ import annotations

import http.client
import re
import ssl
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from socket import socket
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from mlaas4hep.core.units import size
from mlaas4hep.sources.credentials import Bearer, ca_folder, x509_proxy
from mlaas4hep.sources.doctor.certificates import (
    look_at_authorities,
    look_at_proxy,
    who,
    with_vo,
)
from mlaas4hep.sources.doctor.content import HEAD, attempt, look_at_head, look_at_trees
from mlaas4hep.sources.doctor.secure import secure
from mlaas4hep.sources.doctor.steps import PATIENCE, Diagnosis, State, connect, look_at_clock
from mlaas4hep.sources.doctor.tokens import explain_refusal, look_at_token
from mlaas4hep.sources.web import tls_context
from mlaas4hep.sources.x509 import Authorities

_SECONDS = 15
_REDIRECTS = 5
_REFUSALS = (401, 403)
_MOVED = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_REPLICA = "Try again later, or name another replica; tell the site if it stays."


@dataclass
class _Answer:
    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def diagnose_web(diagnosis: Diagnosis, name: str) -> None:
    """All steps for a file at http(s):// or dav(s)://."""
    url = re.sub("^dav", "http", name, flags=re.IGNORECASE)
    known, token = Authorities(ca_folder()), None
    host, port, path, answer = _follow(diagnosis, url, known)
    if answer.status in _REFUSALS:
        token = _look_at_credentials(diagnosis, known, url)
        if token:
            host, port, path, answer = _follow(diagnosis, url, known, token)
    if stamp := answer.headers.get("date"):
        with suppress(ValueError):
            look_at_clock(diagnosis, host, parsedate_to_datetime(stamp).timestamp())
    if answer.status != 206:
        _explain(diagnosis, host, port, path, token, answer)
    length = _length(answer)
    diagnosis.ok("file", f"{host} has it, {size(length) if length else 'of unknown size'}",
                 size=length)  # fmt: skip
    look_at_head(diagnosis, answer.body, length)
    look_at_trees(diagnosis, attempt(name, _SECONDS))


def _follow(
    diagnosis: Diagnosis, url: str, known: Authorities, token: Bearer | None = None
) -> tuple[str, int, str, _Answer]:
    """Host, port and path that answer in the end; a token is for the first host only."""
    first = urlsplit(url)[:2]  # a token isn't shown by plain http either
    for _ in range(_REDIRECTS):
        bearer = token if urlsplit(url)[:2] == first else None
        host, port, answer = _ask(diagnosis, url, known, bearer)
        if answer.status not in _MOVED or "location" not in answer.headers:
            return host, port, urlsplit(url).path, answer
        url = urljoin(url, answer.headers["location"])
        diagnosis.ok("redirected", f"{host} sends to {urlsplit(url).netloc}")
    return diagnosis.fail("server", f"{first[1]} redirects more than {_REDIRECTS} times", _REPLICA)


def _look_at_credentials(diagnosis: Diagnosis, known: Authorities, url: str) -> Bearer | None:
    """What a server that refuses may want: a token, which is shown by https only, or a proxy."""
    if not url.lower().startswith("https:"):
        return None
    if x509_proxy():
        look_at_proxy(diagnosis, known)
    return look_at_token(diagnosis)


def _length(answer: _Answer) -> int | None:
    total = answer.headers.get("content-range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _ask(
    diagnosis: Diagnosis, url: str, known: Authorities, token: Bearer | None
) -> tuple[str, int, _Answer]:
    """The answer to a request for the first bytes; steps up to ``TLS`` on the way."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        diagnosis.fail(
            "address", f"{diagnosis.name} is no address: {error}", "Write https://HOST/PATH."
        )
    if not host or scheme not in _PORTS:
        diagnosis.fail(
            "address", f"{diagnosis.name} is no web address with a host", "Write https://HOST/PATH."
        )
    port = port or _PORTS[scheme]
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    target = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
    headers = {"Range": f"bytes=0-{HEAD - 1}", "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token.value}"
    reach = partial(connect, diagnosis, host, port)
    if proxy:
        by = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        reach = partial(_through, diagnosis, by, host, port, scheme == "https")
        if scheme == "http":
            target, headers = url, headers | _for_proxy(by)
    try:
        sock = reach()
        if scheme == "https":
            sock = _secure(diagnosis, host, sock, reach, known)
        with sock:
            return host, port, _request(sock, host, port, target, headers)
    except TimeoutError:
        diagnosis.fail(
            "server",
            f"{host}, port {port}, accepts the connection and doesn't answer within"
            f" {PATIENCE:.0f} s",
            f"The server hangs or is overloaded. {_REPLICA}",
            silent=True,
        )
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, ssl.SSLError) and x509_proxy():  # servers look at it after they answer
            look_at_proxy(diagnosis, known)
            diagnosis.blame("proxy")
        what = str(error) or type(error).__name__
        diagnosis.fail(
            "server",
            f"{host}, port {port}, gives no answer of a web server: {what}",
            f"Look at scheme and port of the address. {_REPLICA}",
        )


def _secure(
    diagnosis: Diagnosis, host: str, first: socket, again: partial[socket], known: Authorities
) -> ssl.SSLSocket:
    if known.folder.is_dir():
        look_at_authorities(diagnosis, known)
    ready, context = [first], tls_context()
    trusted = f"this machine's CAs and those in {known.folder}"
    return secure(diagnosis, host, lambda: ready.pop() if ready else again(), context, trusted)


def _through(
    diagnosis: Diagnosis, proxy: SplitResult, host: str, port: int, tunnel: bool
) -> socket:
    """A connection to the proxy that the environment names, or through it to the server."""
    by, by_port = str(proxy.hostname), proxy.port or 80
    diagnosis.ok("proxy server", f"{by}, port {by_port} (https_proxy, http_proxy, no_proxy)")
    connection = connect(diagnosis, by, by_port)
    if not tunnel:
        return connection
    headers = {"Host": f"{host}:{port}"} | _for_proxy(proxy)
    lines = [f"CONNECT {host}:{port} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    connection.sendall("\r\n".join(lines).encode())
    answer = http.client.HTTPResponse(connection, method="CONNECT")
    answer.begin()
    if answer.status != 200:
        diagnosis.fail(
            "proxy server",
            f"the proxy {by} doesn't connect to {host}, port {port}: {answer.status}"
            f" {answer.reason}",
            "Ask who runs the proxy to allow that host, or name another replica.",
        )
    return connection


def _for_proxy(proxy: SplitResult) -> dict[str, str]:
    """What a proxy wants that has user and password in its address."""
    if not proxy.username:
        return {}
    who = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(who.encode()).decode()}"}


def _request(sock: socket, host: str, port: int, target: str, headers: dict[str, str]) -> _Answer:
    connection = http.client.HTTPConnection(host, port)
    connection.sock = sock
    connection.request("GET", target, headers=headers)
    with connection.getresponse() as answer:
        found = {name.lower(): value for name, value in answer.getheaders()}
        return _Answer(answer.status, answer.reason, found, answer.read(HEAD))


def _explain(
    diagnosis: Diagnosis, host: str, port: int, path: str, token: Bearer | None, answer: _Answer
) -> NoReturn:
    status = f"{answer.status} {answer.reason}".strip()
    if answer.status == 200:
        diagnosis.fail(
            "ranges",
            f"{host} doesn't answer range requests (HTTP Range): a file can only be read whole",
            "Copy the file here, or ask for it by root:// or from a server that does.",
        )
    if answer.status in _REFUSALS:
        diagnosis.blame("clock")
        if diagnosis.state("proxy") == State.OK and not token:
            proxy = diagnosis.details("proxy")
            diagnosis.blame("VO")
            diagnosis.fail(
                "access",
                f"{host} doesn't let {who(proxy)} read {path} ({status}), and there is no bearer"
                " token",
                f"{with_vo(proxy)} Or get a token, and set BEARER_TOKEN_FILE.",
                vo=proxy.get("vo"),
            )
        diagnosis.blame_all("proxy", "token")
        if token:
            explain_refusal(diagnosis, token, host, port, path, status)
        diagnosis.fail(
            "access",
            f"{host} doesn't let everybody read {path} ({status})",
            "Tokens are only sent by https://: write that, if the server has it.",
        )
    if answer.status in (404, 410):
        diagnosis.fail("file", f"no such file on {host}: {path} ({status})", "Correct the path.")
    if answer.status == 416:
        diagnosis.fail("ROOT", f"{path} on {host} is empty: 0 bytes", "Name another replica.")
    diagnosis.fail("server", f"{host} answers {status}", _REPLICA)
