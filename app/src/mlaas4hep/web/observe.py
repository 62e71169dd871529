"""Request ids, one log line per request, and metrics."""

from __future__ import annotations

import logging
import re
import secrets
from bisect import bisect_left
from collections.abc import Awaitable, Container, Iterator
from itertools import accumulate, count
from time import perf_counter
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.core.log import begin
from mlaas4hep.web.guard import SECURITY

PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
"""Asked every few seconds by machines: only their failures are worth a line."""

_log = logging.getLogger(__name__)

_PLAIN = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_GONE = 499
"""Stands for the status where the client went away before there was one."""


class Requests(Collector):
    """How many requests were answered, how, and how long it took.

    Counting raises integers; Prometheus' form is made when it asks.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], _Counts] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is the template, never the path that was asked for."""
        counts = self._seen.get((method, route, status))
        if counts is None:
            known = method if method in _METHODS else "other"
            counts = self._seen.setdefault((known, route, status), _Counts())
        counts.seconds += seconds
        counts.buckets[bisect_left(_SECONDS, seconds)] += 1

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """The counts by route, method and status, and the times by route and method."""
        seen = list(self._seen.items())
        answered = CounterMetricFamily(
            "mlaas4hep_requests", "Requests answered.", labels=("route", "method", "status")
        )
        times: dict[tuple[str, str], _Counts] = {}
        for (method, route, status), counts in seen:
            answered.add_metric((route, method, str(status)), sum(counts.buckets))
            total = times.setdefault((route, method), _Counts())
            total.seconds += counts.seconds
            total.buckets = [a + b for a, b in zip(total.buckets, counts.buckets, strict=True)]
        yield answered
        took = HistogramMetricFamily(
            "mlaas4hep_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            labels=("route", "method"),
        )
        bounds = [*map(str, _SECONDS), "+Inf"]
        for labels, total in times.items():
            cumulated = zip(bounds, accumulate(total.buckets), strict=True)
            took.add_metric(labels, [(bound, n) for bound, n in cumulated], total.seconds)
        yield took


class _Counts:
    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(_SECONDS) + 1)


class Observe:
    """Around everything of a service, so that errors of all that is within are seen too.

    Every answer gets its id and, where it has none of its own, the headers of SECURITY.
    """

    def __init__(self, app: ASGIApp, requests: Requests, quiet: Container[str] = PROBES) -> None:
        """Requests for the paths in ``quiet`` are logged only when they fail."""
        self._app = app
        self._requests = requests
        self._quiet = quiet
        self._start = secrets.token_hex(5).encode()
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the service answer one request, and note how it did."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
        if not request_id or not _PLAIN.fullmatch(request_id):
            request_id = b"%b-%x" % (self._start, next(self._numbers))
        begin(request_id=request_id.decode())
        status = size = 0

        def send_seen(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message["headers"])
                present = {name for name, _ in headers}
                headers += [header for header in SECURITY if header[0] not in present]
                headers.append((b"x-request-id", request_id))
            else:
                size += len(message.get("body", b""))
            return send(message)

        start = perf_counter()
        try:
            await self._app(scope, receive, send_seen)
        except Exception:
            status = status or 500  # what uvicorn answers
            raise
        finally:
            self._note(scope, status or _GONE, size, perf_counter() - start)

    def _note(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        path, method = scope["path"], scope["method"]
        quiet = path in self._quiet
        route = path if quiet else getattr(scope.get("route"), "path", "other")
        self._requests.add(method, route, status, seconds)
        if quiet and status < 400:
            return
        line: dict[str, Any] = {
            "method": method,
            "path": path[:300],
            "status": status,
            "ms": round(seconds * 1000, 1),
            "bytes": size,
        }
        if owner := getattr(scope.get("mlaas4hep.caller"), "owner", ""):
            line["owner"] = owner
        _log.info("request", extra=line)
