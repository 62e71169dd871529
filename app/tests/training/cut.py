"""A way to a server that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self


class Cut:
    """Forwards connections to a port of localhost; ``port`` is where it listens itself."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._left: int | None = None
        self.cuts = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._end_all()

    def cut(self, after: int = 5000) -> None:
        """When so many more bytes came from the server, end all connections that there are.

        New ones are forwarded again.
        """
        self._left = after

    def wait_for(self, connections: int) -> None:
        """Until so many were made."""
        end = time.monotonic() + 60
        while self.connections < connections:
            assert time.monotonic() < end, self.connections
            time.sleep(0.05)

    def _end_all(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listening.accept()
                theirs = socket.create_connection(("127.0.0.1", self._to))
                self._open += [ours, theirs]
                self.connections += 1
                threading.Thread(target=self._forward, args=(ours, theirs), daemon=True).start()
                threading.Thread(
                    target=self._forward, args=(theirs, ours, True), daemon=True
                ).start()

    def _forward(self, source: socket.socket, to: socket.socket, answers: bool = False) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(1 << 16):
                if answers and self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                to.sendall(data)
                if answers and self._left == 0:
                    self._left = None
                    self.cuts += 1
                    self._end_all()
            to.shutdown(socket.SHUT_WR)
