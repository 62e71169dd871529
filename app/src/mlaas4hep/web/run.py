"""Running a service: where it may listen, and the server that both run.

Without sign-in both listen on loopback only.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Container

import uvicorn
from starlette.types import ASGIApp

from mlaas4hep.access.rules import is_loopback
from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.linger import Lingering
from mlaas4hep.web.observe import PROBES, Observe, Requests
from mlaas4hep.web.protocol import BoundedProtocol, allow_connections


def require_loopback(host: str) -> None:
    """UsageError unless ``host`` is an address of this machine that no other machine can reach."""
    if not is_loopback(host):
        raise UsageError(
            f"refusing to listen on {host!r}: there is no sign-in, so whoever reaches the port "
            "could do everything",
            "Name the issuer of your users' tokens (MLAAS4HEP_ISSUER), or listen on 127.0.0.1 "
            "(MLAAS4HEP_HOST) and let users in by an ssh tunnel.",
        )


def listen(settings: Settings, port: int) -> socket.socket:
    """A socket that listens already, so that no connection is lost before the service is up.

    UsageError when the port is taken, or when others could come in without sign-in.
    """
    host = settings.host
    if not settings.issuer and not settings.unsafe_no_sign_in:
        require_loopback(host)
    allow_connections()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}:{port}: {error.strerror}",
            "Stop the program that listens there, or choose another port; 0 takes a free one.",
        ) from None


def address(listening: socket.socket) -> str:
    """``http://127.0.0.1:PORT`` of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    name: str,
    app: ASGIApp,
    listening: socket.socket,
    requests: Requests,
    *,
    quiet: Container[str] = PROBES,
    keep_alive: int = 5,
    grace: int = 5,
) -> None:
    """Serve until SIGINT or SIGTERM; prints ``NAME listens on URL`` when ready.

    Requests for the paths in ``quiet`` are logged only when they fail. A connection without a
    request is closed after ``keep_alive`` seconds, requests have ``grace`` seconds at the end.
    """
    sys.setswitchinterval(0.001)  # unpacking and encoding keep others waiting less
    gc.freeze()
    config = uvicorn.Config(
        Observe(Lingering(app), requests, quiet),
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=grace,
    )
    _Server(config, f"{name} listens on {address(listening)}").run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says when the service has started."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(self._ready, flush=True)
