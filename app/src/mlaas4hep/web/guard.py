"""Around a service: who may ask, how much, and the security headers of every answer."""

from __future__ import annotations

from collections.abc import Container

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.core.errors import LimitError, MlaasError
from mlaas4hep.core.units import size
from mlaas4hep.web.pages import refusal
from mlaas4hep.web.problem import problem, status_of
from mlaas4hep.web.sign_in import Admission, challenge

MOST_BODY = 1 << 20
"""Bytes of a request's body, but for uploads."""
SECURITY = (
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer that does not set its own."""


class Guard:
    """Around everything: who may ask, and how much.

    By GET of the paths in ``changing`` something is changed; bodies for those in ``large`` are
    bounded by who reads them, all others by MOST_BODY.
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, changing: Container[str], large: Container[str]
    ) -> None:
        self._app = app
        self._admission = admission
        self._changing = changing
        self._large = large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] not in self._large:
            receive = limited(receive)
        try:
            await self._admission.admit(scope, scope["path"] in self._changing)
        except MlaasError as error:
            answer: Response | None = refusal(scope, error)
            if answer is None:
                answer = problem(status_of(error), error.message, error.remedy)
                answer.headers.update(challenge(error))
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def limited(receive: Receive) -> Receive:
    """``receive`` of a body that raises LimitError when it is larger than MOST_BODY."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY:
            raise LimitError(f"the body is larger than {size(MOST_BODY)}")
        return message

    return receive_counted
