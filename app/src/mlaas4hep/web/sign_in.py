"""Authentication: both services find the caller of a request before anything reads its body.

A script sends ``Authorization: Bearer TOKEN``. For a browser's session the gateway sends the
user's token as ``X-Forwarded-Access-Token``; it is verified like the other, but pages of other
sites can make a browser send it, so a request that changes something must come from our own pages.
No other header says who somebody is. Without an issuer everybody is let in, but
``why_refused`` keeps web pages of others away.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from mlaas4hep.access.caller import EVERYONE, Caller
from mlaas4hep.access.rules import is_loopback
from mlaas4hep.access.tokens import Tokens
from mlaas4hep.core.errors import (
    BusyError,
    ForbiddenError,
    MlaasError,
    SignInError,
    UsageError,
)
from mlaas4hep.core.settings import Settings

CALLER = "mlaas4hep.caller"
"""Where in a request's scope its Caller is."""
OPEN = frozenset(("/healthz", "/readyz", "/metrics", "/page.css", "/page.js"))
"""Paths that anyone may get."""
SIGN_OUT = "/oauth2/sign_out"
_SAFE = ("GET", "HEAD", "OPTIONS")


class NoTokenError(SignInError):
    """The request has no token at all."""


class Admission:
    """Finds the caller of a request, or raises the error that it is to be answered with.

    UsageError when the settings can't be right.
    """

    def __init__(self, settings: Settings) -> None:
        self._tokens = Tokens(settings) if settings.issuer else None
        self._issuer = settings.issuer
        self._origin = origin_of(settings.public_url)

    async def admit(self, scope: Scope, changing_get: bool = False) -> None:
        """Put the Caller into ``scope[CALLER]``; ``changing_get`` tells of a GET that changes.

        SignInError (401), ForbiddenError (403), BusyError (503) otherwise.
        """
        if scope["path"] in OPEN and scope["method"] in _SAFE:
            return
        if self._tokens is None:
            if why := why_refused(scope, changing_get or None):
                raise ForbiddenError(why)
            scope[CALLER] = EVERYONE
            return
        token, by_cookie = _token(scope)
        if not token:
            raise NoTokenError(
                "this service needs a token",
                f"Get one from {self._issuer} and send it as Authorization: Bearer TOKEN.",
            )
        found = await self._tokens.caller(token)
        if by_cookie:
            self._check_cookie(scope, changing_get)
            found = replace(found, by_cookie=True)
        scope[CALLER] = found

    def _check_cookie(self, scope: Scope, changing_get: bool) -> None:
        """ForbiddenError for a change that a page of another site may have asked for."""
        if changing_get:
            raise ForbiddenError(
                f"a browser's session can't change anything by GET {scope['path']}",
                "Use DELETE /folders/NAME or DELETE /folders/NAME/specs.",
            )
        if scope["method"] in _SAFE:
            return
        origins = [v.decode("latin-1") for k, v in scope["headers"] if k == b"origin"]
        sites = [v for k, v in scope["headers"] if k == b"sec-fetch-site"]
        same_site = all(site == b"same-origin" for site in sites)
        ours = all(origin == self._origin for origin in origins)
        if not (same_site and ours and (origins or sites)):
            raise ForbiddenError(
                f"the request comes from {origins[0][:200] if origins else 'an unknown page'!r}",
                f"A browser's session may change things only from {self._origin or 'our'} pages.",
            )


def why_refused(scope: Scope, changes_state: bool | None = None) -> str:
    """Why this request must be answered 403 before anything looks at it; "" when it need not.

    Refused are names that only resolve to this machine (a page of a stranger whose DNS points
    here), and requests that change state and come from a page of another origin. Give
    ``changes_state`` for a GET that does.
    """
    host = origin = site = b""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
    if host and not _names_loopback(host):
        return f"the Host {_shown(host)} is not this machine: use localhost or 127.0.0.1"
    if changes_state is None:
        changes_state = scope["method"] not in ("GET", "HEAD", "OPTIONS")
    if changes_state and origin and origin.partition(b"://")[2] != host:
        return f"requests from pages of {_shown(origin)} are refused"
    if changes_state and site not in (b"", b"same-origin", b"none"):
        return "requests from pages of another site are refused"
    return ""


@lru_cache(256)
def _names_loopback(host: bytes) -> bool:
    name = host.decode("latin-1")
    name = name.partition("]")[0][1:] if name.startswith("[") else name.partition(":")[0]
    return is_loopback(name)


def _shown(value: bytes) -> str:
    return repr(value[:200].decode("latin-1"))


def caller_of(scope: Scope) -> Caller:
    """The caller of a request that was let in."""
    found: Caller = scope[CALLER]
    return found


def challenge(error: MlaasError) -> dict[str, str]:
    """The headers beside ``error``: how to sign in (RFC 6750), or when to come again."""
    if isinstance(error, BusyError):
        return {"retry-after": "5"}
    if not isinstance(error, SignInError):
        return {}
    header = 'Bearer realm="mlaas4hep"'
    if not isinstance(error, NoTokenError):
        said = error.message.encode("ascii", "replace").decode()
        said = said.replace("\\", "").replace('"', "'")
        header += f', error="invalid_token", error_description="{said}"'
    return {"www-authenticate": header}


def _token(scope: Scope) -> tuple[bytes, bool]:
    """The request's token, and whether a browser's session gave it; b"" when there is none."""
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer":
                found.append((token.strip(), False))
        elif name == b"x-forwarded-access-token":
            found.append((value.strip(), True))
    if len(found) > 1:
        raise UsageError("the request has more than one token", "Send one.")
    return found[0] if found else (b"", False)


def origin_of(url: str) -> str:
    """``https://HOST[:PORT]`` of a URL, as browsers write it; "" of none."""
    parts = urlsplit(url)
    if url and not (parts.scheme in ("http", "https") and parts.hostname):
        raise UsageError(f"MLAAS4HEP_PUBLIC_URL is {url!r}", "Give it as https://HOST.")
    return f"{parts.scheme}://{parts.netloc}".lower() if url else ""
