"""TCP ports of this computer."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of the loopback address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback address."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
