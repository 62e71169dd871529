"""A real TFaaS process for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class TFaaSProcess:
    """``mlaas4hep tfaas`` on a free port, with the models of ``store``."""

    def __init__(self, store: Path, **settings: Any) -> None:
        self.store = store
        environment = {f"MLAAS4HEP_{key.upper()}": str(value) for key, value in settings.items()}
        environment |= {"MLAAS4HEP_STORE": str(store), "MLAAS4HEP_TFAAS_PORT": "0"}
        self.log = (store / "tfaas.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlaas4hep.cli.main", "tfaas"],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("TFaaS listens on http://127.0.0.1:"), (
            store / "tfaas.log"
        ).read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def predict(self, values: list[Any], model: str = "luca_1", **more: Any) -> httpx.Response:
        return self.http.post("/json", json={"values": values, "model": model, **more})

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.http.close()
        self.process.send_signal(number)
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@contextmanager
def tfaas_process(store: Path, **settings: Any) -> Iterator[TFaaSProcess]:
    """Run TFaaS for the length of a block; nothing of it is left."""
    store.mkdir(parents=True, exist_ok=True)
    service = TFaaSProcess(store, **settings)
    try:
        yield service
    finally:
        service.stop()


def error_of(response: httpx.Response) -> str:
    """The text of an error in TFaaS's shape."""
    assert response.text.endswith("\n")
    content = json.loads(response.text)
    assert list(content) == ["error"]
    return content["error"]
