"""How a program of the grid is: /healthz, /readyz and /metrics, by HTTP.

Nothing secret is in it: no sign-in is needed. The port belongs on
loopback or an internal network.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlaas4hep import __version__
from mlaas4hep.core.errors import MlaasError, UsageError
from mlaas4hep.web.observe import Requests
from mlaas4hep.web.problem import problem
from mlaas4hep.web.run import run
from mlaas4hep.web.status import exposed, registry


@dataclass(frozen=True)
class Status:
    """What a program says of itself, asked by threads of the server."""

    alive: Callable[[], bool]
    """Whether it still works: the engine starts it again if not."""
    lacks: Callable[[], list[MlaasError]]
    """What keeps it from its work, each with what to do; nothing: ready."""
    facts: Callable[[], dict[str, Any]]
    """What /readyz tells besides."""
    collectors: Sequence[Collector] = ()


def serve(name: str, host: str, port: int, status: Status, more: Sequence[Route] = ()) -> None:
    """Answer until SIGINT or SIGTERM; prints ``NAME listens on URL`` when ready."""
    requests = Requests()
    run(name, application(name, status, requests, more), listen(host, port), requests)


def application(
    name: str, status: Status, requests: Requests, more: Sequence[Route] = ()
) -> Starlette:
    """What answers; ``more`` is asked besides."""
    metrics = registry(requests, *status.collectors)

    def healthz(_: Request) -> Response:
        if status.alive():
            return JSONResponse({"status": "ok", "version": __version__})
        return problem(503, f"{name} hangs")

    def readyz(_: Request) -> Response:
        facts, lacks = status.facts(), status.lacks()
        if not lacks:
            return JSONResponse({"status": "ready"} | facts)
        said = "; ".join(lack.message for lack in lacks)
        remedy = " ".join(lack.remedy for lack in lacks)
        content = {"title": f"not ready: {said}", "status": 503, "detail": remedy} | facts
        return JSONResponse(content, 503, media_type="application/problem+json")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", lambda _: exposed(metrics)),
            *more,
        ]
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}:{port}: {error.strerror}",
            "Stop the program that listens there, or set MLAAS4HEP_GRID_STATUS_PORT.",
        ) from None
