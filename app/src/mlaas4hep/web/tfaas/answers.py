"""Answers in TFaaS's shapes: JSON that ends with a newline, errors as ``{"error": "..."}``."""

from __future__ import annotations

import json
import logging
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.files import is_full
from mlaas4hep.web.problem import status_of

_log = logging.getLogger(__name__)

JSON = "application/json"
SMALL = 64 * 1024
"""Bytes of a body or an answer up to which it is held without asking: one row, a few events."""
_PIECE = 1 << 20
_FAILED = "the request failed; the service's log says why"


def json_response(content: Any) -> Response:
    """An answer for Starlette."""
    return Response(json.dumps(content) + "\n", 200, None, JSON)


def sentence(error: MlaasError) -> str:
    """Message and remedy on one line."""
    return f"{error.message}. {error.remedy}" if error.remedy else error.message


def error_body(text: str) -> bytes:
    """``{"error": "..."}`` and a newline."""
    shown = text.encode("utf-8", "replace").decode()
    return orjson.dumps({"error": shown}, option=orjson.OPT_APPEND_NEWLINE)


async def send_answer(
    send: Send, status: int, body: bytes, content_type: bytes, *headers: tuple[bytes, bytes]
) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    all_headers = [(b"content-type", content_type), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    if len(body) > SMALL:  # each piece waits until the one before it is on its way
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """Send an error in TFaaS's shape."""
    await send_answer(send, status, error_body(text), b"application/json", *headers)


async def send_failure(send: Send, error: MlaasError) -> None:
    """Send ``error`` with its status; 503 says when to come again."""
    status = status_of(error)
    headers = [(b"retry-after", b"1")] if status == 503 else []
    await send_error(send, status, sentence(error), *headers)


def _http_error(_: Request, error: Any) -> Response:
    texts = {404: "page not found", 405: "this method is not allowed here"}
    text = texts.get(error.status_code, error.detail)
    return Response(error_body(text), error.status_code, error.headers, JSON)


def _mlaas_error(_: Request, error: Any) -> Response:
    return Response(error_body(sentence(error)), status_of(error), None, JSON)


def _os_error(_: Request, error: Any) -> Response:
    full = is_full(error)
    _log.error("a request failed", exc_info=error)
    return Response(
        error_body("the disk is full" if full else _FAILED), 507 if full else 500, None, JSON
    )


def _unexpected_error(_: Request, error: Any) -> Response:
    return Response(error_body(_FAILED), 500, None, JSON)


HANDLERS: dict[Any, Any] = {
    HTTPException: _http_error,
    MlaasError: _mlaas_error,
    OSError: _os_error,
    Exception: _unexpected_error,
}
"""By class of error, as Starlette takes them."""
