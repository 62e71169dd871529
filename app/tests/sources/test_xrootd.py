"""A server of root:// that no site runs."""

from __future__ import annotations

import socketserver
import struct
import subprocess
import sys
import threading
from pathlib import Path

OPEN = """
import sys
from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.root import RootFile

try:
    RootFile(sys.argv[1], "events")
except DataError as error:
    print(error)
"""
PROTOCOL, LOGIN, OPENING = 3006, 3007, 3010
OK, REDIRECT = 0, 4004
VERSION = 0x520


class Sending(socketserver.StreamRequestHandler):
    """Speaks as much of XRootD's protocol as sends a client to its own files."""

    def handle(self) -> None:
        self.rfile.read(20)
        self.say(b"\0\0", OK, struct.pack(">ii", VERSION, 0))
        while head := self.rfile.read(24):
            request, length = struct.unpack(">2xH16xi", head)
            self.rfile.read(length)
            status, body = {
                PROTOCOL: (OK, struct.pack(">ii", VERSION, 2)),  # a redirector
                LOGIN: (OK, bytes(16)),
                OPENING: (REDIRECT, struct.pack(">i", -1) + self.server.address.encode()),
            }.get(request, (OK, b""))
            self.say(head[:2], status, body)

    def say(self, stream: bytes, status: int, body: bytes) -> None:
        self.wfile.write(stream + struct.pack(">Hi", status, len(body)) + body)


def test_a_server_can_not_send_to_a_file_of_this_machine(small_files: list[Path]) -> None:
    """XRootD's client would read it. It does so in a process of its own, as after TensorFlow's."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Sending) as server:
        threading.Thread(target=server.serve_forever).start()
        server.address = f"file://localhost{small_files[0]}"
        url = f"root://127.0.0.1:{server.server_address[1]}//store/a.root"
        try:
            ended = subprocess.run(
                [sys.executable, "-c", OPEN, url], capture_output=True, text=True, timeout=60
            )
        finally:
            server.shutdown()
    assert f"{url} can't be read: its server sends to file://localhost/" in ended.stdout
