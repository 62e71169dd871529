"""A real data proxy, and a web server with ranges at an address that it may reach."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def own_address() -> str:
    """This machine's address on its network: loopback is never reached through the proxy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.connect(("192.0.2.1", 9))
        return str(found.getsockname()[0])


class FileServer(http.server.ThreadingHTTPServer):
    """Serves one content, or ranges of it; ``asked`` are method, path and headers."""

    daemon_threads = True

    def __init__(self, content: bytes, address: tuple[str, int] | None = None) -> None:
        super().__init__(address or (own_address(), 0), _Handler)
        self.content = content
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def target(self) -> str:
        """HOST:PORT of it."""
        return f"{self.server_address[0]!s}:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        content, ranged = self.server.content, "Range" in self.headers
        first, _, last = self.headers.get("Range", "=0-").partition("=")[2].partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if ranged else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if ranged:
            end = int(first) + len(part) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def file_server(content: bytes, address: tuple[str, int] | None = None) -> Iterator[FileServer]:
    """A file server for the length of a block."""
    with FileServer(content, address) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class DataProxyProcess:
    """``mlaas4hep data-proxy``, for the hosts in ``hosts``, with ``more`` settings."""

    def __init__(self, folder: Path, hosts: str, **more: str) -> None:
        self.folder = folder
        self._log = folder / "proxy.log"
        settings = {"MLAAS4HEP_DATA_PROXY": str(folder), "MLAAS4HEP_DATA_HOSTS": hosts}
        settings |= {f"MLAAS4HEP_{name.upper()}": value for name, value in more.items()}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlaas4hep.cli.main", "data-proxy"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | settings,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("the data proxy listens at "), self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged of connections."""
        found = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in found if "job" in line]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0, self._log.read_text()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def data_proxy(folder: Path, hosts: str, **more: str) -> Iterator[DataProxyProcess]:
    """A data proxy for the length of a block."""
    proxy = DataProxyProcess(folder, hosts, **more)
    try:
        yield proxy
    finally:
        if proxy.process.poll() is None:
            proxy.stop()
