"""The process in which models run: a model is a stranger's program.

    python -m mlaas4hep.inference.worker DESCRIPTOR MEMORY_BYTES

Reads calls from the socket DESCRIPTOR and answers each before it reads the next. Whoever starts it
bounds how long a call may take (see pool.py); what it may allocate is bounded here, by the kernel.
Imports numpy and onnxruntime, nothing else.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.core.errors import BundleError

CALL = struct.Struct("<BQIQ")
"""Head of a call: what to do, number of the graph, columns of its rows, bytes that follow."""
ANSWER = struct.Struct("<?Q")
"""Head of an answer: whether it was done, bytes that follow (rows as float32, or a text)."""
LOAD, RUN, DROP = range(3)
MOST_TEXT = 2000
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def open_session(graph: bytes | Path, threads: int = 1) -> Any:
    """The graph, from its bytes alone: weights in other files are refused.

    ``threads`` work on one batch; 0 takes all cores. BundleError when it can't be loaded.
    """
    import onnxruntime  # by the processes that run models only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", "/nonexistent"
    )
    try:
        content = graph.read_bytes() if isinstance(graph, Path) else graph
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base but Exception
        raise BundleError(f"model.onnx of the model can't be loaded: {error}") from None


class Worker:
    """The graphs of one process, by number."""

    def __init__(self) -> None:
        self._sessions: dict[int, Any] = {}

    def load(self, number: int, width: int, content: memoryview) -> bytes:
        """Open the graph in the file that ``content`` names, run two rows; the answers to them."""
        session = open_session(Path(bytes(content).decode()))
        answers = _answers(session, np.zeros((2, width), np.float32))
        self._sessions[number] = session
        return answers

    def run(self, number: int, width: int, content: memoryview) -> bytes:
        """The answers to rows."""
        rows = np.frombuffer(content, np.float32).reshape(-1, width)
        return _answers(self._sessions[number], rows)

    def drop(self, number: int, width: int, content: memoryview) -> bytes:
        """Forget the graph."""
        self._sessions.pop(number, None)
        return b""


def _answers(session: Any, rows: np.ndarray) -> bytes:
    (answers,) = session.run(["outputs"], {"inputs": rows})
    if answers.dtype != np.float32 or answers.ndim != 2 or len(answers) != len(rows):
        raise ValueError(f"outputs are {answers.dtype} of {answers.shape} for {len(rows)} rows")
    return answers.tobytes()  # type: ignore[no-any-return]


def _read_into(stream: socket.socket, view: memoryview) -> None:
    while view:
        count = stream.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]


def serve(stream: socket.socket) -> None:
    """Say that it is ready, then answer calls until the socket is closed."""
    worker = Worker()
    actions: dict[int, Callable[[int, int, memoryview], bytes]] = {
        LOAD: worker.load,
        RUN: worker.run,
        DROP: worker.drop,
    }
    import onnxruntime  # noqa: F401 - before the first model needs it

    stream.sendall(ANSWER.pack(True, 0))
    head, body = memoryview(bytearray(CALL.size)), memoryview(bytearray(1 << 16))
    while True:
        try:
            _read_into(stream, head)
            action, number, width, size = CALL.unpack(head)
            if size > len(body):
                body = memoryview(bytearray(size))
            _read_into(stream, body[:size])
        except EOFError:
            return
        try:
            answer, done = actions[action](number, width, body[:size]), True
        except Exception as error:  # whatever a stranger's graph makes of it
            answer, done = str(error).encode("utf-8", "replace")[:MOST_TEXT], False
        stream.sendall(ANSWER.pack(done, len(answer)) + answer)


def main(descriptor: int, memory: int) -> None:
    """Bound this process, then serve."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends this
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where memory runs out all the same, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    with socket.socket(fileno=descriptor) as stream:
        serve(stream)
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
