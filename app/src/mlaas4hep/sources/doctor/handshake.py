"""The first messages of XRootD's protocol, up to the server's offer of ways to sign in.

The client library says "Auth failed" for whatever goes wrong in them. Here each message is one
step; nothing is signed in. (XRootD protocol reference, version 5.2; gsi: XrdSecgsi's buffers.)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509

_PROTOCOL, _LOGIN, _AUTH = 3006, 3007, 3000
_VERSION = 0x520
_WANTS = 0x01 | 0x02 | 0x08  # security requirements, able to use TLS, newer requirements
_TLS = 0x04
_EXPECT_LOGIN = 3
_IS_MANAGER, _IS_CACHE, _IS_META, _IS_PROXY, _TO_TLS = 0x2, 0x80, 0x100, 0x200, 0x40000000
RELAYS = ("cache", "proxy server")
"""Roles of servers that get files from elsewhere."""
_MORE = 4002
_ERROR = 4003
_MOST = 2**20
# Steps and buckets of gsi.
_CERTIFICATE_PLEASE = 1000
_MODULE, _MAIN, _TAG, _GSI_VERSION = 3000, 3001, 3006, 3014
_OPTIONS, _X509, _ISSUER = 3019, 3022, 3023


class NotXRootDError(Exception):
    """Who answers doesn't speak XRootD's protocol."""


@dataclass
class Server:
    """What a server says of itself: the protocol's version, its role, and how to sign in.

    ``offers`` are the parameters of each way by name (``gsi``, ``ztn``), empty where everybody may
    read; ``certificate`` is the one by which it proves who it is.
    """

    version: str
    role: str
    tls: bool = False
    offers: dict[str, str] = field(default_factory=dict)
    certificate: x509.Certificate | None = None


def greet(connection: socket.socket, secured: bool = False) -> tuple[Server, bool]:
    """The server's version and role, and whether it goes on in TLS, which roots:// asks for."""
    hello = struct.pack(">5i", 0, 0, 0, 4, 2012)
    connection.sendall(hello + struct.pack(
        ">2sHiBB10xi", b"\0\1", _PROTOCOL, _VERSION, _WANTS | _TLS * secured, _EXPECT_LOGIN, 0
    ))  # fmt: skip
    _answer(connection)
    _, body = _answer(connection)
    if len(body) < 8:
        raise NotXRootDError(body)
    version, flags = struct.unpack(">II", body[:8])
    kinds = ((_IS_META, "meta-redirector"), (_IS_MANAGER, "redirector"), (_IS_CACHE, "cache"),
             (_IS_PROXY, "proxy server"))  # fmt: skip
    role = next((name for bit, name in kinds if flags & bit), "server")
    return Server(".".join(f"{version & 0xFFF:x}"), role), bool(flags & _TO_TLS)


def log_in(connection: socket.socket, server: Server) -> None:
    """Say who we are (the name proves nothing), and learn how to sign in."""
    connection.sendall(
        struct.pack(">2sHi8sBBBBi", b"\0\1", _LOGIN, os.getpid(), b"doctor", 0, 0, 5, 0, 0)
    )
    _, body = _answer(connection)
    for offer in body[16:].decode(errors="replace").rstrip("\0").split("&P=")[1:]:
        name, _, parameters = offer.partition(",")
        server.offers[name] = parameters.rstrip("\0")


def ask_certificate(connection: socket.socket, server: Server) -> None:
    """Let the server show its certificate, the first message of gsi; the second is not sent."""
    given = dict(p.split(":", 1) for p in server.offers["gsi"].split(",") if ":" in p)
    main = _buffer((_TAG, os.urandom(8)))
    body = _buffer(
        (_MODULE, b"ssl"),
        (_GSI_VERSION, struct.pack(">i", 10600)),
        (_ISSUER, given.get("ca", "").split("|")[0].encode()),
        (_OPTIONS, bytes(4)),
        (_MAIN, main),
    )
    connection.sendall(struct.pack(">2sH12x4si", b"\0\1", _AUTH, b"gsi\0", len(body)) + body)
    status, answer = _answer(connection)
    if status == _MORE:
        shown = dict(_buckets(answer)).get(_X509)
        if shown:
            server.certificate = x509.load_pem_x509_certificate(shown)


def _buffer(*buckets: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack(">ii", kind, len(data)) + data for kind, data in buckets)
    return b"gsi\0" + struct.pack(">i", _CERTIFICATE_PLEASE) + packed + bytes(4)


def _buckets(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = body.index(b"\0") + 5
    while at + 8 <= len(body):
        kind, length = struct.unpack_from(">ii", body, at)
        if not kind:
            return
        yield kind, body[at + 8 : at + 8 + length]
        at += 8 + length


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    head = _exactly(connection, 8)
    stream, status, length = struct.unpack(">HHi", head)
    if stream > 1 or not (status == 0 or 4000 <= status <= 4100) or not 0 <= length < _MOST:
        raise NotXRootDError(head)
    body = _exactly(connection, length)
    if status == _ERROR:
        raise OSError(body[4:].rstrip(b"\0").decode(errors="replace"))
    return status, body


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            if found:
                raise NotXRootDError(found)
            raise ConnectionResetError("it closes the connection")
        found += part
    return found
