"""Web servers that answer as a test says."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sources.test_remote import RangeHandler


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server with this handler."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,)).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def answering(status: int, body: bytes = b"", **headers: str) -> type[RangeHandler]:
    class Handler(RangeHandler):
        def _answer(self, with_body: bool) -> None:
            self.send_response_only(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
