"""Server, runner and trainings are killed at random moments: no job is lost, none runs twice.

MLAAS4HEP_TEST_SEED repeats the moments of a run, as far as the machine allows;
MLAAS4HEP_TEST_KILLS is how many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from mlaas4hep.inference.registry import Registry
from mlaas4hep.jobs import folders
from mlaas4hep.jobs.database import Job, State
from mlaas4hep.models.repository import Repository
from support.ports import free_port
from support.service import Service, packed, real_files, small_files
from support.small_runner import SCRIPT

KILLS = int(os.environ.get("MLAAS4HEP_TEST_KILLS", "20"))
FOLDERS = ("luca", "luca_1")
PATIENCE = 120
SERVER = """
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.server import serve
serve(Settings())
"""


class Part:
    """The server or the runner as a process, started again after each kill."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self._log = command, environment, log
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(240)
        self.start()


class Users(threading.Thread):
    """Uploads and submits all the time; notes what was acknowledged."""

    def __init__(self, url: str, real: bytes, pause: float) -> None:
        super().__init__()
        self._pause = pause
        self._real = real
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.stop = threading.Event()
        self.acknowledged: list[str] = []
        self.attempts = 0
        self.refused: list[str] = []

    @property
    def content(self) -> bool:
        """Whether enough jobs were submitted, a real training among them."""
        real = [name for name in self.acknowledged if name.startswith("real_")]
        return bool(real) and len(self.acknowledged) >= KILLS // 4

    def run(self) -> None:
        number = 0
        while not self.stop.wait(self._pause):
            number += 1
            real = number > 2 and not any(n.startswith("real_") for n in self.acknowledged)
            name = "real" if real else FOLDERS[number % len(FOLDERS)]
            small = packed(small_files(seconds=0.3, data__txt=str(number)))
            with contextlib.suppress(httpx.TransportError):
                self._upload(name, self._real if name == "real" else small)
                self._submit(name)

    def _upload(self, name: str, archive: bytes) -> None:
        files = {"file": ("folder.tar.gz", io.BytesIO(archive))}
        answer = self._http.post("/upload", params={"name": name}, files=files)
        if answer.status_code != 200:
            self.refused.append(answer.text)

    def _submit(self, name: str) -> None:
        body = {
            "name": name, "device": "cpu", "memory": "3gb", "cpus": "1", "files": "files.txt",
            "labels": "labels.txt", "model": "model.py", "params": "params.json",
        }  # fmt: skip
        self.attempts += 1
        answer = self._http.post("/submit", json=body)
        if answer.status_code == 200:
            self.acknowledged.append(answer.json()["process_name"])
        elif answer.status_code != 404:  # 404: the very first upload was killed
            self.refused.append(answer.text)


def kill_a_training(service: Service, moments: random.Random) -> str | None:
    """Kill one running training, if any; the name of its job."""
    with service.database.read() as session:
        names = list(session.scalars(select(Job.process_name).where(Job.state == State.RUNNING)))
    for name in moments.sample(names, len(names)):
        with contextlib.suppress(OSError, ValueError):
            pid = int((service.settings.jobs / name / "lock").read_text())
            if str(SCRIPT).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return name
    return None


def wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.timeout(400 + 10 * KILLS)
def test_kills_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("MLAAS4HEP_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"repeat with MLAAS4HEP_TEST_SEED={seed}")
    moments = random.Random(seed)
    service = Service(tmp_path / "store")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "MLAAS4HEP_STORE": str(service.settings.store),
        "MLAAS4HEP_SERVER_PORT": str(port),
        "MLAAS4HEP_MAX_JOBS": "2",
    }
    runner_script = str(SCRIPT.with_name("small_runner.py"))
    begun = time.monotonic()
    server = Part([sys.executable, "-c", SERVER], environment, tmp_path / "server.log")
    runner = Part([sys.executable, runner_script], environment, tmp_path / "runner.log")
    killed_trainings: set[str] = set()
    users = None
    try:
        wait_for(url)
        start_up = time.monotonic() - begun  # some kills come before it, some after
        users = Users(url, packed(real_files(tmp_path)), pause=start_up / 2)
        users.start()
        for _ in range(KILLS):
            time.sleep(moments.uniform(0, 2.5 * start_up))
            victim = moments.choice([server, runner])
            victim.kill()
            if moments.random() < 0.2 and (name := kill_a_training(service, moments)):
                killed_trainings.add(name)
        deadline = time.monotonic() + PATIENCE
        while not users.content and time.monotonic() < deadline:
            time.sleep(0.1)
        users.stop.set()
        users.join()
        wait_for(url)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            jobs = httpx.get(f"{url}/jobs", trust_env=False).json()
            if all(job["state"] in ("succeeded", "failed") for job in jobs):
                break
            time.sleep(0.1)
    finally:
        if users:
            users.stop.set()
        for part in (runner, server):
            part.process.terminate()
            part.process.wait(240)
        service.kill_all()

    names = [job["process_name"] for job in jobs]
    print(f"{len(names)} jobs, {len(killed_trainings)} trainings killed")
    assert users.refused == []
    assert users.content
    assert len(names) == len(set(names))
    assert set(users.acknowledged) <= set(names)
    assert len(names) <= users.attempts
    for job in jobs:
        if job["state"] == "failed":
            assert job["process_name"] in killed_trainings, job
            assert job["reason"], job
        else:
            assert job["state"] == "succeeded", job

    succeeded = [job["process_name"] for job in jobs if job["state"] == "succeeded"]
    assert Repository(service.settings.models).names() == sorted(succeeded)
    answers = asyncio.run(predicted(service, succeeded))
    expected = 1 / (1 + np.exp(-np.array([[0.2 - 0.8]])))
    assert any(name.startswith("real_") for name in succeeded)
    for name in succeeded:
        if name.startswith("real_"):
            assert 0 <= answers[name][0, 0] <= 1
            continue
        np.testing.assert_allclose(answers[name], expected, rtol=1e-6)
        log = (service.settings.jobs / name / "log.txt").read_text()
        assert log.count(f"training of {name} ") == 1  # it ran once

    monkeypatch.setattr(folders, "SETTLING", 0)
    service.folders.sweep()
    versions = sorted(folder.version for folder in service.folders.all())
    assert sorted(path.name for path in service.settings.uploads.iterdir()) == versions


async def predicted(service: Service, names: list[str]) -> dict[str, np.ndarray]:
    registry = Registry(Repository(service.settings.models), service.settings)
    row = np.tile(np.array([[0.2, 0.8]], np.float32), 200)
    models = {name: await registry.get(name) for name in names}
    return {
        name: await model.predict_many(row[:, : len(model.columns)])
        for name, model in models.items()
    }
