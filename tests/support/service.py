"""What tests of jobs, server and client share: small folders, a runner to step by hand."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlaas4hep.core.settings import Settings
from mlaas4hep.demo.simulate import write_files
from mlaas4hep.jobs.database import Database, Folder, Job
from mlaas4hep.jobs.executors.base import Life
from mlaas4hep.jobs.executors.process import ProcessExecutor
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.jobs.queue import Queue, Submission
from mlaas4hep.jobs.runner import Runner
from support.bundles import onnx_graph
from support.small_runner import small_command

PATIENCE = 240


def onnx_model() -> bytes:
    """inputs [N, 2] -> outputs [N, 1]: sigmoid(x0 - x1)."""
    return onnx_graph([(np.array([[1.0], [-1.0]], np.float32), np.zeros(1, np.float32))])


def small_files(
    mode: str = "succeed", seconds: float = 0, told: dict[str, str] | None = None, **more: str
) -> dict[str, bytes]:
    """The files of a folder whose training does ``mode`` after ``seconds``, ``told`` more."""
    return {
        "files.txt": b"a.root\n",
        "labels.txt": b"0\n1\n",
        "model.py": b"def model(idim): ...\n",
        "params.json": json.dumps({"mode": mode, "seconds": seconds} | (told or {})).encode(),
        "model.onnx": onnx_model(),
    } | {name.replace("__", "."): text.encode() for name, text in more.items()}


REAL_MODEL = """
from sklearn.linear_model import LogisticRegression

def model(idim):
    return LogisticRegression(max_iter=200)
"""


def real_files(folder: Path) -> dict[str, bytes]:
    """The five files of a real training with scikit-learn, on 400 events."""
    signal, background, _ = write_files(folder, n=200)
    params = {"branch": "events", "identifier": ["runNo", "evtNo", "lumi"]}
    return {
        signal.name: signal.read_bytes(),
        background.name: background.read_bytes(),
        "files.txt": f"{signal.name}\n{background.name}\n".encode(),
        "labels.txt": b"1\n0\n",
        "model.py": REAL_MODEL.encode(),
        "params.json": json.dumps(params).encode(),
    }


def packed(files: dict[str, bytes], top: str = "folder/", mode: str = "w:gz") -> bytes:
    """An archive of the files below the folder ``top``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Service:
    """Folders, queue and runner over one store, in this process; the trainings are processes."""

    def __init__(self, store: Path, **settings: object) -> None:
        self.settings = Settings(store=store, **settings)  # type: ignore[arg-type]
        self.database = Database(self.settings.database_url)
        self.folders = Folders(self.settings, self.database)
        self.queue = Queue(self.settings, self.database)
        self.executor = ProcessExecutor(
            small_command, biggest_file=self.settings.max_job_disk_bytes
        )
        self.runner = Runner(self.settings, self.executor)

    def restart_runner(self) -> None:
        """A new runner that knows nothing of the one before."""
        self.executor = ProcessExecutor(
            small_command, biggest_file=self.settings.max_job_disk_bytes
        )
        self.runner = Runner(self.settings, self.executor)

    def upload(self, name: str, files: dict[str, bytes] | None = None) -> Folder:
        return self.upload_archive(name, packed(files or small_files()))

    def upload_archive(self, name: str, archive: bytes) -> Folder:
        with self.folders.upload(name) as upload:
            upload.archive.write_bytes(archive)
            return upload.finish()

    def submit(self, name: str, **changes: str) -> Job:
        return self.queue.submit(submission(name, **changes))

    def run(self, *jobs: Job) -> list[Job]:
        """Step until all these jobs have ended."""
        return self.until(*jobs, condition=lambda job: job.finished is not None)

    def until(self, *jobs: Job, condition: Callable[[Job], object]) -> list[Job]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.runner.step()
            now = [self.queue.get(job.process_name) for job in jobs]
            if all(condition(job) for job in now):
                return now
            time.sleep(0.02)
        raise AssertionError([(job.process_name, job.state, job.progress) for job in now])

    def home(self, job: Job) -> Path:
        return self.settings.jobs.absolute() / job.process_name

    def life(self, job: Job) -> Life:
        """What the executor says of its training now."""
        return self.executor.look(self.home(job)).state

    def kill_all(self) -> None:
        for job in self.queue.recent():
            self.executor.kill(self.home(job))


def submission(name: str, **changes: str) -> Submission:
    asked = {
        "name": name,
        "device": "cpu",
        "memory": "3gb",
        "cpus": "1",
        "files": "files.txt",
        "labels": "labels.txt",
        "model": "model.py",
        "params": "params.json",
    }
    return Submission(**(asked | changes))
