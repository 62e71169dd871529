"""A file behind XRootD: handshake, credentials, the client's own attempt, and what its log says."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any, NoReturn
from urllib.parse import urlsplit

from cryptography import x509

from mlaas4hep.core.units import size
from mlaas4hep.sources.credentials import Bearer, ca_folder
from mlaas4hep.sources.doctor.certificates import (
    judge_names,
    judge_times,
    look_at_authorities,
    look_at_list,
    look_at_proxy,
    unknown_authority,
    who,
    with_vo,
)
from mlaas4hep.sources.doctor.content import (
    attempt,
    look_at_head,
    look_at_packages,
    look_at_trees,
)
from mlaas4hep.sources.doctor.handshake import (
    RELAYS,
    NotXRootDError,
    Server,
    ask_certificate,
    greet,
    log_in,
)
from mlaas4hep.sources.doctor.secure import secure
from mlaas4hep.sources.doctor.steps import PATIENCE, Diagnosis, connect, look_at_clock
from mlaas4hep.sources.doctor.tokens import explain_refusal, look_at_token
from mlaas4hep.sources.x509 import Authorities, dn

_PORT = 1094
_SECONDS = 15
"""For the client's attempt: redirectors wait before they say that nobody has a file."""
_ENVIRONMENT = {
    "XRD_CONNECTIONWINDOW": "4",
    "XRD_CONNECTIONRETRY": "1",
    "XRD_REQUESTTIMEOUT": "10",
    "XRD_TIMEOUTRESOLUTION": "1",
    "XRD_LOGLEVEL": "Debug",
}
_AUTH_FAILED = 204
"""The client's code; those below are servers'."""
_DENIED, _MISSING, _FOLDER = 3010, 3011, 3016
_PORTS = f"Look at the port: XRootD's is usually {_PORT}. For a web server write https://."
_ORIGIN = {
    "connection refused": "no server runs there",
    "invalid exchange": "the origin doesn't accept its proxy or token",
    "timed out": "the origin doesn't answer",
}
"""What a cache's errors mean, which are the kernel's words for other things."""
_REPLICA = "Try again later, or name another replica; tell the site if it stays."

# What the client's log says, and its messages don't.
_SIGNED_IN = re.compile(r"Authenticated with (\w+)")
_REFUSED = re.compile(r":(\d+)\.\d+\] Authentication with (\w+) failed: ?(.*)")
_STOPPED = re.compile(r"Cannot get credentials for protocol (\w+): (.*\S)")
_HOP = re.compile(r"Creating new channel to: \w+://(?:[^@/\s]*@)?\[?([^/\s]+?)\]?:(\d+)/")


@dataclass
class _Hop:
    host: str
    port: int
    server: Server


def diagnose_xrootd(diagnosis: Diagnosis, url: str) -> None:
    """All steps for a file at root:// or roots://, by whichever name."""
    scheme, rest = url.split("://", 1)
    secured = scheme.lower().endswith("s")
    url = f"{'roots' if secured else 'root'}://{rest}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        diagnosis.fail(
            "address", f"{diagnosis.name} is no address: {error}", "Write root://HOST:PORT//PATH."
        )
    if not host:
        diagnosis.fail("address", f"{diagnosis.name} names no host", "Write root://HOST//PATH.")
    path = parts.path[1:]
    known = Authorities(ca_folder())
    hop = _meet(diagnosis, host, port, known, secured)
    token = _look_at_credentials(diagnosis, known, hop)
    found, log = _attempt(url)
    look_at_packages(diagnosis, found)
    if signed := _last(_SIGNED_IN, log):
        diagnosis.ok("sign-in", f"{host} accepts {_WHAT.get(signed[0], signed[0])}", by=signed[0])
    if found.get("code") != 0:
        _explain(diagnosis, known, hop, token, path, found, log)
    if (answers := str(found["server"])) != f"{host}:{port}":
        diagnosis.ok("redirected", f"to {answers}", server=answers)
    if stamp := re.search(r'tod="(\d+)"', str(found.get("stats", ""))):
        look_at_clock(diagnosis, answers, float(stamp[1]))
    if found.get("head") is None:
        diagnosis.fail("server", f"{answers} opens the file, and can't read it", _REPLICA)
    length = int(found["size"])
    diagnosis.ok("file", f"{answers} has it, {size(length)}", size=length)
    look_at_head(diagnosis, bytes.fromhex(found["head"]), length)
    look_at_trees(diagnosis, found)


_WHAT = {"gsi": "the X.509 proxy", "ztn": "the token"}


def _meet(
    diagnosis: Diagnosis, host: str, port: int, known: Authorities, secured: bool = False
) -> _Hop:
    """Steps up to ``server``: it is reached, speaks XRootD, and shows its certificate."""
    connection: socket = connect(diagnosis, host, port)
    try:
        server, to_tls = greet(connection, secured)
        if to_tls:
            look_at_authorities(diagnosis, known)
            context = _context(known.folder)
            ready = [connection]

            def reach() -> socket:
                if ready:
                    return ready.pop()
                again = connect(diagnosis, host, port)
                greet(again, secured)
                return again

            connection = secure(diagnosis, host, reach, context, f"the CAs in {known.folder}")
        log_in(connection, server)
        if "gsi" in server.offers:
            ask_certificate(connection, server)
    except TimeoutError:
        diagnosis.fail(
            "server",
            f"{host}, port {port}, accepts the connection and doesn't answer within"
            f" {PATIENCE:.0f} s",
            f"The server hangs, or it isn't one of XRootD. {_REPLICA}",
            silent=True,
        )
    except NotXRootDError:
        diagnosis.fail(
            "server",
            f"{host}, port {port}, doesn't speak XRootD's protocol",
            _PORTS,
        )
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        diagnosis.fail("server", f"{host}, port {port}, ends the connection: {why}", _PORTS)
    finally:
        connection.close()
    offers = ", ".join(server.offers) or "nothing"
    diagnosis.ok("server", f"XRootD, {server.role} (protocol {server.version}); wants {offers}",
                 version=server.version, role=server.role, wants=list(server.offers))  # fmt: skip
    return _Hop(host, port, server)


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if folder.is_dir():
        context.load_verify_locations(capath=folder)
    return context


def _look_at_credentials(diagnosis: Diagnosis, known: Authorities, hop: _Hop) -> Bearer | None:
    """Those that the server wants; what is wrong with one may be the reason of a failure."""
    token = None
    if "gsi" in hop.server.offers:
        if diagnosis.state("CA folder") is None:
            look_at_authorities(diagnosis, known)
        if shown := hop.server.certificate:
            what = "server certificate"
            if wrong := _judge_host(shown, hop.host, known):
                diagnosis.warn(what, *wrong)
            else:
                diagnosis.ok(what, dn(shown.subject), dn=dn(shown.subject), issuer=dn(shown.issuer))
            look_at_list(diagnosis, known, dn(shown.issuer))
        look_at_proxy(diagnosis, known)
    if "ztn" in hop.server.offers:
        token = look_at_token(diagnosis)
    return token


def _judge_host(shown: x509.Certificate, host: str, known: Authorities) -> tuple[str, str] | None:
    """What gsi has against a server's certificate, and the remedy."""
    if not known.signed(shown):
        return unknown_authority(shown, host, f"the CAs in {known.folder}")
    if os.environ.get("XrdSecGSISRVNAMES"):  # noqa: SIM112
        return judge_times(shown, host)
    return judge_times(shown, host) or judge_names(shown, host)


def _attempt(url: str) -> tuple[dict[str, Any], str]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        found = attempt(url, _SECONDS, _ENVIRONMENT | {"XRD_LOGFILE": str(log)})
        return found, log.read_text(errors="replace") if log.exists() else ""


def _last(pattern: re.Pattern[str], log: str) -> tuple[str, ...]:
    every = list(pattern.finditer(log))
    return every[-1].groups() if every else ()


def _explain(
    diagnosis: Diagnosis,
    known: Authorities,
    hop: _Hop,
    token: Bearer | None,
    path: str,
    found: dict[str, Any],
    log: str,
) -> NoReturn:
    """Fail with the reason why the client couldn't open the file."""
    first = hop
    for host, port in dict.fromkeys(_HOP.findall(log)):
        if (host, int(port)) != (hop.host, hop.port):
            diagnosis.ok("redirected", f"{hop.host} sends to {host}, port {port}")
            hop = _meet(diagnosis, host, int(port), known)
            token = _look_at_credentials(diagnosis, known, hop) or token
    host = hop.host
    code, number = found.get("code"), found.get("errno")
    said = re.sub(r"^\[\w+\] (Server responded with an error: )?(\[\d+\] )?", "",
                  str(found.get("message", "")))  # fmt: skip
    refused = _last(_REFUSED, log)
    if code == _AUTH_FAILED or (refused and int(refused[0]) == hop.port):
        _explain_sign_in(diagnosis, hop, log)
    if code is None and not found.get("late"):
        why = found.get("failure", "it ends without an answer")
        diagnosis.fail("client", f"XRootD's client doesn't work here: {why}",
                       "Install the package xrootd again.")  # fmt: skip
    if code is None:
        diagnosis.fail("server", f"{host} doesn't answer within {_SECONDS} s", _REPLICA)
    if number == _MISSING:
        if "redirector" in first.server.role:
            diagnosis.fail(
                "file",
                f"no server behind the redirector {first.host} has {path}",
                "Look up where the file is (Rucio, DAS, or xrdfs HOST locate); its server may be"
                " down.",
            )
        diagnosis.fail("file", f"no such file on {host}: {path}", "Correct the path.")
    if number == _FOLDER:
        diagnosis.fail("file", f"{path} on {host} is a folder", "Name a file in it.")
    if number == _DENIED and "disallowed" in said:
        remedy = "Correct the path: a server exports some folders only, such as /store."
        if not path.startswith("/"):
            remedy = "Write two slashes between host and path: root://HOST//PATH."
        diagnosis.fail("file", f"{host} doesn't export {path}", remedy)
    if number == _DENIED:
        _explain_denial(diagnosis, hop, token, path, said)
    if hop.server.role in RELAYS:
        why = next((why for text, why in _ORIGIN.items() if text in said), said)
        diagnosis.fail(
            "origin",
            f"{host} is a {hop.server.role}, and can't get the file from its origin: {why}",
            "Tell who runs it, or name another replica.",
        )
    diagnosis.fail("server", f"{host} can't give the file: {said}", _REPLICA)


def _explain_sign_in(diagnosis: Diagnosis, hop: _Hop, log: str) -> NoReturn:
    if refused := _last(_REFUSED, log):
        by, said = refused[1], refused[2].rpartition("ErrParseBuffer: ")[2].strip()
        if by == "gsi" and "server certificate" not in said:
            _explain_proxy_refused(diagnosis, hop.host, said)
        if by == "ztn":
            diagnosis.blame("token")
            _explain_token_refused(diagnosis, hop.host, said)
    diagnosis.blame("CA folder", "server certificate")
    if os.environ.get("XrdSecGSICRLCHECK") in ("2", "3"):  # noqa: SIM112
        diagnosis.blame("CRL")
    diagnosis.blame_all("proxy", "token")
    diagnosis.blame("token's mode")
    said = "; ".join(dict.fromkeys(f"{by}: {why}" for by, why in _STOPPED.findall(log)))
    diagnosis.fail(
        "sign-in",
        f"{hop.host} wants one of {', '.join(hop.server.offers)}, and the client has none ({said})",
        "Get an X.509 proxy or a token, or name another replica.",
    )


def _explain_proxy_refused(diagnosis: Diagnosis, host: str, said: str) -> NoReturn:
    """The client was content, and showed its proxy: its times are right, and the server's CA."""
    diagnosis.blame("proxy")
    proxy = diagnosis.details("proxy")
    if "unknown CA" in said:
        diagnosis.fail(
            "proxy",
            f"{host} doesn't know the CA of the proxy, {proxy.get('issuer')}",
            "Use a certificate of a CA that the grid trusts, or tell the site which one it lacks.",
        )
    diagnosis.blame("VO")
    vo = proxy.get("vo")
    member = f"of the VO {vo}" if vo else "which has no VO"
    remedy = "Ask the site whether it serves your VO, or to enter this DN in its grid-mapfile."
    if not vo:
        remedy = f"Make a proxy with your VO: voms-proxy-init --voms YOUR-VO. {remedy}"
    diagnosis.fail(
        "sign-in",
        f"{host} doesn't accept {proxy.get('dn')}, {member}: it maps neither to an account"
        + (f" ({said})" if said else ""),
        remedy,
        dn=proxy.get("dn"),
        vo=vo,
    )


def _explain_token_refused(diagnosis: Diagnosis, host: str, said: str) -> NoReturn:
    issuer = next((s.details.get("iss") for s in diagnosis.steps if s.what == "token"), None)
    if "issuer" in said:
        diagnosis.fail(
            "token",
            f"{host} doesn't accept tokens of the issuer {issuer} ({said})",
            "Use a token of your experiment's issuer, or ask the site which ones it accepts.",
            issuer=issuer,
        )
    remedy = "Get a new one; if that is refused, too, tell the site."
    if "expired" in said:
        remedy = "The clocks of server and issuer or this machine differ (timedatectl). " + remedy
    diagnosis.fail("token", f"{host} refuses the token: {said}", remedy)


def _explain_denial(
    diagnosis: Diagnosis, hop: _Hop, token: Bearer | None, path: str, said: str
) -> NoReturn:
    """Who asks is known, but may not read this path."""
    by = diagnosis.detail("sign-in", "by")
    if token and by != "gsi":
        explain_refusal(diagnosis, token, hop.host, hop.port, path, said)
    diagnosis.blame("VO")
    if by != "gsi":
        diagnosis.blame_all("proxy", "token")
    proxy = diagnosis.details("proxy") if by == "gsi" else {}
    diagnosis.fail(
        "access",
        f"{hop.host} doesn't let {who(proxy) if proxy else 'everybody'} read {path}: {said}",
        with_vo(proxy),
        vo=proxy.get("vo"),
    )
