"""Trainings in containers, one each: what a training may see, use and reach is decided here.

Access to the engine's socket is equivalent to root on the host. So everything about a container
comes from the settings; an order adds its name, numbers below the limits, and the paths of two
folders of the store (see jobs/orders.py). The engine is asked each time whether a
training runs, by the container's name, so the next runner finds what a killed one started.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from mlaas4hep.core.errors import MlaasError, UsageError
from mlaas4hep.core.settings import JobSettings
from mlaas4hep.core.units import GiB, size
from mlaas4hep.jobs.executors.base import (
    ExecutorAwayError,
    JobStatus,
    Life,
    Order,
    train_arguments,
    training_environment,
)
from mlaas4hep.jobs.executors.offline import offline
from mlaas4hep.jobs.executors.relay import proxies, relay
from mlaas4hep.jobs.remote import SOCKET, SOCKETS, credential, read_key, reads_remote

log = logging.getLogger(__name__)

ENGINE_SECONDS = 60
"""How long one answer of the engine may take."""
_GRACE_SECONDS = 60
"""What a training may have over its time: the runner looks now and then."""
REMOVAL_SECONDS = 10
STARTED = "started"
"""A file of the job's folder, written just before its container is started for the first time."""
TEMPORARY = "/tmp"  # noqa: S108 - the container's own
NO_MEMORY = 250
"""Exit code of a container whose training the kernel killed for its memory."""
LOGGED = """
exec >>"$1" 2>&1
shift
exec "$@"
"""
"""Becomes the words after the first, with their output in the file that the first names."""
SCRIPT = rf"""
trap 'exit 143' TERM
"$@" &
wait $!
code=$?
[ $code = 137 ] && cd /sys/fs/cgroup &&
  grep -qs '^oom_kill [1-9]' memory.events memory/memory.oom_control && exit {NO_MEMORY}
exit $code
"""
"""Runs the words. It is the container's first process, so it buries the others' dead children.

It asks the kernel why a training was killed, since the engine's own note of that (OOMKilled) comes
too late, for good, when the container ends first.
"""
KILLED = (137, 143, 255)
"""Exit codes after SIGKILL and SIGTERM, and of a container that a crash of its engine ended."""
ENDED = ("exited", "dead", "removing")
GONE = (
    "the training's container is gone without a result: somebody removed it, or the container"
    " engine lost it",
    "Submit it again; the log shows how far it was.",
)


class ContainerExecutor:
    """An Executor whose trainings are containers of the engine that the settings name."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._store = str(settings.store.absolute())
        self._user = _user(settings.store)
        self._data_proxy = Path(settings.data_proxy).absolute()
        _check_network(settings.job_network)

    @cached_property
    def _engine(self) -> docker.DockerClient:
        """Made when it is needed first: the engine may be away when the runner starts."""
        return docker.DockerClient(self._settings.engine, timeout=ENGINE_SECONDS)

    def start(self, order: Order) -> None:
        """Create and start the container of a training."""
        with _answering(self._settings.engine):
            self._discard(order.home)
            self._prepare(order.home)
            image = self._settings.job_environments[order.environment].image
            try:
                container = self._engine.containers.create(image, **self._options(order))
                (order.home / STARTED).touch()
                container.start()
            except ImageNotFound:
                raise MlaasError(
                    f"the image {image} of the environment {order.environment!r} is not on this"
                    " machine",
                    "Tell the operator, who builds or pulls it; or ask for another environment.",
                ) from None
            except APIError as error:
                self._engine.ping()  # an engine that is being stopped refuses, then is away
                raise MlaasError(
                    f"the training's container can't be started: {error.explanation}",
                    "Tell the operator; submit the job again once it is fixed.",
                ) from error

    def _discard(self, home: Path) -> None:
        """Remove what a runner left if it was killed before it started this training."""
        (home / STARTED).unlink(missing_ok=True)
        if container := self._find(home):
            _remove(container)

    def _prepare(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # only root works in another's store
            os.chown(home, *self._user)

    def _options(self, order: Order) -> dict[str, Any]:
        """Everything but the image: the sandbox of a training."""
        settings = self._settings
        cores = min(order.cpus, self._engine.info()["NCPU"])
        environment = training_environment(math.ceil(cores), order.gpu)
        gpus = settings.job_environments[order.environment].gpus if order.gpu else 0
        biggest_file = settings.max_job_disk_bytes
        local_only = settings.job_offline or settings.job_network == "none"
        way_out = self._way_out(order) if local_only else []
        cache = settings.cache
        return {
            "name": self._name(order.home),
            "labels": {"mlaas4hep.store": self._store, "mlaas4hep.job": order.process_name},
            "hostname": "job",
            "entrypoint": ["/bin/sh", "-c", LOGGED, "sh", str(order.home / "log.txt")],
            # All processes are below the filter: one above it could be made to work for another.
            "command": [
                *(offline("python3", loopback=bool(way_out)) if local_only else []),
                *way_out,
                *("/bin/sh", "-c", SCRIPT, "sh", "mlaas4hep", *train_arguments(order)),
            ],
            "working_dir": str(order.cwd),
            "environment": environment
            | {"HOME": TEMPORARY, "TMPDIR": TEMPORARY}
            | (proxies() if way_out else {})
            | (cache.environment(cache.open_to(order.paths)) if cache and way_out else {}),
            # Its user and privileges: those of an ordinary user, or less.
            "user": "{}:{}".format(*self._user),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "healthcheck": {"test": ["NONE"]},
            # What it sees: a read-only image, two folders of the store, the data proxy's socket.
            "read_only": True,
            "mounts": [
                *[Mount(str(path), str(path), type="bind") for path in (order.home, order.cwd)],
                *[
                    Mount(str(path), str(path), type="bind", read_only=True)
                    for path in ([self._data_proxy / SOCKETS] if way_out else [])
                ],
            ],
            "tmpfs": {
                TEMPORARY: f"size={min(order.memory // 2, GiB)},mode=1777,nosuid,nodev,noexec"
            },
            "network_mode": settings.job_network,
            "ipc_mode": "private",
            # Its limits.
            "nano_cpus": int(cores * 1e9),
            "mem_limit": order.memory,
            "memswap_limit": order.memory,
            "oom_score_adj": 500,  # a machine without memory loses trainings first, not services
            "pids_limit": settings.max_job_pids,
            "ulimits": [
                Ulimit(name="core", soft=0, hard=0),
                Ulimit(name="nofile", soft=4096, hard=4096),
                Ulimit(name="fsize", soft=biggest_file, hard=biggest_file),
            ],
            "device_requests": [DeviceRequest(count=gpus, capabilities=[["gpu"]])] if gpus else [],
            "log_config": LogConfig(type="none"),
        }

    def _way_out(self, order: Order) -> list[str]:
        """The words that give a training with remote files a way to the data proxy, if any."""
        settings = self._settings
        offered = settings.data_proxy and settings.job_network == "none"
        if not offered or settings.job_offline:
            return []
        cache = settings.cache
        if not reads_remote(order.cwd, order, grid=bool(cache)):
            return []
        until = time.time() + settings.max_job_seconds + _GRACE_SECONDS
        key, name = read_key(self._data_proxy), order.process_name
        if not cache:
            return relay("python3", self._data_proxy / SOCKET, credential(key, name, until))
        doors = cache.open_to(order.paths)
        line = credential(key, name, until, cache.pass_for(doors))
        tunnels = cache.tunnels(doors)
        return relay("python3", self._data_proxy / SOCKET, line, tunnels=tunnels)

    def look(self, home: Path) -> JobStatus:
        """The status of a training: what the engine says about its container.

        Nothing is left behind, as a container ends with its first process, and there is no memory
        to watch: the kernel ends a container that takes too much.
        """
        container = self._find(home)
        if container is None:
            begun = os.path.lexists(home / STARTED)
            return JobStatus(Life.ENDED, cause=GONE) if begun else JobStatus(Life.NEW)
        if container.status == "created":
            return JobStatus(Life.NEW)
        if container.status not in ENDED:
            return JobStatus(Life.ALIVE)
        state, limit = container.attrs["State"], container.attrs["HostConfig"]["Memory"]
        return JobStatus(Life.ENDED, _exit_code(state["ExitCode"]), _cause(state, limit))

    def kill(self, home: Path) -> None:
        """Kill its container."""
        if container := self._find(home):
            with _answering(self._settings.engine), suppress(NotFound):
                try:
                    container.kill()
                except APIError as error:
                    if error.status_code != 409:  # it has ended
                        raise

    def forget(self, home: Path) -> None:
        """Remove its container."""
        if container := self._find(home):
            with _answering(self._settings.engine):
                _remove(container)

    def sweep(self, running: set[Path]) -> None:
        """Remove containers of this store whose jobs have ended."""
        names = {self._name(home) for home in running}
        ours = {"label": f"mlaas4hep.store={self._store}"}
        with _answering(self._settings.engine):
            for container in self._engine.containers.list(
                all=True, filters=ours, ignore_removed=True
            ):
                if container.name not in names:
                    log.info("removing the container %s, left by an ended job", container.name)
                    _remove(container)

    def _name(self, home: Path) -> str:
        return f"mlaas4hep-job-{home.name}"

    def _find(self, home: Path) -> Container | None:
        """The training's container; a foreign one of that name doesn't count."""
        with _answering(self._settings.engine):
            try:
                container = self._engine.containers.get(self._name(home))
            except NotFound:
                return None
        return container if container.labels.get("mlaas4hep.store") == self._store else None


def _remove(container: Container) -> None:
    """Remove it; where another thread's removal has begun, wait a while for that."""
    with suppress(NotFound):
        try:
            container.remove(force=True)
        except APIError as error:
            if error.status_code != 409:
                raise
            with suppress(requests.RequestException):
                container.wait(condition="removed", timeout=REMOVAL_SECONDS)


@contextmanager
def _answering(engine: str) -> Iterator[None]:
    """ExecutorAwayError when the engine doesn't answer, or not as it should."""
    try:
        yield
    except (requests.RequestException, DockerException) as error:
        raise ExecutorAwayError(
            f"the container engine at {engine} doesn't answer: {error}",
            "Start it; check MLAAS4HEP_ENGINE, and that this user may use it.",
        ) from error


def _exit_code(code: int) -> int:
    """The exit code of a training, -N for signal N, from that of its container."""
    if code == NO_MEMORY:
        return -signal.SIGKILL
    return 128 - code if 128 < code <= 192 else code


def _cause(state: dict[str, Any], limit: int) -> tuple[str, str] | None:
    """Why a container ended, and the remedy; ``limit`` is its memory, in bytes."""
    if state["OOMKilled"] or state["ExitCode"] == NO_MEMORY:
        return (
            f"killed: used more than the {size(limit)} asked for",
            "Ask for more memory, or make chunk_size or the model smaller.",
        )
    if state["Error"]:
        return (
            f"the container engine could not run the training: {state['Error']}",
            "Tell the operator; submit the job again once it is fixed.",
        )
    if state["ExitCode"] in KILLED:
        return (
            "the training was killed from outside: the container engine or the machine was"
            " restarted, or the machine had no memory left",
            "Submit it again; the log shows how far it was.",
        )
    return None


def _user(store: Path) -> tuple[int, int]:
    """The user and group that trainings run as: the owner of the store, who is not root."""
    store.mkdir(parents=True, exist_ok=True)
    status = store.stat()
    if status.st_uid == 0:
        raise UsageError(
            f"the store {store} belongs to root, so trainings would run as root",
            "Give it to a user of its own (chown -R mlaas4hep: STORE), and run the runner as it.",
        )
    return status.st_uid, status.st_gid


def _check_network(network: str) -> None:
    if network == "host" or network.startswith("container:"):
        raise UsageError(
            f"MLAAS4HEP_JOB_NETWORK is {network!r}: trainings would share a network with others",
            "Name a network made for them (docker network create), or none.",
        )
