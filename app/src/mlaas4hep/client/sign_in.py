"""An access token for scripts: signing in once in a browser (RFC 8628), then refreshing silently.

    sign_in = SignIn("https://issuer.example.org/realms/hep", client_id="mlaas4hep")
    sign_in.token()   # prints where to go and what to enter, the first time

Tokens are kept below ``$XDG_STATE_HOME/mlaas4hep/tokens``, readable for their user alone. A robot
has a client secret instead of a browser.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from mlaas4hep.access.rules import is_safe
from mlaas4hep.core.errors import MlaasError, UsageError
from mlaas4hep.core.files import write_json

SPARE_SECONDS = 60
"""What a token must still live, to be given to a script."""
TIMEOUT_SECONDS = 20.0
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER_SECONDS = 5
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


def _on_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SignIn:
    """One way of getting tokens: an issuer, a client, and what is asked for."""

    issuer: str
    client_id: str = "mlaas4hep"
    scope: str = "openid"
    audience: str = ""
    secret: str = field(default="", repr=False)
    """Of a robot's client; with it the token is the robot's own, without any browser."""
    say: Callable[[str], None] = _on_stderr
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        _check_url(self.issuer, "the issuer")

    def token(self, fresh: bool = False) -> str:
        """A token that lives for another minute at least; ``fresh`` makes a new sign-in.

        Any number of processes may call it: one refreshes or signs in, the others wait for it.
        """
        if not fresh and (token := self._kept()):
            return token
        with self._locked():
            if not fresh and (token := self._kept()):
                return token  # another process was first
            with self._issuer() as issuer:
                answer = None
                if self.secret:
                    answer = issuer.robot()
                elif not fresh and (refresh_token := self._read().get("refresh_token")):
                    answer = issuer.refreshed(refresh_token)
                return self._keep(answer or issuer.signed_in(self.say, self.wait))

    def new_robot_token(self) -> str:
        """A new token of the robot whose client and secret these are; it isn't kept."""
        with self._issuer() as issuer:
            return str(issuer.robot()["access_token"])

    def forget(self) -> int:
        """Remove the kept tokens of this issuer and client; returns how many there were."""
        found = list(self._folder.glob(f"{self._client_key}-*.json"))
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    @property
    def _folder(self) -> Path:
        state = os.environ.get("XDG_STATE_HOME", "")
        # The standard says that a relative one counts for nothing.
        root = Path(state) if Path(state).is_absolute() else Path.home() / ".local/state"
        return root / "mlaas4hep/tokens"

    @property
    def _client_key(self) -> str:
        host = "".join(
            c for c in (urlsplit(self.issuer).hostname or "") if c.isalnum() or c in ".-"
        )
        return f"{host[:60]}-{_digest(self.issuer, self.client_id)}"

    @property
    def _path(self) -> Path:
        kind = "robot" if self.secret else "person"
        return self._folder / f"{self._client_key}-{_digest(kind, self.scope, self.audience)}.json"

    def _read(self) -> dict[str, Any]:
        """What is kept; empty when there is nothing, or nothing of ours."""
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _kept(self) -> str:
        """The kept access token while it lives long enough, else ""."""
        kept = self._read()
        token, expires = kept.get("access_token"), kept.get("expires")
        if not isinstance(token, str) or not isinstance(expires, int | float):
            return ""
        return token if expires - time.time() > SPARE_SECONDS else ""

    def _keep(self, answer: dict[str, Any]) -> str:
        """Keep the issuer's answer; returns its access token.

        An answer without a refresh token leaves the one before in force.
        """
        refresh_token = answer.get("refresh_token") or self._read().get("refresh_token")
        token = str(answer["access_token"])
        kept: dict[str, Any] = {
            "issuer": self.issuer,
            "client_id": self.client_id,
            "access_token": token,
            "expires": time.time() + _seconds(answer.get("expires_in"), 0),
        }
        if refresh_token and not self.secret:
            kept["refresh_token"] = refresh_token
        try:
            write_json(self._path, kept, 0o600)
        except OSError as error:  # the token is good all the same
            self.say(f"can't keep the token in {self._folder}: {error.strerror}")
        return token

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes of this user: a refresh token that rotates works only once."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise MlaasError(
                f"can't keep tokens in {self._folder}: {error.strerror}",
                "Set XDG_STATE_HOME to a folder of yours.",
            ) from error
        with os.fdopen(descriptor) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("waiting for another process that gets a token")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _issuer(self) -> Iterator[_TokenIssuer]:
        try:
            http = httpx.Client(
                timeout=TIMEOUT_SECONDS, mounts={f"http://{host}": None for host in _LOCAL}
            )
        except OSError as error:
            raise UsageError(
                f"the certificates can't be read: {error}",
                "Make sure that SSL_CERT_FILE names a PEM file, or SSL_CERT_DIR a folder of them.",
            ) from error
        with http:
            yield _TokenIssuer(self, http)


class _TokenIssuer:
    """The issuer's endpoints."""

    def __init__(self, sign_in: SignIn, http: httpx.Client) -> None:
        self._asked = sign_in
        self._http = http
        self._name = sign_in.issuer
        self._known = self._discovered()

    def _discovered(self) -> dict[str, Any]:
        url = f"{self._name.rstrip('/')}/.well-known/openid-configuration"
        try:
            answer = self._http.get(url)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        try:
            known = answer.json() if answer.is_success else None
        except ValueError:
            known = None
        if not isinstance(known, dict) or "token_endpoint" not in known:
            raise MlaasError(
                f"{self._name} is not an OpenID Connect issuer: {url} answers "
                f"{answer.status_code}, not with its configuration",
                "Give the issuer's address as the operator of the service states it.",
            )
        if known.get("issuer") != self._name:
            raise MlaasError(
                f"the issuer at {self._name} calls itself {str(known.get('issuer'))[:200]!r}",
                "Give that address as --issuer, if you trust it.",
            )
        return known

    def robot(self) -> dict[str, Any]:
        """A token of the client itself."""
        asked = self._asked
        form = {"grant_type": "client_credentials", "scope": asked.scope}
        methods = self._known.get("token_endpoint_auth_methods_supported") or []
        if "client_secret_post" in methods and "client_secret_basic" not in methods:
            secret = {"client_id": asked.client_id, "client_secret": asked.secret}
            status, answer = self._post("token_endpoint", form | secret)
        else:
            login = httpx.BasicAuth(quote(asked.client_id, safe=""), quote(asked.secret, safe=""))
            status, answer = self._post("token_endpoint", form, login)
        if status != 200:
            raise self._refused(answer, "give the robot a token", "client credentials")
        return self._checked(answer)

    def refreshed(self, refresh_token: str) -> dict[str, Any] | None:
        """New tokens for an old session; None when it has ended."""
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": self._asked.client_id,
        }
        status, answer = self._post("token_endpoint", form)
        if status == 200:
            return self._checked(answer)
        if answer.get("error") == "invalid_grant":
            return None
        raise self._refused(answer, "refresh the token", "refresh token")

    def signed_in(
        self, say: Callable[[str], None], wait: Callable[[float], None]
    ) -> dict[str, Any]:
        """Tokens after a person has signed in, on whatever device with a browser."""
        if "device_authorization_endpoint" not in self._known:
            raise MlaasError(
                f"the issuer {self._name} has no device authorization endpoint",
                "Ask its operator, or get a token in another way.",
            )
        form = {"client_id": self._asked.client_id, "scope": self._asked.scope}
        verifier = secrets.token_urlsafe(48)
        proof = {}
        if "S256" in (self._known.get("code_challenge_methods_supported") or []):
            hashed = hashlib.sha256(verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
            form |= {"code_challenge": challenge, "code_challenge_method": "S256"}
            proof = {"code_verifier": verifier}
        status, begun = self._post("device_authorization_endpoint", form)
        if status != 200:
            raise self._refused(begun, "begin the sign-in", "device authorization grant")
        code, address = self._text(begun, "user_code"), self._text(begun, "verification_uri")
        device_code = self._text(begun, "device_code")
        _check_url(address, "verification_uri of the issuer")
        say(f"To sign in, open {address} and enter the code {code}")
        if complete := begun.get("verification_uri_complete"):
            complete = self._text(begun, "verification_uri_complete")
            _check_url(complete, "verification_uri_complete of the issuer")
            say(f"or open {complete}")
        form = {
            "grant_type": _DEVICE_GRANT,
            "device_code": device_code,
            "client_id": self._asked.client_id,
        } | proof
        return self._polled(form, begun, wait)

    def _polled(
        self, form: dict[str, str], begun: dict[str, Any], wait: Callable[[float], None]
    ) -> dict[str, Any]:
        """Ask until the person has signed in, as slowly as the issuer wants it."""
        pause = max(1.0, _seconds(begun.get("interval"), 5))
        left = _seconds(begun.get("expires_in"), 600)
        while left > 0:
            wait(pause)
            left -= pause
            try:
                status, answer = self._post("token_endpoint", form)
            except _UnreachableError:  # for a moment; the code stays valid
                pause *= 2
                continue
            if status == 200:
                return self._checked(answer)
            error = answer.get("error")
            if error == "slow_down":
                pause += _SLOWER_SECONDS
            elif error == "access_denied":
                raise MlaasError("the sign-in was refused", "Try again, and allow it.")
            elif error == "expired_token":
                break
            elif error != "authorization_pending":
                raise self._refused(answer, "end the sign-in", "device authorization grant")
        raise MlaasError("nobody signed in before the code expired", "Try again.")

    def _post(
        self, endpoint: str, form: dict[str, str], login: httpx.BasicAuth | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a form."""
        url = str(self._known[endpoint])
        _check_url(url, f"{endpoint} of the issuer")
        if self._asked.audience:
            form = form | {"audience": self._asked.audience}
        try:
            answer = self._http.post(url, data=form, auth=login or httpx.USE_CLIENT_DEFAULT)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if answer.status_code >= 500:
            raise self._unreachable(f"HTTP {answer.status_code}")
        try:
            said = answer.json()
        except ValueError:
            said = {}
        if not isinstance(said, dict):
            said = {}
        return answer.status_code, said or {"error": f"HTTP {answer.status_code}"}

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        self._text(answer, "access_token")
        if "refresh_token" in answer:
            self._text(answer, "refresh_token")
        return answer

    def _text(self, answer: dict[str, Any], name: str) -> str:
        """A text of the answer that is safe to print and to send."""
        value = answer.get(name)
        if (
            not isinstance(value, str)
            or not value.isascii()
            or not value.isprintable()
            or not value
        ):
            raise MlaasError(f"the answer of the issuer {self._name} has no valid {name}")
        return value

    def _unreachable(self, error: object) -> _UnreachableError:
        said = str(error) or type(error).__name__
        return _UnreachableError(
            f"can't reach the issuer {self._name}: {said}",
            "Is the address right? For a certificate of a site's own authority, set SSL_CERT_FILE.",
        )

    def _refused(self, answer: dict[str, Any], what: str, grant: str) -> MlaasError:
        error = _shown(answer.get("error"))
        described = _shown(answer.get("error_description"))
        client = self._asked.client_id
        remedies = {
            "invalid_client": f"Does the issuer know the client {client!r}, and is its secret "
            "right? (--client-id, MLAAS4HEP_CLIENT_SECRET)",
            "unauthorized_client": f"Ask the issuer's operator to allow the client {client!r} the "
            f"{grant}, or name another one (--client-id).",
            "invalid_scope": "Ask for other scopes (--scope).",
        }
        remedies["unsupported_grant_type"] = remedies["unauthorized_client"]
        return MlaasError(
            f"the issuer {self._name} doesn't {what}: {error}"
            + (f" ({described})" if described else ""),
            remedies.get(error, f"The client is {client!r}; ask the issuer's operator."),
        )


class _UnreachableError(MlaasError):
    """The issuer can't be reached, now."""


def _check_url(url: str, what: str) -> None:
    """UsageError unless tokens may be sent there: https, or http on this machine."""
    if not is_safe(url):
        raise UsageError(f"{what} is {_shown(url)!r}, which is not an https address")


def _shown(value: object) -> str:
    return "".join(c for c in str(value or "")[:300] if c.isprintable())


def _seconds(value: object, default: float) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return default
    return seconds if math.isfinite(seconds) else default


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
