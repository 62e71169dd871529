"""What both HTTP services share: where they listen, whom they refuse, what an error looks like.

``server.py`` and ``tfaas.py`` import this; it knows neither of them. Without sign-in both listen
on loopback only, and ``why_refused`` keeps web pages of others away from them.
"""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

from starlette.responses import JSONResponse

from mlaas4hep.access.rules import is_loopback
from mlaas4hep.core.errors import (
    BusyError,
    ConflictError,
    EventError,
    ForbiddenError,
    LimitError,
    MlaasError,
    ModelError,
    NotFoundError,
    OverdueError,
    SignInError,
    UsageError,
)
from mlaas4hep.core.files import is_full
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.protocol import allow_connections

Scope = MutableMapping[str, Any]

_STATUS: tuple[tuple[type[MlaasError], int], ...] = (
    (SignInError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (LimitError, 413),
    (EventError, 422),
    (ModelError, 422),
    (BusyError, 503),
    (OverdueError, 504),
)


def status_of(error: MlaasError) -> int:
    """The HTTP status that says what ``error`` says; 400 unless it is of a special kind."""
    if is_full(error.__cause__):
        return 507
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 400)


def problem(status: int, detail: str, remedy: str = "", **headers: str) -> JSONResponse:
    """An error as RFC 9457 problem details; ``headers`` are named with ``_`` for ``-``."""
    content = {"title": detail, "status": status} | ({"detail": remedy} if remedy else {})
    return JSONResponse(
        content,
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        "application/problem+json",
    )


def require_loopback(host: str) -> None:
    """UsageError unless ``host`` is an address of this machine that no other machine can reach."""
    if not is_loopback(host):
        raise UsageError(
            f"refusing to listen on {host!r}: there is no sign-in, so whoever reaches the port "
            "could do everything",
            "Name the issuer of your users' tokens (MLAAS4HEP_ISSUER), or listen on 127.0.0.1 "
            "(MLAAS4HEP_HOST) and let users in by an ssh tunnel.",
        )


def listen(settings: Settings, port: int) -> socket.socket:
    """A socket that listens already, so that no connection is lost before the service is up.

    UsageError when the port is taken, or when others could come in without sign-in.
    """
    host = settings.host
    if not settings.issuer and not settings.unsafe_no_sign_in:
        require_loopback(host)
    allow_connections()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}:{port}: {error.strerror}",
            "Stop what listens there, or choose another port; 0 takes a free one.",
        ) from None


def address(listening: socket.socket) -> str:
    """``http://127.0.0.1:PORT`` of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
