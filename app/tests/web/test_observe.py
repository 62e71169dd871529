from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlaas4hep.core.log import JsonFormatter, note
from mlaas4hep.web.observe import Observe, Requests
from mlaas4hep.web.status import exposed, registry

BODY = b"0123456789"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("mlaas4hep.web.observe")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)


async def service(scope: Any, receive: Any, send: Any) -> None:
    """Answers /STATUS with that status; /fail fails, /gone says nothing, /half fails midway."""
    what = scope["path"][1:].partition("/")[0]
    scope["route"] = SimpleNamespace(path="/{what}")
    if what == "fail":
        raise ValueError("failed")
    if what == "gone":
        return
    if what == "owned":
        scope["mlaas4hep.caller"] = SimpleNamespace(owner="user:carla")
        note(job="luca_1")
    if what == "unrouted":
        del scope["route"]
    status = int(what) if what.isdigit() else 200
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": BODY[:4], "more_body": True})
    if what == "half":
        raise ValueError("failed midway")
    await send({"type": "http.response.body", "body": BODY[4:]})


def ask(
    observed: Observe, path: str, method: str = "GET", query: bytes = b"", **headers: str
) -> list[Any]:
    """What is sent for a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    given = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query}
    asyncio.run(observed(scope | {"headers": given}, receive, send))
    return sent


def request_id(sent: list[Any]) -> str:
    assert sent[0]["headers"][0] == (b"content-type", b"text/plain")
    [found] = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    return found.decode()


@pytest.mark.parametrize("given", ["abc-123_X", "a" * 64])
def test_a_plain_request_id_is_kept(log: io.StringIO, given: str) -> None:
    assert request_id(ask(Observe(service, Requests()), "/200", x_request_id=given)) == given
    assert json.loads(log.getvalue())["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "a" * 65, "é", '"', "a.b"])
def test_any_other_is_replaced(log: io.StringIO, given: str) -> None:
    observed = Observe(service, Requests())
    made = [request_id(ask(observed, "/200", x_request_id=given)) for _ in range(2)]
    made.append(request_id(ask(Observe(service, Requests()), "/200")))
    assert len({*made, given}) == 4
    assert [json.loads(line)["request_id"] for line in log.getvalue().splitlines()] == made


def test_the_line_of_a_request(log: io.StringIO) -> None:
    secrets = {"authorization": "Bearer SECRET", "cookie": "session=SECRET"}
    sent = ask(Observe(service, Requests()), "/owned/x", "POST", b"token=SECRET", **secrets)
    assert b"".join(message["body"] for message in sent[1:]) == BODY
    line = json.loads(log.getvalue())
    assert "SECRET" not in log.getvalue()
    assert isinstance(line.pop("ms"), float)
    assert line.pop("time")
    assert line.pop("request_id") == request_id(sent)
    assert line == {
        "level": "INFO",
        "logger": "mlaas4hep.web.observe",
        "message": "request",
        "method": "POST",
        "path": "/owned/x",
        "status": 200,
        "bytes": 10,
        "owner": "user:carla",
        "job": "luca_1",
    }


def test_quiet_paths_are_logged_when_they_fail(log: io.StringIO) -> None:
    observed = Observe(service, Requests(), {"/200", "/404"})
    for path in ("/200", "/404", "/201"):
        ask(observed, path)
    assert [json.loads(line)["path"] for line in log.getvalue().splitlines()] == ["/404", "/201"]


def test_failures_are_seen(log: io.StringIO) -> None:
    requests = Requests()
    observed = Observe(service, requests)
    for path in ("/fail", "/half"):
        with pytest.raises(ValueError, match="failed"):
            ask(observed, path)
    ask(observed, "/gone")
    statuses = [json.loads(line)["status"] for line in log.getvalue().splitlines()]
    assert statuses == [500, 200, 499]


def test_other_protocols_pass(log: io.StringIO) -> None:
    seen = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    given = ({"type": "lifespan"}, object(), object())
    asyncio.run(Observe(lifespan, Requests())(*given))  # type: ignore[arg-type]
    assert seen == [given]
    assert log.getvalue() == ""


def samples(*collectors: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = bytes(exposed(registry(*collectors)).body).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics() -> None:
    requests = Requests()
    observed = Observe(service, requests, {"/200"})
    for path in ("/200", "/201", "/202", "/404", "/404", "/unrouted"):
        ask(observed, path)
    ask(observed, "/200", "BREW")
    ask(observed, "/200", "STEW")
    found = samples(requests)

    def count(route: str, status: int, method: str = "GET") -> float:
        labels = {"route": route, "method": method, "status": str(status)}
        return found["mlaas4hep_requests_total", frozenset(labels.items())]

    assert count("/200", 200) == 1
    assert count("/200", 200, "other") == 2
    assert count("/{what}", 201) == count("/{what}", 202) == 1
    assert count("/{what}", 404) == 2
    assert count("other", 200) == 1


def test_times_are_a_histogram() -> None:
    requests = Requests()
    for seconds in (0.004, 0.005, 0.3, 2, 100):
        requests.add("GET", "/x", 200, seconds)
    requests.add("GET", "/x", 500, 0.006)
    found = samples(requests)
    labels = {("route", "/x"), ("method", "GET")}

    def within(bound: str) -> float:
        return found["mlaas4hep_request_seconds_bucket", frozenset({*labels, ("le", bound)})]

    bounds = ("0.005", "0.01", "0.25", "0.5", "2.5", "60.0", "+Inf")
    assert [within(bound) for bound in bounds] == [2, 3, 3, 4, 5, 5, 6]
    assert found["mlaas4hep_request_seconds_count", frozenset(labels)] == 6
    total = found["mlaas4hep_request_seconds_sum", frozenset(labels)]
    assert total == pytest.approx(102.315)


@pytest.mark.hostile("missing nosniff")
@pytest.mark.parametrize("path", ["/200", "/404", "/500"])
def test_every_answer_has_the_security_headers(path: str) -> None:
    sent = ask(Observe(service, Requests()), path)
    headers = dict(sent[0]["headers"])
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'")
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"referrer-policy"] == b"no-referrer"


def test_a_security_header_of_the_answer_itself_is_kept() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    sent = ask(Observe(page, Requests()), "/")
    assert [v for k, v in sent[0]["headers"] if k == b"cache-control"] == [b"max-age=60"]
