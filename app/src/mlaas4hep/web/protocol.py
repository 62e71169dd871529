"""HTTP/1.1 with a bound on all that a client can make the service keep, or wait for.

uvicorn's protocol keeps a head of any length, any number of requests that come before they can be
answered, and any connection for ever. Both services run this one instead, in front of sign-in.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlaas4hep.core.units import size

MOST_HEAD = 64 * 1024
"""Bytes of a request's first line and headers, of its trailers, or between two pieces of a body."""
MOST_WAITING = 32
"""Requests that a connection may send before the first is answered; it ends after so many."""
MOST_CONNECTIONS = 4096
"""Connections that are read; twice as many are kept waiting, for one second."""
LOOK_SECONDS = 30.0
"""How long a head may take, a body may bring next to nothing, or an answer may not be read."""
LEAST_BODY = 1024
"""Bytes of a body that must come between two looks."""
IDLE_SECONDS = 2.0
"""Where connections run out, those without a request for that long make room."""
LINGER_SECONDS = 2.0

_TEXTS = {
    400: "Invalid HTTP request received.",
    408: "The request did not come to its end in time.",
    414: f"The URL is longer than {size(MOST_HEAD)}.",
    431: f"The headers are longer than {size(MOST_HEAD)}.",
    503: "Too many connections are open. Try again in a second.",
}
_ANSWERS = {
    status: STATUS_LINE[status]
    + b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n"
    + (b"retry-after: 1\r\n" if status == 503 else b"")
    + b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(text), text.encode())
    for status, text in _TEXTS.items()
}


class RefusedError(Exception):
    """Stops the parser: nothing more of this connection is read."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    most_connections: ClassVar[int] = MOST_CONNECTIONS
    _room_made: ClassVar[float] = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._fed = 0  # bytes of the piece that is being parsed
        self._unframed = 0  # bytes since the last that were a body's: of a head or of trailers
        self._received = 0
        self._requests = 0
        self._status = 400  # what a request that can't be parsed is answered
        self._ended = False
        self._made = self.loop.time()
        self._looked: tuple[tuple[int, bool] | None, int, int] = (None, 0, 0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many, wait for a second before the refusal."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        if len(self.connections) <= self.most_connections or self._make_room():
            return
        self._ended = True
        if len(self.connections) > 2 * self.most_connections:
            transport.abort()
        else:  # clients that come again at once would take the time of those that are answered
            self.flow.pause_reading()
            self._timer.cancel()
            self._timer = self.loop.call_later(1, self._close, _ANSWERS[503])

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece, and refuse what is too long although it has not ended."""
        if self._ended:
            return
        self._fed = len(data)
        self._unframed += len(data)
        self._received += len(data)
        super().data_received(data)
        if self._unframed > MOST_HEAD and not self._ended:
            self._refuse(431 if self.headers else 414)

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is too long or too many are waiting."""
        if self._fed > MOST_HEAD or self._unframed > MOST_HEAD:
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + size > MOST_HEAD:
                self._status = 414 if len(self.url) > size else 431
                raise RefusedError
        if len(self.pipeline) >= MOST_WAITING:
            raise RefusedError
        self._unframed = 0
        self._requests += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unframed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take."""
        if not self._ended:
            self._refuse(self._status)

    def _refuse(self, status: int) -> None:
        """Answer ``status`` if it is this request's turn, and read nothing more."""
        self._ended = True
        if not self._answered():
            if not self._in_body:  # the requests before it are answered
                self.cycle.keep_alive = False
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._timer.cancel()
        self.transport.write(_ANSWERS[status])
        self.transport.write_eof()
        # Not at once: that could destroy the answer on its way to who is still sending.
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _close(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    def _answered(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _in_body(self) -> bool:
        """Whether the newest request's body has still to come."""
        return not self._answered() and self.cycle.more_body

    def _look(self) -> None:
        """End the connection if the other side has not done its part since the last look."""
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        unsent = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
        owed = self._owed()
        then_owed, received, then_unsent = self._looked
        self._looked = (owed, self._received, unsent)
        if unsent and unsent == then_unsent:
            self.transport.abort()
            return
        moves = self._in_body and self._received - received >= LEAST_BODY
        if owed and owed == then_owed and not moves:
            self._refuse(408)

    def _owed(self) -> tuple[int, bool] | None:
        """Which head or body the other side has to send, and we are ready to read."""
        if self._answered():
            between = self.timeout_keep_alive_task is not None
            return None if between else (self._requests, False)
        ready = not (self.flow.read_paused or self.cycle.waiting_for_100_continue)
        return (self._requests, True) if self._in_body and ready else None

    def _idle(self, now: float) -> float:
        """Seconds since the last answer, or since there is a connection; 0 while it is used."""
        if not self._answered():
            return 0.0
        if self.timeout_keep_alive_task is None:  # a head has not come to its end
            return now - self._made
        return now - (self.timeout_keep_alive_task.when() - self.timeout_keep_alive)

    def _make_room(self) -> bool:
        """Close the connections without a request; False if there are none to close."""
        now = self.loop.time()
        if now - BoundedProtocol._room_made < 0.25:
            return False
        BoundedProtocol._room_made = now
        idle = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol)
            and not other._ended
            and other._idle(now) > IDLE_SECONDS
        ]
        for other in idle:
            other.transport.close()
        return bool(idle)


def allow_connections() -> None:
    """Let this process have as many connections open as it may; it reads no more than that."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS + 1024
    allowed = max(now, wanted if most == resource.RLIM_INFINITY else min(wanted, most))
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    BoundedProtocol.most_connections = min(MOST_CONNECTIONS, max(1, (allowed - 512) // 2))
