"""Which HTTP status an error has, and problem details (RFC 9457)."""

from __future__ import annotations

import errno

from starlette.responses import JSONResponse

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
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What OSError has as number where the answer is 507."""

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
