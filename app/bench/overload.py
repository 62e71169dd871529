"""How much of TFaaS's speed is left when far more clients ask than it can answer.

    python bench/overload.py [--seconds 4] [--rounds 3] [--connections 2000 6000]

Clients ask again as soon as they are answered, whatever the answer, and connect again as soon as
they are cut off. Printed are the predictions of many such clients as ratios to those of 200: a
second, and a second of the service's own time on the processor, which other programs don't change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import uvloop

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parents[1] / "tests")]

from mlaas4hep.models.repository import Repository  # noqa: E402
from support.bundles import layer, make_bundle, onnx_graph  # noqa: E402
from support.tfaas_process import TFaaSProcess, tfaas_process  # noqa: E402

USUAL = 200
VALUES = [0.1, 0.9, 0.3, 0.0, 1.0, 0.25, 0.75, 0.5]
CONTENT = json.dumps({"values": VALUES, "model": "model"}).encode()
REQUEST = b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
    len(CONTENT),
    CONTENT,
)


class Insistent(asyncio.Protocol):
    """A client that asks again at once."""

    def __init__(self, port: int, seen: Counter[str], until: float) -> None:
        self._port, self._seen, self._until = port, seen, until
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith((b"]\n", b"}\n", b"second.")):
            self._seen[self._data[9:12].decode()] += 1
            self._data = b""
            if time.monotonic() < self._until:
                self._transport.write(REQUEST)
            else:
                self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if time.monotonic() < self._until:
            self._seen["lost"] += 1
            asyncio.get_running_loop().create_task(self._again())

    async def _again(self) -> None:
        await connect(self._port, self._seen, self._until)


async def connect(port: int, seen: Counter[str], until: float) -> None:
    """One more client."""
    loop = asyncio.get_running_loop()
    try:
        await loop.create_connection(lambda: Insistent(port, seen, until), "127.0.0.1", port)
    except OSError:
        seen["no connection"] += 1


async def goodput(
    service: TFaaSProcess, connections: int, seconds: float
) -> tuple[float, float, Counter[str]]:
    """Predictions a second, and a second of processor; what else the clients saw meanwhile."""
    port, process = service.port, psutil.Process(service.process.pid)
    seen: Counter[str] = Counter()
    until = time.monotonic() + connections / 400 + 1 + seconds
    for start in range(0, connections, 100):
        many = range(min(100, connections - start))
        await asyncio.gather(*(connect(port, seen, until) for _ in many))
        await asyncio.sleep(0.05)
    await asyncio.sleep(max(0.0, until - seconds - time.monotonic()))
    seen.clear()
    began, used = time.monotonic(), sum(process.cpu_times()[:2])
    await asyncio.sleep(max(0.5, until - began))
    took, used = time.monotonic() - began, sum(process.cpu_times()[:2]) - used
    answered, others = seen.pop("200", 0), Counter(seen)
    await asyncio.sleep(1.5)
    return answered / took, answered / used, others


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waiting", type=int, default=4096, help="MLAAS4HEP_MAX_WAITING_REQUESTS")
    parser.add_argument("--connections", type=int, nargs="+", default=[2000, 6000])
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = [layer(8, 1024)[0], layer(1024, 1024)[0], layer(1024, 1)[0]]
        network = [(matrix / np.float32(30), offsets) for matrix, offsets in network]
        Repository(folder / "store/models").put(
            make_bundle(folder, "model", onnx_graph(network)), "model"
        )
        with tfaas_process(folder / "store", max_waiting_requests=options.waiting) as service:
            for connections in options.connections:
                ratios = []
                for _ in range(options.rounds):
                    usual = uvloop.run(goodput(service, USUAL, options.seconds))
                    many = uvloop.run(goodput(service, connections, options.seconds))
                    ratios.append((many[0] / usual[0], many[1] / usual[1]))
                by_time, by_work = (f"{median(one):.2f}" for one in zip(*ratios, strict=True))
                print(f"{connections} clients: {by_time} of {USUAL} clients, by work {by_work}")
                print(f"     {USUAL} here {usual[0]:,.0f} predictions/s; besides {dict(many[2])}")


if __name__ == "__main__":
    main()
