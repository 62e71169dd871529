"""The prediction routes of TFaaS as one raw ASGI callable: no framework on this path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from mlaas4hep.core.errors import LimitError, MlaasError, NotFoundError, UsageError, did_you_mean
from mlaas4hep.inference.engine import Model
from mlaas4hep.inference.events import predict_events
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.owners import Owners
from mlaas4hep.web.common import Scope, status_of
from mlaas4hep.web.sign_in import caller_of
from mlaas4hep.web.tfaas_proto import read_row, write_predictions

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger(__name__)

_NUMPY = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_ROW = frozenset(("model", "values", "keys"))
_EVENTS = frozenset(("model", "events"))
_LARGE = 1 << 20
"""Bytes of a body from which on only two are read as events at the same time."""


class GoneError(Exception):
    """The client went away before its request was whole."""


class Predictions:
    """Answers POST /json, /proto and /predict/events and their other names; 405 for other methods.

    Every answer is whole: errors are ``{"error": "..."}`` with their status.
    """

    def __init__(self, registry: Registry, owners: Owners, max_bytes: int) -> None:
        self._registry = registry
        self._owners = owners
        self._max_bytes = max_bytes
        self._large = asyncio.Semaphore(2)
        json, proto = (self._json, b"application/json"), (self._proto, b"application/octet-stream")
        self.routes: dict[str, tuple[Callable[[bytes, str], Awaitable[bytes]], bytes]] = {
            "/json": json,
            "/predict/json": json,
            "/proto": proto,
            "/predict/proto": proto,
            "/predict/events": (self._events, b"application/json"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is one of ``routes``."""
        if scope["method"] != "POST":
            await send_error(send, 405, "use POST", (b"allow", b"POST"))
            return
        handler, content_type = self.routes[scope["path"]]
        try:
            answer = await handler(await self._body(receive), caller_of(scope).owner)
        except MlaasError as error:
            await send_failure(send, error)
        except GoneError:
            return
        except Exception:
            _log.exception("a prediction failed")
            await send_error(send, 500, "the prediction failed; the service's log says why")
        else:
            await send_answer(send, 200, answer, content_type)

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        pieces, size = [body], len(body)
        while message.get("more_body") and size <= self._max_bytes:
            message = await receive()
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
        if message["type"] == "http.disconnect":
            raise GoneError
        if size > self._max_bytes:
            raise LimitError(
                f"the request is larger than {self._max_bytes} bytes",
                "Send fewer events at once (the limit is MLAAS4HEP_MAX_REQUEST_BYTES).",
            )
        return b"".join(pieces) if len(pieces) > 1 else body

    async def _model(self, name: str, owner: str) -> Model:
        """The model; NotFoundError, naming the nearest of the owner's, when it is not theirs."""
        self._owners.check(name, owner)
        try:
            return self._registry.loaded(name) or await self._registry.get(name)
        except NotFoundError:
            raise self._owners.missing(name, owner) from None

    async def _json(self, body: bytes, owner: str) -> bytes:
        content = _fields(body, _ROW, '{"model": NAME, "values": [...]}', strict=False)
        values, keys = content.get("values"), content.get("keys")
        if type(values) is not list:
            raise UsageError("values must be a list of numbers", "One for each column, in order.")
        if keys is not None and not (type(keys) is list and all(type(key) is str for key in keys)):
            raise UsageError("keys must be a list of the values' columns, or absent")
        model = await self._model(_model_name(content), owner)
        answers = await model.predict(model.row(values, keys or ()))
        return orjson.dumps(answers[0], option=_NUMPY)

    async def _proto(self, body: bytes, owner: str) -> bytes:
        name, values, keys = read_row(body)
        model = await self._model(_model_name({"model": name or None}), owner)
        answers = await model.predict(model.row(values, keys))
        return write_predictions(answers[0].tolist(), model.classes[-answers.shape[1] :])

    async def _events(self, body: bytes, owner: str) -> bytes:
        if len(body) < _LARGE:
            return await self._answer_events(body, owner)
        async with self._large:
            return await self._answer_events(body, owner)

    async def _answer_events(self, body: bytes, owner: str) -> bytes:
        content = _fields(body, _EVENTS, '{"model": NAME, "events": [{BRANCH: VALUE or LIST}]}')
        model = await self._model(_model_name(content), owner)
        answers, truncated = await predict_events(model, content.get("events"))
        return orjson.dumps(
            {
                "model": model.name,
                "classes": model.classes,
                "predictions": answers,
                "truncated": truncated,
            },
            option=_NUMPY,
        )


async def send_answer(
    send: Send, status: int, body: bytes, content_type: bytes, *headers: tuple[bytes, bytes]
) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    all_headers = [(b"content-type", content_type), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """Send an error in TFaaS's shape."""
    await send_answer(send, status, error_body(text), b"application/json", *headers)


async def send_failure(send: Send, error: MlaasError) -> None:
    """Send ``error`` with its status; 503 says when to come again."""
    status = status_of(error)
    headers = [(b"retry-after", b"1")] if status == 503 else []
    await send_error(send, status, sentence(error), *headers)


def error_body(text: str) -> bytes:
    """``{"error": "..."}`` and a newline."""
    shown = text.encode("utf-8", "replace").decode()
    return orjson.dumps({"error": shown}, option=orjson.OPT_APPEND_NEWLINE)


def sentence(error: MlaasError) -> str:
    """Message and remedy on one line."""
    return f"{error.message}. {error.remedy}" if error.remedy else error.message


def _fields(
    body: bytes, known: frozenset[str], expected: str, strict: bool = True
) -> dict[str, Any]:
    """The JSON object in ``body``; names of fields are as case-insensitive as Go's.

    Unless ``strict``, unknown fields are ignored, as the original TFaaS does.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"the body is not JSON: {error}", f"Send {expected}.") from None
    if type(content) is not dict:
        raise UsageError("the body is not a JSON object", f"Send {expected}.")
    if content.keys() <= known:
        return content
    folded: dict[str, Any] = {}
    for field, value in content.items():
        if field.casefold() not in known:
            if not strict:
                continue
            shown = field[:100]
            raise UsageError(f"unknown field {shown!r}", did_you_mean(shown, sorted(known)))
        folded[field.casefold()] = value
    return folded


def _model_name(content: dict[str, Any]) -> str:
    name = content.get("model")
    if name is None:
        raise UsageError("no model is named", "Give its name as model; GET /models lists them.")
    if type(name) is not str:
        raise UsageError("model must be the name of a model", "GET /models lists them.")
    return name
