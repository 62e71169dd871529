"""A few processes that run models: what a model does there can end its process, never the service.

Models share workers. One whose call takes longer than ``PATIENCE`` keeps the worker that it is in
for itself, and from then on has one of its own: calls of other models that waited there go to a new
worker, so none waits longer than that for a neighbour. A call beyond its bound ends the worker.
Everything here belongs to one event loop's thread.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from time import monotonic
from typing import cast

import mlaas4hep
from mlaas4hep.core.errors import BusyError, MlaasError, ModelError, OverdueError
from mlaas4hep.core.settings import ServingSettings
from mlaas4hep.inference import worker

_log = logging.getLogger(__name__)

PATIENCE = 0.25
"""Seconds that a call may keep the calls of other models waiting."""
TICK = 0.05
RESTART_SECONDS = 0.5
"""At least so long lies between two workers that are started for nobody in particular."""
MOST_STARTS = 3
"""Workers that may end before they are ready, for one call."""
MOST_ALONE = 4
"""Models that have a worker of their own at the same time."""
_NICE = 10
"""Such workers make way for the others."""
_numbers = itertools.count(1)


class Graph:
    """A model's graph: an open file, and the worker it is in (None: in none)."""

    def __init__(self, name: str, path: Path, width: int) -> None:
        """Open the file: it can be loaded again even when it was replaced or deleted."""
        self.name = name
        self.width = width
        self.number = next(_numbers)
        self.alone = False
        self.worker: _Process | None = None
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size

    @property
    def path(self) -> bytes:
        """The name under which another process of the same user finds the file."""
        return f"/proc/{os.getpid()}/fd/{self._file}".encode()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class FailedError(ModelError):
    """The graph could not be run on these rows; its worker is well."""


class _Call:
    __slots__ = ("action", "answer", "content", "failed_starts", "graph", "started")

    def __init__(self, graph: Graph, action: int, content: bytes) -> None:
        self.graph = graph
        self.action = action
        self.content = content
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.started = 0.0
        self.failed_starts = 0


class _Process(asyncio.Protocol):
    """A worker process as seen from here: one call at a time, the others wait in line."""

    def __init__(self, pool: Pool, memory: int) -> None:
        self._pool = pool
        self.calls: deque[_Call] = deque()
        self.call: _Call | None = None
        self.graphs: set[int] = set()
        self.killed_for = ""
        self.ready = False
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", worker.__name__, str(theirs.fileno()), str(memory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_unix_connection(lambda: self, sock=ours))
        self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def submit(self, call: _Call) -> None:
        """Put a call in line."""
        self.calls.append(call)
        if self.call is None:
            self._next()

    def _next(self) -> None:
        if not self._transport or not self.ready:
            return
        while self.calls:
            call = self.calls.popleft()
            if call.answer.cancelled():
                continue
            self.call = call
            call.started = monotonic()
            head = worker.CALL.pack(
                call.action, call.graph.number, call.graph.width, len(call.content)
            )
            self._transport.write(head + call.content)
            return

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = worker.ANSWER.size
        if len(self._data) < head:
            return
        if self.call is None:
            self._data.clear()
            self.ready = True
            self._next()
            return
        done, size = worker.ANSWER.unpack_from(self._data)
        if len(self._data) < head + size:
            return
        content = bytes(memoryview(self._data)[head : head + size])
        self._data.clear()
        call, self.call = self.call, None
        if done and call.action == worker.LOAD:
            self.graphs.add(call.graph.number)
        if not call.answer.done():
            if done:
                call.answer.set_result(content)
            else:
                call.answer.set_exception(FailedError(content.decode("utf-8", "replace")))
                call.answer.exception()  # a call of the pool's own has nobody who looks
        if not done and call.action == worker.LOAD:
            self._pool.not_loaded(self, call.graph, content.decode("utf-8", "replace"))
        if self.call is None:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed:
            self._pool.lost(self)

    def kill(self, why: str = "") -> None:
        """End the process, whatever it does."""
        self.killed_for = self.killed_for or why
        self.process.kill()

    def close(self) -> None:
        """End the process for good; nobody waits for it."""
        self.closed = True
        self.process.kill()
        self.process.wait()
        self._connecting.cancel()
        if self._transport:
            self._transport.abort()


class Pool:
    """The workers of a service."""

    def __init__(self, settings: ServingSettings) -> None:
        self._memory = settings.max_model_memory_bytes
        self._seconds = settings.max_model_seconds
        self._load_seconds = settings.max_load_seconds
        self._size = settings.model_workers
        self._shared: list[_Process] = []
        self._alone: dict[_Process, Graph] = {}
        self._loading: set[_Process] = set()
        self._spare: _Process | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_spare = 0.0
        self._loads = asyncio.Semaphore(MOST_ALONE)

    def start(self) -> None:
        """Start the shared workers and one more, so that nobody waits for their start."""
        while len(self._shared) < self._size:
            self._shared.append(self._new())

    @property
    def processes(self) -> list[int]:
        """The process ids of all workers."""
        every = [*self._shared, *self._alone, *self._loading, *filter(None, [self._spare])]
        return [each.process.pid for each in every]

    async def load(self, graph: Graph) -> bytes:
        """Load a graph for the first time; the answers to two rows of zeros, as float32.

        It is loaded apart from all others; what takes long stays there. OverdueError beyond the
        bound of time, ModelError when it can't be run or ends its process.
        """
        async with self._loads:
            process = self._take()
            self._loading.add(process)
            call = _Call(graph, worker.LOAD, graph.path)
            process.submit(call)
            try:
                answers = await call.answer
            except BaseException:
                self._loading.discard(process)
                process.kill()
                raise
            self._loading.discard(process)
            if monotonic() - call.started > PATIENCE and self._give_own(process, graph):
                return answers
            process.submit(_Call(graph, worker.DROP, b""))
            process.graphs.clear()
            self._put_back(process)
            return answers

    def run(self, graph: Graph, rows: bytes) -> asyncio.Future[bytes]:
        """The answers to rows (float32, C order); fails like ``load``, or with BusyError."""
        call = _Call(graph, worker.RUN, rows)
        self._submit(call)
        return call.answer

    def drop(self, graph: Graph) -> None:
        """Forget a graph."""
        process, graph.worker = graph.worker, None
        if process in self._alone:
            del self._alone[process]
            process.close()
        elif process:
            process.graphs.discard(graph.number)
            process.submit(_Call(graph, worker.DROP, b""))

    def close(self) -> None:
        """End all workers."""
        if self._timer:
            self._timer.cancel()
        for process in [*self._shared, *self._alone, *self._loading, self._spare]:
            if process:
                process.close()

    def _submit(self, call: _Call) -> None:
        graph = call.graph
        process = graph.worker
        if process is None or graph.number not in process.graphs:
            process = self._place(graph, call)
            if process is None:
                return
        process.submit(call)

    def _place(self, graph: Graph, call: _Call) -> _Process | None:
        """A worker for the graph, which it is loaded into first; None when there is no room."""
        if graph.alone:
            process = self._take()
            if not self._give_own(process, graph):
                self._put_back(process)
                call.answer.set_exception(_crowded(graph))
                return None
        else:
            self.start()
            process = min(self._shared, key=lambda each: len(each.graphs) + len(each.calls))
            graph.worker = process
        process.submit(_Call(graph, worker.LOAD, graph.path))
        process.graphs.add(graph.number)
        return process

    def not_loaded(self, process: _Process, graph: Graph, error: str) -> None:
        """A graph that could be loaded apart can't be here: there is no memory beside the others.

        It gets a worker of its own; where that is so there, too, its calls fail.
        """
        if process in self._loading:
            return
        mine = [call for call in process.calls if call.graph is graph]
        process.calls = deque(call for call in process.calls if call.graph is not graph)
        process.graphs.discard(graph.number)
        was_alone, graph.alone, graph.worker = process in self._alone, True, None
        if was_alone:
            del self._alone[process]
            process.close()
        for call in mine:
            if was_alone and not call.answer.done():
                call.answer.set_exception(ModelError(f"it can't be loaded: {error}"))
            elif not call.answer.done():
                self._submit(call)

    def _give_own(self, process: _Process, graph: Graph) -> bool:
        """Make it the graph's own worker; False when all such are at work."""
        if len(self._alone) >= MOST_ALONE:
            idle = next((each for each in self._alone if each.call is None), None)
            if idle is None:
                return False
            self._alone.pop(idle).worker = None
            idle.close()
        graph.alone, graph.worker = True, process
        self._alone[process] = graph
        os.setpriority(os.PRIO_PROCESS, process.process.pid, _NICE)
        return True

    def _new(self) -> _Process:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)
        return _Process(self, self._memory)

    def _take(self) -> _Process:
        """A worker without a graph."""
        process, self._spare = self._spare or self._new(), None
        return process

    def _put_back(self, process: _Process) -> None:
        """Keep a worker for the next who needs one."""
        if self._spare is None:
            self._spare = process
        else:
            process.close()

    def _look(self) -> None:
        """See whether a call takes too long."""
        self._timer = asyncio.get_running_loop().call_later(TICK, self._look)
        now = monotonic()
        if self._spare is None and now > self._next_spare:
            self._spare, self._next_spare = self._new(), now + RESTART_SECONDS
        for process in [*self._shared, *self._alone, *self._loading]:
            if (call := process.call) is None:
                continue
            spent = now - call.started
            bound = self._load_seconds if process in self._loading else self._seconds
            if spent > bound:
                setting = "max_load_seconds" if process in self._loading else "max_model_seconds"
                process.kill(f"took longer than {bound:g} seconds ({setting})")
            elif spent > PATIENCE and process in self._shared:
                self._hand_over(process, call.graph)

    def _hand_over(self, process: _Process, graph: Graph) -> None:
        """Leave a shared worker to the graph that keeps it busy; the others go to a new one."""
        _log.warning("the model %s is slow: it gets a worker of its own", graph.name)
        self._shared[self._shared.index(process)] = self._take()
        waiting, process.calls = process.calls, deque()
        process.graphs = {graph.number}
        if not self._give_own(process, graph):
            process.kill("is slow, and too many others are")
            self._loading.add(process)  # until it is lost
            graph.alone, graph.worker = True, None
        for call in waiting:
            self._again(call, process)

    def _again(self, call: _Call, process: _Process) -> None:
        """Resubmit a call that waited in a worker where it can't stay."""
        graph = call.graph
        if graph.worker is process and graph.number not in process.graphs:
            graph.worker = None
        if call.action == worker.RUN and not call.answer.done():
            self._submit(call)

    def lost(self, process: _Process) -> None:
        """A worker has ended: blame the model that it was running, and resubmit the others."""
        process.process.kill()
        code = process.process.wait()
        call, process.call = process.call, None
        process.graphs.clear()
        self._loading.discard(process)
        own = self._alone.pop(process, None)
        if own:
            own.worker = None
        if process is self._spare:
            self._spare = None
        if process in self._shared:
            self._shared[self._shared.index(process)] = self._take()
        if call:
            call.graph.alone, call.graph.worker = True, None
            _log.warning("the model %s ended its worker: %s", call.graph.name,
                         process.killed_for or f"exit status {code}")  # fmt: skip
            if not call.answer.done():
                call.answer.set_exception(_blame(call.graph, process.killed_for, code))
                call.answer.exception()
        waiting, process.calls = process.calls, deque()
        for one in waiting:
            one.failed_starts += not process.ready
            if one.action == worker.RUN and one.failed_starts <= MOST_STARTS:
                self._again(one, process)
            elif not one.answer.done():
                one.answer.set_exception(ModelError(f"no worker can be started: status {code}"))
                one.answer.exception()


def _blame(graph: Graph, killed_for: str, code: int) -> MlaasError:
    if killed_for:
        return OverdueError(
            f"the model {graph.name} {killed_for}",
            "Send fewer rows at once; a model that is always so slow can't be served.",
        )
    how = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else code
    return ModelError(
        f"the model {graph.name} crashed the process that ran it ({how}): most likely it took too"
        " much memory (max_model_memory_bytes)",
        "Send fewer rows at once, or train a smaller model.",
    )


def _crowded(graph: Graph) -> BusyError:
    return BusyError(
        f"the model {graph.name} is slow, and {MOST_ALONE} other slow models keep all workers busy",
        "Try again later.",
    )


def _environment() -> dict[str, str]:
    """What a worker needs of ours, and no secret."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    package = str(Path(mlaas4hep.__file__).parents[1])
    return kept | {"PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)])}
