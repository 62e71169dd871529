"""The interface of executors, and what trainings of all executors have in common."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from mlaas4hep.core.errors import MlaasError


@dataclass(frozen=True)
class Order:
    """One training to start: ``home`` is the job's folder, ``cwd`` the uploaded one.

    ``cpus`` are cores, ``memory`` is bytes; files, labels, model and params are as submitted.
    ``paths`` are the folders of grid data that its owner's groups may read, None: all.
    """

    process_name: str
    home: Path
    cwd: Path
    files: str
    labels: str
    model: str
    params: str
    cpus: float
    memory: int
    environment: str
    gpu: bool
    paths: tuple[str, ...] | None = None


class Life(Enum):
    """Whether a training has begun, and whether something of it still lives."""

    NEW = "never started: start it"
    ALIVE = "the training runs"
    LEFT_BEHIND = "it has ended, but a process that it started still runs"
    ENDED = "no process of it runs any more"


@dataclass(frozen=True)
class JobStatus:
    """What an executor knows of a training at one moment."""

    state: Life
    exit_code: int | None = None
    """Of a training that has ended: -N for signal N, None when that can't be known any more."""
    cause: tuple[str, str] | None = None
    """Why it ended, and the remedy, where the executor knows better than the exit code."""
    memory: int = 0
    """Resident bytes of all its living processes; 0 where the kernel holds the limit."""


class ExecutorAwayError(MlaasError):
    """The executor doesn't answer now; nothing is known to be wrong with a job."""


class Executor(Protocol):
    """Starts, watches and kills trainings, also those that an executor before it started.

    A training is known by the folder of its job, ``home``. Any call may raise ExecutorAwayError.
    """

    def start(self, order: Order) -> None:
        """Start a training; its output goes to ``log.txt``. MlaasError when it can't start."""

    def look(self, home: Path) -> JobStatus:
        """The status of a training, as found at one moment."""

    def kill(self, home: Path) -> None:
        """Kill all its processes, at once."""

    def forget(self, home: Path) -> None:
        """Nothing more will be asked about this ended training: free what it held."""

    def sweep(self, running: set[Path]) -> None:
        """Remove what is left of trainings other than these."""


def train_arguments(order: Order) -> list[str]:
    """The words after ``mlaas4hep`` for a job."""
    return [
        "train",
        f"--files={order.files}",
        f"--labels={order.labels}",
        f"--model={order.model}",
        f"--params={order.params}",
        f"--name={order.process_name}",
        f"--job={order.home}",
    ]


def training_environment(cores: int, gpu: bool = False) -> dict[str, str]:
    """What every training's environment has: as many threads as cores, plain output."""
    threads = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "LOKY_MAX_CPU_COUNT",
    )
    plain = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    return (
        dict.fromkeys(threads, str(cores)) | plain | ({} if gpu else {"CUDA_VISIBLE_DEVICES": "-1"})
    )
