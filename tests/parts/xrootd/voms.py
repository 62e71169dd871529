"""A VOMS server: signs the attributes of a VO's members, as INDIGO IAM's VOMS-AA does.

It speaks what voms-proxy-init does: TLS with the member's certificate or a proxy of it, a byte 0
of the old delegation, then HTTP/1.0 `GET /generate-ac`. The attributes are made by voms-proxy-fake.
"""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from typing import Self

from .commands import run
from .pki import VO, Pki
from .server import free_port

_ALLOW_PROXIES = 0x40
_OID = bytes.fromhex("2b06010401be45646405")
"""Of the extension of a proxy that holds the attributes: 1.3.6.1.4.1.8005.100.100.5."""


class Voms:
    """The VOMS server of ``test.vo``; ``members`` are the users whom it knows."""

    def __init__(self, pki: Pki, members: tuple[str, ...] = ("alice",)) -> None:
        self.port = free_port()
        self.asked: list[str] = []
        """The attributes asked for, of each request."""
        self._pki = pki
        self._certificate, self._key = pki.host()
        self._members = members
        self._signed: dict[str, bytes] = {}
        self._listening: socket.socket | None = None
        dn = f"{pki.subject.rpartition('/')[0]}/OU=hosts/CN=localhost"
        self.vomses = f'"{VO}" "localhost" "{self.port}" "{dn}" "{VO}"'

    def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        context.load_verify_locations(self._pki.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _ALLOW_PROXIES
        self._listening = socket.create_server(("127.0.0.1", self.port))
        serving = (self._listening, context)
        threading.Thread(target=self._serve, args=serving, daemon=True).start()

    def stop(self) -> None:
        if self._listening:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        self._listening = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            client.settimeout(20)
            try:
                with context.wrap_socket(client, server_side=True) as secure:
                    self._answer(secure)
            except OSError:
                client.close()

    def _answer(self, client: ssl.SSLSocket) -> None:
        request = b""
        while not request.endswith(b"\n\n") and (piece := client.recv(4096)):
            request += piece
            if not b"0GET ".startswith(request[:5]):
                return  # the older protocol, which the client tries where this one fails
        path = request.split(b" ")[1].decode()
        self.asked.append(path.partition("fqans=")[2].partition("&")[0])
        member = self._member(client.getpeercert(binary_form=True) or b"")
        if member is None:
            status = "403 Forbidden"
            body = b"<voms><error><code>NoSuchUser</code><message>unknown</message></error></voms>"
        else:
            status = "200 OK"
            # With line breaks, or the client takes it for another alphabet than base64's.
            body = b"<voms><ac>%b</ac></voms>" % base64.encodebytes(self._attributes(member))
        body = b'<?xml version="1.0" encoding="UTF-8"?>' + body
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)

    def _member(self, certificate: bytes) -> str | None:
        """Whose certificate it is, or of whose certificate it is a proxy."""
        pem = ssl.DER_cert_to_PEM_cert(certificate)
        names = run(
            "openssl", "x509", "-noout", "-subject", "-nameopt", "compat", input=pem.encode()
        )
        path = names.decode().strip().removeprefix("subject=") + "/"
        return next((m for m in self._members if f"/CN={m}/" in path), None)

    def _attributes(self, member: str) -> bytes:
        """The attribute certificate of a member, which is made once."""
        if member not in self._signed:
            made = self._pki.voms_proxy(member)
            pem, end, _ = made.read_text().partition("-----END CERTIFICATE-----")
            der = ssl.PEM_cert_to_DER_cert(pem + end)
            at = der.index(_OID) + len(_OID)
            for _ in range(3):  # into an octet string, a sequence, and the list in it
                at = _into(der, at)
            self._signed[member] = der[at : at + _size(der, at)]
        return self._signed[member]


def _into(der: bytes, at: int) -> int:
    """Where the content begins of the element at ``at``."""
    return at + 2 + (der[at + 1] & 0x7F if der[at + 1] & 0x80 else 0)


def _size(der: bytes, at: int) -> int:
    """Bytes of the element at ``at``, its head included."""
    content = _into(der, at)
    more = der[at + 2 : content]
    return content - at + (int.from_bytes(more, "big") if more else der[at + 1])
