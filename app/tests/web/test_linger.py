"""Answers that come before their request has ended reach the client."""

from __future__ import annotations

import asyncio
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.web import linger
from mlaas4hep.web.linger import Lingering
from support import issuer as parts
from support.issuer import ALLOWED
from support.tfaas_process import tfaas_process

READ, REFUSED = ["read"] * 9, [413, b"too ", b"much"]
LENGTH, CHUNKED = (b"content-length", b"9000"), (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    ("pieces", "headers", "reads", "expected"),
    [
        pytest.param(9, [LENGTH], 0, [*READ, *REFUSED], id="all that comes is read before"),
        pytest.param(9, [CHUNKED], 4, [*READ, *REFUSED], id="the service had read some"),
        pytest.param(9, [LENGTH], 9, [*READ, *REFUSED], id="the service had read all"),
        pytest.param(
            9,
            [LENGTH, (b"expect", b"100-continue")],
            0,
            [413, "close", b"too ", b"much", *READ, b""],
            id="who waits for an answer before sending gets it",
        ),
        pytest.param(
            None,
            [LENGTH],
            0,
            ["read", 413, "close", b"too ", b"much", "read", b""],
            id="who stops sending gets it too",
        ),
        pytest.param(0, [], 0, REFUSED, id="there is no body"),
        pytest.param(0, [(b"content-length", b"0")], 0, REFUSED, id="there is an empty body"),
    ],
)
def test_an_answer_comes_after_its_request(
    monkeypatch: pytest.MonkeyPatch,
    pieces: int | None,
    headers: list[tuple[bytes, bytes]],
    reads: int,
    expected: list[Any],
) -> None:
    monkeypatch.setattr(linger, "SECONDS", 0.05)
    happened: list[Any] = []

    async def receive() -> Any:
        happened.append("read")
        if pieces is None:
            await asyncio.sleep(10)
        more = happened.count("read") < (pieces or 0)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": more}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            happened.append(message["status"])
            happened.extend(v.decode() for k, v in message["headers"] if k == b"connection")
        else:
            happened.append(message["body"])

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(reads):
            await receive()
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too ", "more_body": True})
        await send({"type": "http.response.body", "body": b"much"})

    asyncio.run(Lingering(refuse)({"type": "http", "headers": headers}, receive, send))
    assert happened == expected


def test_what_is_not_a_request_passes() -> None:
    seen: list[Any] = []

    async def lifespan(*given: Any) -> None:
        seen.extend(given)

    given = ({"type": "lifespan"}, object(), object())
    asyncio.run(Lingering(lifespan)(*given))  # type: ignore[arg-type]
    assert tuple(seen) == given


def test_tfaas_answers_a_stranger_who_sends_all_before_reading(tmp_path: Path) -> None:
    with (
        parts.issuer() as issuer,
        tfaas_process(tmp_path, issuer=issuer.url, **ALLOWED) as service,
        closing(HTTPConnection("127.0.0.1", service.port, timeout=20)) as connection,
    ):
        connection.request("POST", "/json", body=bytes(8_000_000))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (401, None)
        assert b"needs a token" in answer.read()
        connection.request("GET", "/healthz")  # on the same connection
        assert connection.getresponse().status == 200
