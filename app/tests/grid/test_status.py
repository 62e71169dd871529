"""What /healthz, /readyz and /metrics of a program of the grid answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mlaas4hep.core.errors import MlaasError, UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import renewer
from mlaas4hep.grid.status import Status, application, listen
from mlaas4hep.web.observe import Requests


class Left(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("left", "Seconds.", 7)


def client(alive: bool = True, lacks: tuple[MlaasError, ...] = ()) -> TestClient:
    told = Status(lambda: alive, lambda: list(lacks), lambda: {"left": 7}, (Left(),))
    return TestClient(application("it", told, Requests()))


def test_ready():
    answer = client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "left": 7})
    assert "\nleft 7.0\n" in client().get("/metrics").text


def test_not_ready_says_all_that_is_wrong_and_the_facts():
    lacks = (MlaasError("no key", "Make one."), MlaasError("no disk", "Buy one."))
    answer = client(lacks=lacks).get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "title": "not ready: no key; no disk",
        "status": 503,
        "detail": "Make one. Buy one.",
        "left": 7,
    }
    assert client(lacks=lacks).get("/healthz").status_code == 200


def test_one_that_hangs_is_not_alive(tmp_path: Path, monkeypatch):
    assert client(alive=False).get("/healthz").status_code == 503
    hanging = renewer.Renewer(Settings(x509_folder=tmp_path))
    assert hanging.alive()
    monkeypatch.setattr(renewer, "HANG_SECONDS", 0.0)
    assert not hanging.alive()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as error:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in error.value.message
    assert "MLAAS4HEP_GRID_STATUS_PORT" in error.value.remedy
