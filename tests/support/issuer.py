"""A real OpenID Connect issuer on loopback for tests: discovery, keys, tokens, outages."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

AUDIENCE = "mlaas4hep"
ALLOWED = {"audience": AUDIENCE, "allowed_groups": "physicists"}


def rsa(kid: str = "first", **more: str) -> Key:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", **more})


def ec(kid: str, curve: str = "P-256") -> Key:
    return ECKey.generate_key(curve, {"kid": kid, "use": "sig"})


def ed(kid: str) -> Key:
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig"})


class Issuer:
    """Serves the public halves of ``keys`` and signs with the first of them."""

    def __init__(self) -> None:
        self.keys: list[Key] = [rsa()]
        self.asked: Counter[str] = Counter()
        self.changed: dict[str, Any] = {}
        """Members of the discovery document that are to differ."""
        self.extra_keys: list[dict[str, Any]] = []
        self.userinfo: dict[str, Any] | int = 404
        """What userinfo tells, or the status that it answers with."""
        self.bearer = ""
        """What userinfo was asked with."""
        self._server = _listen(self, 0)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/realms/physics"

    def go_away(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Listen again, on the same port."""
        self._server = _listen(self, self.port)

    def answer(self, path: str) -> dict[str, Any] | int:
        if path == "/realms/physics/.well-known/openid-configuration":
            self.asked["discovery"] += 1
            urls = {"jwks_uri": f"{self.url}/certs", "userinfo_endpoint": f"{self.url}/userinfo"}
            return {"issuer": self.url} | urls | self.changed
        if path == "/realms/physics/certs":
            self.asked["keys"] += 1
            return {"keys": [key.as_dict(private=False) for key in self.keys] + self.extra_keys}
        if path == "/realms/physics/userinfo":
            self.asked["userinfo"] += 1
            return self.userinfo
        return 404

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims of alice's access token; a change to None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "alice",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            "typ": "Bearer",
            "azp": "cli",
            "preferred_username": "alice",
            "groups": ["physicists"],
        } | changes
        return {key: value for key, value in claims.items() if value is not None}

    def token(
        self, key: Key | None = None, header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """A token signed with ``key``, else the first."""
        key = key or self.keys[0]
        full = {"alg": "RS256", "kid": key.kid} | (header or {})
        given = {name: value for name, value in full.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[given["alg"]], strict_check_header=False)
        return jwt.encode(given, self.claims(**changes), key, registry=registry)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def _listen(issuer: Issuer, port: int) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.bearer = self.headers.get("authorization", "")
            content = issuer.answer(self.path)
            body = json.dumps(content).encode()
            self.send_response(content if isinstance(content, int) else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", port), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer for the length of a block."""
    started = Issuer()
    try:
        yield started
    finally:
        started.go_away()
