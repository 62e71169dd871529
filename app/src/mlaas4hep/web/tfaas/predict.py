"""The prediction routes of TFaaS as one raw ASGI callable: no framework on this path."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

import orjson
from starlette.types import Message, Receive, Scope, Send

from mlaas4hep.core.errors import (
    BusyError,
    LimitError,
    MlaasError,
    UsageError,
    did_you_mean,
)
from mlaas4hep.core.units import size
from mlaas4hep.inference.service import Service
from mlaas4hep.web.sign_in import caller_of
from mlaas4hep.web.tfaas.answers import SMALL, send_answer, send_error, send_failure
from mlaas4hep.web.tfaas.proto import read_row, write_predictions

_log = logging.getLogger(__name__)

_NUMPY = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_ROW = frozenset(("model", "values", "keys"))
_EVENTS = frozenset(("model", "events"))
AT_ONCE = 6
"""How many of the largest bodies may be held at once; parsed, each may take 25 times its size."""
MOST_ANSWER_BYTES = 64 << 20
"""Bytes of large answers that wait for those who asked to read them."""
BODY_SECONDS = 30.0
REFUSAL_SECONDS = 1.0
"""How long a refusal for want of room takes.

Clients that come again at once would else take the time of those that are answered.
"""

Parsed = TypeVar("Parsed")


class GoneError(Exception):
    """The client went away before its request was whole."""


class Held:
    """The bytes of large bodies and answers that may be in memory at the same time."""

    def __init__(self, most: int) -> None:
        self._free = most

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes; BusyError when there is no room for them."""
        if size > self._free:
            raise BusyError("too many large requests are being answered", "Try again in a second.")
        self._free -= size
        try:
            yield
        finally:
            self._free += size


class Predictions:
    """Answers POST /json, /proto and /predict/events and their other names; 405 for other methods.

    A body may have ``max_bytes``. Every answer is whole: errors are ``{"error": "..."}`` with their
    status.
    """

    def __init__(self, service: Service, max_bytes: int) -> None:
        self._service = service
        self._max_bytes = max_bytes
        self._bodies = Held(AT_ONCE * max_bytes)
        self._answers = Held(MOST_ANSWER_BYTES)
        self._parsing = asyncio.Lock()
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
        owner = caller_of(scope).owner
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body") or len(body) > SMALL:
                size = self._size(scope, message)
                with self._bodies.hold(size if size > SMALL else 0):
                    async with asyncio.timeout(BODY_SECONDS):
                        body = await self._body(receive, message)
                    answer = await handler(body, owner)
            elif message["type"] == "http.disconnect":
                return
            else:
                answer = await handler(body, owner)
            if len(answer) > SMALL:
                with self._answers.hold(len(answer)):
                    await send_answer(send, 200, answer, content_type)
                return
        except BusyError as error:
            await asyncio.sleep(REFUSAL_SECONDS)
            await send_failure(send, error)
        except MlaasError as error:
            await send_failure(send, error)
        except GoneError:
            return
        except TimeoutError:
            text = f"the body did not come to its end in {BODY_SECONDS:.0f} seconds"
            await send_error(send, 408, text, (b"connection", b"close"))
        except Exception:
            _log.exception("a prediction failed")
            await send_error(send, 500, "the prediction failed; the service's log says why")
        else:
            await send_answer(send, 200, answer, content_type)

    def _size(self, scope: Scope, message: Message) -> int:
        """Bytes of the body that has begun to come, at most; LimitError if it is too large."""
        size = len(message.get("body", b""))
        if message.get("more_body"):
            lengths = [value for name, value in scope["headers"] if name == b"content-length"]
            size = int(lengths[0]) if lengths else max(size, self._max_bytes)
        self._check_size(size)
        return size

    def _check_size(self, received: int) -> None:
        if received > self._max_bytes:
            raise LimitError(
                f"the request is larger than {size(self._max_bytes)}",
                "Send fewer events at once (the limit is MLAAS4HEP_MAX_REQUEST_BYTES).",
            )

    async def _body(self, receive: Receive, message: Message) -> bytes:
        pieces = [message.get("body", b"")]
        size = len(pieces[0])
        while message.get("more_body"):
            message = await receive()
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            self._check_size(size)
        if message["type"] == "http.disconnect":
            raise GoneError
        return b"".join(pieces)

    async def _parsed(self, parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        """``parse(body)`` of a large body: one by one, in a quarter of the event loop's time."""
        async with self._parsing:
            start = perf_counter()
            gc.disable()  # it would look through millions of new lists again and again
            try:
                return parse(body)
            finally:
                gc.enable()
                await asyncio.sleep(3 * (perf_counter() - start))

    async def _json(self, body: bytes, owner: str) -> bytes:
        content = _row(body) if len(body) <= SMALL else await self._parsed(_row, body)
        values, keys = content.get("values"), content.get("keys")
        if type(values) is not list:
            raise UsageError("values must be a list of numbers", "One for each column, in order.")
        if keys is not None and not (type(keys) is list and all(type(key) is str for key in keys)):
            raise UsageError("keys must be a list of the values' columns, or absent")
        answers, _ = await self._service.predict(_model_name(content), owner, values, keys or ())
        return orjson.dumps(answers[0], option=_NUMPY)

    async def _proto(self, body: bytes, owner: str) -> bytes:
        row = read_row(body) if len(body) <= SMALL else await self._parsed(read_row, body)
        name, values, keys = row
        name = _model_name({"model": name or None})
        answers, labels = await self._service.predict(name, owner, values, keys)
        return write_predictions(answers[0].tolist(), labels)

    async def _events(self, body: bytes, owner: str) -> bytes:
        async with self._service.turn(owner):
            if len(body) <= SMALL:
                content = _event_fields(body)
            else:
                content = await self._parsed(_event_fields, body)
            name, events = _model_name(content), content.get("events")
            answers = await self._service.predict_events(name, owner, events)
            return orjson.dumps(answers._asdict(), option=_NUMPY)


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


def _row(body: bytes) -> dict[str, Any]:
    return _fields(body, _ROW, '{"model": NAME, "values": [...]}', strict=False)


def _event_fields(body: bytes) -> dict[str, Any]:
    return _fields(body, _EVENTS, '{"model": NAME, "events": [{BRANCH: VALUE or LIST}]}')


def _model_name(content: dict[str, Any]) -> str:
    name = content.get("model")
    if name is None:
        raise UsageError("no model is named", "Give its name as model; GET /models lists them.")
    if type(name) is not str:
        raise UsageError("model must be the name of a model", "GET /models lists them.")
    return name
