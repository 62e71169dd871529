from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mlaas4hep.core.log import JsonFormatter, about, begin, note

log = logging.getLogger("mlaas4hep.tests")


class Lines:
    """What was logged, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def __call__(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    handler = logging.StreamHandler(lines.stream)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)


def test_a_line(lines: Lines) -> None:
    log.info("job %s", "ended", extra={"reason": "none\nat all"})
    [line] = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "mlaas4hep.tests",
        "message": "job ended",
        "reason": "none\nat all",
    }


def test_an_exception_is_in_its_line(lines: Lines) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        log.error("it failed", exc_info=sys.exc_info())
    assert "ValueError: bad" in lines()[0]["exception"]


def test_what_lines_are_about(lines: Lines) -> None:
    with about(job="luca_1"):
        log.info("a")
        with about(step="x"):
            log.info("b")
    log.info("c")
    found = [(line.get("job"), line.get("step")) for line in lines()]
    assert found == [("luca_1", None), ("luca_1", "x"), (None, None)]


def test_requests_at_the_same_time_are_kept_apart(lines: Lines) -> None:
    async def request(number: int) -> None:
        begin(request_id=str(number))
        await asyncio.sleep(0)
        await asyncio.to_thread(work, number)
        log.info("answered")

    def work(number: int) -> None:
        note(job=f"luca_{number}")
        log.info("worked")

    async def both() -> None:
        await asyncio.gather(request(1), request(2))

    asyncio.run(both())
    note(job="of nobody")
    log.info("outside")
    found = sorted((line.get("request_id", ""), line.get("job", "")) for line in lines())
    assert found == [("", "")] + [(n, f"luca_{n}") for n in ("1", "1", "2", "2")]
