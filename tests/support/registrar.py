"""An issuer that registers clients (RFC 7591, 7592) on loopback, as well as real ones or worse."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Registrar:
    """Keeps clients by their id; what it drops or refuses is set by the test."""

    def __init__(self) -> None:
        self.clients: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, str] = {}
        self.asked: list[str] = []
        """The methods of the requests, in order."""
        self.sent: list[dict[str, Any]] = []
        """The bodies of the requests."""
        self.drops: dict[str, Any] = {}
        """Members of its answers that are as it wants, whatever it is asked."""
        self.refuses: dict[str, int] = {}
        """Methods that it answers with this status."""
        self.renews = False
        """Whether each answer brings a new registration access token."""
        self.silent: tuple[str, ...] = ()
        """Members that it leaves out of its answers."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/register"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def made(self, **metadata: Any) -> tuple[str, str]:
        """A client that somebody else registered: its id and its registration access token."""
        name = f"client-{len(self.clients)}"
        self.clients[name] = {"client_id": name, "client_secret": secrets.token_hex(8), **metadata}
        self.tokens[name] = secrets.token_hex(8)
        return name, self.tokens[name]

    def answer(self, method: str, path: str, login: str, body: Any) -> tuple[int, Any]:
        self.asked.append(method)
        if status := self.refuses.get(method):
            return status, {"error": "access_denied", "error_description": f"no {method} here"}
        if method == "POST":
            name, _ = self.made(**body)
        else:
            name = path.rpartition("/")[2]
            if name not in self.clients:
                return 404, {}
            if login != f"Bearer {self.tokens[name]}":
                return 401, {"error": "invalid_token"}
        if method == "PUT":
            if body["client_secret"] != self.clients[name]["client_secret"]:
                return 400, {"error": "invalid_client_metadata"}
            self.clients[name] = body
        self.clients[name] |= self.drops
        if self.renews:
            self.tokens[name] = secrets.token_hex(8)
        told = self.clients[name] | {
            "registration_access_token": self.tokens[name],
            "registration_client_uri": f"{self.endpoint}/{name}",
            "client_id_issued_at": 1,
        }
        status = 201 if method == "POST" else 200
        return status, {key: value for key, value in told.items() if key not in self.silent}


def _handler(registrar: Registrar) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if body:
                registrar.sent.append(json.loads(body))
            said = json.loads(body) if body else None
            login = self.headers.get("authorization", "")
            status, answer = registrar.answer(self.command, self.path, login, said)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def registrar() -> Iterator[Registrar]:
    """One for the length of a block."""
    started = Registrar()
    try:
        yield started
    finally:
        started.close()
