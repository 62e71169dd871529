"""An issuer of tokens for tests of the device flow: a real HTTP server that keeps to the RFCs."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import secrets
import ssl
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class DeviceIssuer:
    """Knows the client "mlaas4hep" for people and the client "robot" with its secret."""

    SECRET = "a secret/with: signs"

    def __init__(self, certificate: Path | None = None) -> None:
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                known = self.path == "/.well-known/openid-configuration"
                self._answer(*(issuer.configured() if known else (404, {})))

            def do_POST(self) -> None:
                issuer.asked[self.path] += 1
                length = int(self.headers["content-length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                issuer.forms.append(form)
                with issuer.lock:
                    if issuer.away:
                        issuer.away -= 1
                        status, answer = 503, {}
                    else:
                        handle = {"/device": issuer.begin, "/token": issuer.grant}[self.path]
                        status, answer = handle(form, self.headers.get("authorization", ""))
                if form.get("grant_type") == "refresh_token":
                    time.sleep(issuer.delay)
                self._answer(status, answer)

            def _answer(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}"
        self.configuration: dict[str, Any] = {
            "issuer": self.url,
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device",
            "code_challenge_methods_supported": ["plain", "S256"],
        }
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.forms: list[dict[str, str]] = []
        self.delay = 0.0
        self.lifetime: Any = 300
        self.away = 0
        self.answers: list[str] = []
        """Errors that the polls get in turn; then the person has signed in."""
        self.begun: dict[str, Any] = {
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{self.url}/activate",
            "verification_uri_complete": f"{self.url}/activate?code=WDJB-MJHT",
            "expires_in": 600,
            "interval": 1,
        }
        self.refused: dict[str, str] = {}
        """What the client "mlaas4hep" is answered, whatever it asks."""
        self.devices: dict[str, dict[str, str]] = {}
        self.sessions: dict[str, str] = {}
        """Session of every refresh token ever given."""
        self.current: dict[str, str] = {}
        """The one refresh token of a living session that is good."""
        self.refreshes = self.reuses = 0
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def configured(self) -> tuple[int, Any]:
        return 200, self.configuration

    def begin(self, form: dict[str, str], _: str) -> tuple[int, Any]:
        if self.refused:
            return 400, self.refused
        if form["client_id"] != "mlaas4hep":
            return 401, {"error": "invalid_client", "error_description": "no such client"}
        code = secrets.token_urlsafe()
        self.devices[code] = form
        return 200, self.begun | {"device_code": code}

    def grant(self, form: dict[str, str], login: str) -> tuple[int, Any]:
        if form["grant_type"] == DEVICE:
            return self._device(form)
        if form["grant_type"] == "refresh_token":
            return self._refresh(form["refresh_token"])
        if form["grant_type"] == "client_credentials":
            name, _, secret = base64.b64decode(login.removeprefix("Basic ")).decode().partition(":")
            name, secret = form.get("client_id", unquote(name)), unquote(secret)
            if (name, form.get("client_secret", secret)) != ("robot", self.SECRET):
                return 401, {"error": "invalid_client"}
            return 200, {"access_token": f"robot-{secrets.token_hex(4)}", "expires_in": 300}
        return 400, {"error": "unsupported_grant_type"}

    def _device(self, form: dict[str, str]) -> tuple[int, Any]:
        begun = self.devices.get(form["device_code"])
        if begun is None:
            return 400, {"error": "invalid_grant"}
        if self.answers:
            return 400, {"error": self.answers.pop(0)}
        if "code_challenge" in begun:
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != begun["code_challenge"]:
                return 400, {"error": "invalid_grant", "error_description": "PKCE"}
        del self.devices[form["device_code"]]
        return 200, self._tokens(secrets.token_hex(4))

    def _refresh(self, token: str) -> tuple[int, Any]:
        session = self.sessions.get(token, "")
        if self.current.get(session) != token:
            self.reuses += session in self.current
            self.current.pop(session, None)  # reused: stolen perhaps, so the session is over
            return 400, {"error": "invalid_grant"}
        self.refreshes += 1
        return 200, self._tokens(session)

    def _tokens(self, session: str) -> dict[str, Any]:
        token = secrets.token_urlsafe()
        self.sessions[token] = session
        self.current[session] = token
        return {
            "access_token": f"person-{secrets.token_hex(4)}",
            "refresh_token": token,
            "expires_in": self.lifetime,
            "token_type": "Bearer",
        }
