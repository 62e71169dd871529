"""Whether a runner works on a store: it alone, as long as it holds ``runner.lock``."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlaas4hep.core.errors import ConflictError
from mlaas4hep.core.locks import is_locked


@contextmanager
def only_runner(store: Path) -> Iterator[None]:
    """Hold the store's runner.lock; ConflictError naming the holder when it is taken."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "runner.lock").open("a+") as lock:
        for _ in range(5):  # the server looks at the lock now and then, see is_at_work
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        else:
            lock.seek(0)
            raise ConflictError(
                f"another runner works on {store}: {lock.read() or 'unknown'}",
                "Stop it first, or give this one another store (MLAAS4HEP_STORE).",
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def is_at_work(store: Path) -> bool:
    """Whether a runner works on the store."""
    return is_locked(store / "runner.lock")
