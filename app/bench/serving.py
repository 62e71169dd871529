"""How much of a server's speed is left when it predicts: TFaaS against two references.

    python bench/serving.py [--seconds 2] [--rounds 3] [--base COMMIT]

Four things are loaded in turn by the same generator on loopback (keep-alive, one row a request):

- model: TFaaS with a 27-1024-1024-1 network in float32,
- null model: the same TFaaS with a network of one layer, which costs nothing,
- echo: a raw ASGI callable on the same uvicorn that reads the body and answers as many bytes,
- with token: the null model once more, from a TFaaS with sign-in.

With ``--base``, TFaaS of that commit is loaded with the first two, in the same rounds.

What counts are the ratios; requests a second belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parents[1] / "tests")]

from mlaas4hep.models.owners import Owners  # noqa: E402
from mlaas4hep.models.repository import Repository  # noqa: E402
from support.bundles import layer, make_bundle, make_specs, onnx_graph  # noqa: E402
from support.issuer import ALLOWED, issuer  # noqa: E402
from support.tfaas_process import TFaaSProcess, tfaas_process  # noqa: E402

CONNECTIONS = (50, 200)
MOST = 1_000_000
"""Requests at which a measurement ends, whatever its time."""

ECHO = """
import socket, uvicorn
ANSWER = b"[0.4981104]\\n"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(listening.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="httptools", loop="uvloop", ws="none", lifespan="off",
    interface="asgi3", access_log=False, log_config=None, server_header=False)
uvicorn.Server(config).run(sockets=[listening])
"""


class Connection(asyncio.Protocol):
    """Sends the same request again as soon as it is answered."""

    def __init__(self, request: bytes, times: list[float]) -> None:
        self._request = request
        self._times = times
        self._data = b""
        self.stopped = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._data.endswith(b"]\n"):
            return
        if not self._data.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"not answered: {self._data!r}")
        self._times.append(time.perf_counter() - self._sent)
        self._data = b""
        if not self.stopped:
            self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def close(self) -> None:
        self._transport.close()


async def load(port: int, request: bytes, connections: int, seconds: float) -> list[float]:
    """Seconds of every request that ``connections`` made in ``seconds``."""
    times: list[float] = []
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: Connection(request, times), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    while not times:  # until the model is loaded
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)  # until it is warm
    times.clear()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and len(times) < MOST:
        await asyncio.sleep(0.05)
    for connection in opened:
        connection.stopped = True
    found = list(times)
    await asyncio.sleep(0.2)
    for connection in opened:
        connection.close()
    return found


def measure(port: int, request: bytes, connections: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and the 99th percentile of their time in ms."""
    start = time.perf_counter()
    times = uvloop.run(load(port, request, connections, seconds))
    assert time.perf_counter() - start < seconds + 60
    return len(times) / seconds, float(np.percentile(times, 99)) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of all four in turn")
    parser.add_argument("--base", default="", help="a commit whose TFaaS is measured, too")
    options = parser.parse_args()

    network = [layer(27, 1024)[0], layer(1024, 1024)[0], layer(1024, 1)[0]]
    network = [(matrix / np.float32(30), offsets) for matrix, offsets in network]
    specs = make_specs([f"x{i:02}" for i in range(27)], {})
    values = np.random.default_rng(1).random(27).round(6).tolist()

    def request(model: str, token: str = "") -> bytes:
        body = json.dumps({"values": values, "model": model}).encode()
        head = b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        if token:
            head += f"Authorization: Bearer {token}\r\n".encode()
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = Repository(folder / "store/models")
        Owners(repository).claim("null", "user:alice")
        repository.put(make_bundle(folder, "model", onnx_graph(network), specs=specs), "model")
        repository.put(make_bundle(folder, "null", specs=specs), "null")
        echo = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None
            echo_port = int(echo.stdout.readline())
            with (
                issuer() as issued,
                tfaas_process(folder / "store") as service,
                tfaas_process(folder / "store", issuer=issued.url, **ALLOWED) as signed,
                base_process(folder, options.base) as base,
            ):
                token = issued.token(exp=int(time.time()) + 3600)
                targets = [
                    (service.port, request("model")),
                    (service.port, request("null")),
                    (echo_port, request("model")),
                    (signed.port, request("null", token)),
                ]
                if base:
                    targets += [(base.port, request("model")), (base.port, request("null"))]
                print(f"27-1024-1024-1 float32, one row a request, {os.cpu_count()} cores")
                for connections in CONNECTIONS:
                    rounds = [
                        [
                            measure(port, text, connections, options.seconds)
                            for port, text in targets
                        ]
                        for _ in range(options.rounds)
                    ]
                    report(connections, rounds)
        finally:
            echo.terminate()
            echo.wait()


@contextmanager
def base_process(folder: Path, commit: str) -> Iterator[TFaaSProcess | None]:
    """TFaaS of ``commit`` with the same models and packages; None without a commit."""
    if not commit:
        yield None
        return
    archive = subprocess.run(
        ["git", "archive", commit, "app/src"],
        cwd=HERE.parent.parent,
        check=True,
        capture_output=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / "base", filter="data")
    sys.path.insert(0, str(folder / "base/app/src"))
    try:
        service = TFaaSProcess(folder / "store")
    finally:
        del sys.path[0]
    try:
        yield service
    finally:
        service.stop()


def report(connections: int, rounds: list[list[tuple[float, float]]]) -> None:
    """Print the ratios of the rounds first, then what they were made from."""

    def ratio(reference: int, of: int = 0) -> str:
        found = [one[of][0] / one[reference][0] for one in rounds]
        return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"

    print(f"{connections:4} connections: {ratio(1)} of the null model, {ratio(2)} of the echo")
    print(f"     with a token {ratio(1, 3)} of the null model without")
    names = ["model", "null model", "echo", "with token"]
    if len(rounds[0]) > len(names):
        names += ["base model", "base null"]
        print(f"     {ratio(5, 4)} of the null model in the base")
        print(f"     model {ratio(4)} of the base, null model {ratio(5, 1)} of the base")
    for i, name in enumerate(names):
        rate, late = (median(one[i][k] for one in rounds) for k in (0, 1))
        print(f"     {name:10} here {rate:7,.0f} requests/s, p99 {late:.0f} ms")


if __name__ == "__main__":
    main()
