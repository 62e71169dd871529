"""Answers that come before their request has ended: a refused upload, a stranger's body."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = 2.0


class Lingering:
    """Around a service: an answer waits a little for the end of its request's body.

    Proxies lose some answers that come while the body is on its way (Caddy: 1 in 200). One that
    comes all the same closes the connection, but not at once: that could destroy it on its way.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the service answer one request; what it does not read of it is thrown away."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        ended = False

        async def receive_noted() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def drain() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    while not ended:
                        await receive_noted()

        async def send_late(message: Message) -> None:
            if ended:
                await send(message)
            elif message["type"] == "http.response.start":
                if b"expect" not in headers:  # else nothing is coming yet
                    await drain()
                if not ended:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)
            elif message.get("more_body"):
                await send(message)
            else:
                message["more_body"] = True
                await send(message)
                await drain()
                await send({"type": "http.response.body", "body": b""})

        await self._app(scope, receive_noted, send_late)
