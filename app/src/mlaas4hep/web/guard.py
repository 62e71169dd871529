"""Around a service: who may ask, how much, and the security headers of every answer."""

from __future__ import annotations

from collections.abc import Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.core.errors import LimitError, MlaasError
from mlaas4hep.web.problem import problem, status_of
from mlaas4hep.web.sign_in import SignIn, challenge

MOST_BODY = 1 << 20
"""Bytes of a request's body, but for uploads."""
SECURITY = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Around everything: who may ask, how much, and the headers of every answer.

    By GET of the paths in ``changing`` something is changed; bodies for those in ``large`` are
    bounded by who reads them, all others by MOST_BODY.
    """

    def __init__(
        self, app: ASGIApp, sign_in: SignIn, changing: Container[str], large: Container[str]
    ) -> None:
        self._app = app
        self._sign_in = sign_in
        self._changing = changing
        self._large = large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in SECURITY.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        if scope["path"] not in self._large:
            receive = limited(receive)
        try:
            await self._sign_in.admit(scope, scope["path"] in self._changing)
        except MlaasError as error:
            answer = problem(status_of(error), error.message, error.remedy)
            answer.headers.update(challenge(error))
            await answer(scope, receive, send_secured)
            return
        await self._app(scope, receive, send_secured)


def limited(receive: Receive) -> Receive:
    """``receive`` of a body that raises LimitError when it is larger than MOST_BODY."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY:
            raise LimitError(f"the body is larger than {MOST_BODY} bytes")
        return message

    return receive_counted
