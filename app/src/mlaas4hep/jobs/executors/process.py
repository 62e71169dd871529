"""Trainings as processes of this machine, each in its own session, on its own cores.

Such a process holds a lock on its folder's file ``lock`` as long as it or a child lives, whatever
becomes of the runner: the lock tells a later runner what still runs, without trust in process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.files import open_plain
from mlaas4hep.jobs.executors.base import (
    JobStatus,
    Life,
    Order,
    train_arguments,
    training_environment,
)
from mlaas4hep.jobs.executors.offline import offline

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "X509_USER_PROXY",
    "X509_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What a training sees of the runner's environment: what finds programs and data, no secrets."""


def train_command(order: Order) -> list[str]:
    """``mlaas4hep train`` for a job, with this Python."""
    return [sys.executable, "-m", "mlaas4hep.cli.main", *train_arguments(order)]


class ProcessExecutor:
    """An Executor whose trainings are processes of this machine."""

    def __init__(
        self,
        command: Callable[[Order], list[str]] = train_command,
        job_offline: bool = False,
        biggest_file: int = sys.maxsize,
    ) -> None:
        """``biggest_file``: bytes that each file of a training may grow to."""
        self._command, self._biggest_file = command, biggest_file
        self._before = offline(sys.executable) if job_offline else []
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._cores: dict[Path, list[int]] = {}

    def start(self, order: Order) -> None:
        """Start a training; its output goes to ``log.txt``. MlaasError when it can't start."""
        order.home.mkdir(parents=True, exist_ok=True)
        cores = self._free_cores(order.cpus)
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
        with (
            (order.home / "lock").open("a+b") as lock,
            (order.home / "log.txt").open("ab") as log,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                self._children[order.home] = subprocess.Popen(  # noqa: S603 - no shell
                    [
                        *command,
                        str(lock.fileno()),
                        ",".join(str(core) for core in cores),
                        str(self._biggest_file),
                        *self._before,
                        *self._command(order),
                    ],
                    cwd=order.cwd,
                    env=environment(len(cores)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                raise MlaasError(
                    f"the training can't be started: {error.strerror} ({error.filename})"
                ) from error
        self._cores[order.home] = cores

    def _free_cores(self, wanted: float) -> list[int]:
        """As many cores as were asked for (rounded up), those least used by our trainings."""
        mine = os.sched_getaffinity(0)
        used = Counter(core for cores in self._cores.values() for core in cores)
        return sorted(mine, key=lambda core: (used[core], core))[: max(1, math.ceil(wanted))]

    def look(self, home: Path) -> JobStatus:
        """The status of a training; without exit code if another runner started it."""
        lives, group = self._lives(home), self._group(home)
        if lives:
            over = _has_ended(group)
            memory = sum(_resident(process) for process in _members(group))
            return JobStatus(Life.LEFT_BEHIND if over else Life.ALIVE, memory=memory)
        if group <= 0:
            return JobStatus(Life.NEW)
        child = self._children.get(home)
        return JobStatus(Life.ENDED, exit_code=child.poll() if child else None)

    def _lives(self, home: Path) -> bool:
        """Whether the training, or a process that it started, still lives."""
        child = self._children.get(home)
        if child and child.poll() is None:  # whatever it did to its lock
            return True
        try:
            with open_plain(home / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if home not in self._cores:  # a runner before this one started it
                with contextlib.suppress(OSError):
                    self._cores[home] = list(os.sched_getaffinity(self._group(home)))
            return True
        except OSError:  # it is gone, or user code put something else there
            return False
        return False

    def _group(self, home: Path) -> int:
        """The process group of a training, also its session; 0 when nothing is known of one."""
        child = self._children.get(home)
        return child.pid if child else _written_group(home)

    def kill(self, home: Path) -> None:
        """Kill all its processes, at once; also one that left its session but holds the lock."""
        if not self._lives(home):
            return
        for pid in {p.pid for p in _members(self._group(home))} | set(_holders(home / "lock")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def forget(self, home: Path) -> None:
        """Nothing more will be asked about this ended training."""
        self._children.pop(home, None)
        self._cores.pop(home, None)

    def sweep(self, running: set[Path]) -> None:
        """Leave all alone: an ended process leaves nothing."""


def environment(cores: int) -> dict[str, str]:
    """The environment of a process on ``cores`` cores."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if "PYTHONPATH" in passed:  # the training has another working directory
        paths = [
            str(Path(path).absolute()) for path in passed["PYTHONPATH"].split(os.pathsep) if path
        ]
        passed["PYTHONPATH"] = os.pathsep.join(paths)
    return passed | training_environment(cores)


def _written_group(home: Path) -> int:
    """The process group of a training, as its launcher wrote it; 0 when it wrote none."""
    try:
        with open_plain(home / "lock") as lock:
            return int(lock.read(20))
    except (OSError, ValueError):
        return 0


def _has_ended(group: int) -> bool:
    """Whether the first process of a training has ended, of which something still lives."""
    if group <= 0:  # it is about to begin: its launcher has not written yet
        return False
    try:
        return psutil.Process(group).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _resident(process: psutil.Process) -> int:
    """Resident bytes of a process; 0 when it has gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _members(group: int) -> Iterator[psutil.Process]:
    """The living processes of a training: of its group, or of its session in other groups."""
    if group <= 0:
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            pid = process.pid
            ours = os.getpgid(pid) == group or os.getsid(pid) == group
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _holders(lock: Path) -> Iterator[int]:
    """The processes, other than this one, that have the file ``lock`` open."""
    name = lock.resolve()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and any(
                entry.readlink() == name for entry in Path(f"/proc/{pid}/fd").iterdir()
            ):
                yield pid
