"""What tests of containers share: the job image, and a service whose trainings are containers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import docker
import pytest

from mlaas4hep.jobs.database import Folder, Job
from mlaas4hep.jobs.executors.containers import ContainerExecutor
from mlaas4hep.jobs.runner import Runner
from support.service import Service, packed, small_files
from support.small_job import bundle

IMAGE = "mlaas4hep-test/job"
BASE = "debian:bookworm-slim"
USER = 64004
"""Whom trainings run as, where the tests run as root."""


def engine_address() -> str:
    """DOCKER_HOST; without one the tests fail, they aren't skipped."""
    if not (address := os.environ.get("DOCKER_HOST")):
        pytest.fail("these tests need a container engine: set DOCKER_HOST, as unix:///PATH")
    return address


def make_image(client: docker.DockerClient) -> None:
    """Build the image of test jobs; its layers are kept by the engine."""
    if not client.images.list(BASE):
        pytest.fail(f"the engine at {engine_address()} has no image {BASE}: pull or import it")
    client.images.build(
        path=str(Path(__file__).with_name("image")), tag=IMAGE, network_mode="host", rm=True
    )


class Loosened(ContainerExecutor):
    """An executor some of whose protection is off, to show that the protection is what helps."""

    changes: dict[str, Any]
    filtered = True

    def _options(self, order: Any) -> dict[str, Any]:
        options = super()._options(order)
        if not self.filtered:
            options["command"] = options["command"][options["command"].index("/bin/sh") :]
        return options | self.changes


class ContainerService(Service):
    """As Service, with a container for each training; on an engine of the test's choice."""

    def __init__(self, store: Path, address: str, **settings: object) -> None:
        store.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(store, USER, USER)
        chosen = {"executor": "container", "engine": address, "environments": {"default": IMAGE}}
        super().__init__(store, **(chosen | settings))
        self.restart_runner()

    def restart_runner(self) -> None:
        self.use(ContainerExecutor(self.settings))

    def use(self, executor: ContainerExecutor) -> None:
        self.executor = executor  # type: ignore[assignment]
        self.runner = Runner(self.settings, executor)

    def loosen(self, filtered: bool = True, **changes: object) -> None:
        """Let trainings run with other options of their containers, or without our filter."""
        executor = Loosened(self.settings)
        executor.changes, executor.filtered = changes, filtered
        self.use(executor)

    def upload_code(self, code: str, name: str = "luca", number: int = 1) -> Folder:
        """A folder whose model.py is ``code``, and whose training gives the model NAME_number."""
        made = self.settings.store.parent / f"{name}_{number}"
        files = small_files(model__py=code)
        onnx = made.with_suffix(".onnx")
        onnx.write_bytes(files["model.onnx"])
        bundle(made, onnx)
        files |= {
            f"bundle/{path.relative_to(made)}": path.read_bytes()
            for path in made.rglob("*")
            if path.is_file()
        }
        files["bundle.tar.gz"] = (made.parent / f"{made.name}.tar.gz").read_bytes()
        return self.upload_archive(name, packed(files))

    def upload_archive(self, name: str, archive: bytes) -> Folder:
        folder = super().upload_archive(name, archive)
        if os.geteuid() == 0:
            root = self.settings.uploads / folder.version
            for path in (root, *root.rglob("*")):
                os.chown(path, USER, USER)
        return folder

    def start_code(self, code: str, **submission: str) -> Job:
        """Submit a training of ``code``."""
        self.upload_code(code)
        return self.submit("luca", **submission)

    def running_code(self, code: str, **submission: str) -> Job:
        """A training that is in the middle of ``code``."""
        [job] = self.until(self.start_code(code, **submission), condition=lambda job: job.progress)
        return job

    def run_code(self, code: str, **submission: str) -> Job:
        """The job of ``code``, ended."""
        [job] = self.run(self.start_code(code, **submission))
        return job

    def noted(self, job: Job) -> dict[str, Any]:
        """What the code of a training noted."""
        return dict(json.loads((self.home(job) / "noted.json").read_text()))

    def containers(self, client: docker.DockerClient) -> list[str]:
        """The names of all containers of this store."""
        ours = {"label": f"mlaas4hep.store={self.settings.store}"}
        return [container.name for container in client.containers.list(all=True, filters=ours)]

    def kill_all(self) -> None:
        self.executor.sweep(set())
