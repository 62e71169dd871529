"""Every error of the server is problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.web.problem import DISK_FULL, problem, status_of

PROBLEM: dict[str, Any] = {
    "description": "Problem details (RFC 9457): title says what is wrong, detail what to do.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["title", "status"],
                "properties": {
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}
"""Their shape, in the OpenAPI document."""


def add_error_handlers(app: FastAPI) -> None:
    """Let ``app`` answer every error with problem details."""
    handler: Callable[[type[Exception]], Callable[[Any], Any]] = app.exception_handler

    @handler(MlaasError)
    async def expected(request: Request, error: MlaasError) -> Response:
        cause = error.__cause__
        full = isinstance(cause, OSError) and cause.errno in DISK_FULL
        return problem(507 if full else status_of(error), error.message, error.remedy)

    @handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        missing = [str(e["loc"][-1]) for e in problems if e["type"] == "missing"]
        others = [f"{e['loc'][-1]}: {e['msg']}" for e in problems if e["type"] != "missing"]
        said = ([f"missing: {', '.join(missing)}"] if missing else []) + others
        return problem(400, "; ".join(said), "See /docs for what this route takes.")

    @handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, MlaasError):  # FastAPI wraps what reading a body raises
            cause = error.__cause__
            return problem(status_of(cause), cause.message, cause.remedy)
        headers = {k.lower().replace("-", "_"): v for k, v in (error.headers or {}).items()}
        return problem(error.status_code, str(error.detail), "See /docs for the routes.", **headers)

    @handler(OSError)
    async def disk(request: Request, error: OSError) -> Response:
        if error.errno not in DISK_FULL:
            raise error
        detail = f"the server's disk is full: {error.strerror}"
        return problem(507, detail, "Tell the operator of the service.")

    @handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return problem(500, "the server failed; its log says why", "Tell the operator.")

    @handler(SQLAlchemyError)
    async def database(request: Request, error: SQLAlchemyError) -> Response:
        cause = getattr(error, "orig", None) or type(error).__name__
        return problem(503, f"the database can't be used now: {cause}", "Try again later.")
