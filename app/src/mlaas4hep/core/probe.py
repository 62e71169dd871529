"""Health check of a service for a container's HEALTHCHECK: starts in 50 ms and needs no curl.

    python -m mlaas4hep.core.probe http://127.0.0.1:8080/healthz
    python -m mlaas4hep.core.probe runner /var/lib/mlaas4hep/store
    python -m mlaas4hep.core.probe data-proxy /var/lib/mlaas4hep/data-proxy

Exit status: 0 well, 1 not; one line says why. Imports nothing but the standard library.
"""

from __future__ import annotations

import re
import socket
import sys

from mlaas4hep.core.locks import is_locked

PATIENCE_SECONDS = 3.0
URL = re.compile(r"http://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})(/[!-~]*)")
USAGE = (
    "usage: python -m mlaas4hep.core.probe http://HOST:PORT/PATH | runner STORE | data-proxy FOLDER"
)


def answer_of(url: re.Match[str]) -> tuple[int, str]:
    """Status and first kilobytes of the answer to GET ``url``; OSError when there is none."""
    host, port, path = url.groups()
    request = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    answer = b""
    with socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS) as connection:
        connection.sendall(request.encode())
        while len(answer) < 4096 and (piece := connection.recv(4096)):
            answer += piece
    head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    version, _, status = head.partition("\r\n")[0].partition(" ")
    if not version.startswith("HTTP/") or not status[:3].isdigit():
        raise OSError("the answer is not HTTP")
    return int(status[:3]), body.strip()


def proxy_says(folder: str) -> bytes:
    """The first line of what the data proxy answers; OSError when there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(f"{folder}/socket/proxy.sock")
        connection.sendall(b"PROBE\n")
        return connection.recv(4096).partition(b"\r\n")[0]


def main(arguments: list[str]) -> int:
    """Probe what ``arguments`` name; print what was found."""
    if len(arguments) == 2 and arguments[0] == "runner":
        store = arguments[1]
        well = is_locked(f"{store}/runner.lock")
        print(f"a runner works on {store}" if well else f"no runner works on {store}")
        return 0 if well else 1
    if len(arguments) == 2 and arguments[0] == "data-proxy":
        try:
            said = proxy_says(arguments[1])
        except OSError as error:
            said = str(error).encode()
        print(f"the data proxy at {arguments[1]}: {said.decode('latin-1')}")
        return 0 if said.startswith(b"HTTP/1.1 200") else 1
    if len(arguments) == 1 and (url := URL.fullmatch(arguments[0])):
        try:
            status, body = answer_of(url)
        except OSError as error:
            print(f"{arguments[0]}: {error}")
            return 1
        print(f"{arguments[0]}: {status} {body}")
        return 0 if status == 200 else 1
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
