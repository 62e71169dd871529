"""File locks, which end with the process that holds them; imported by probe.py."""

from __future__ import annotations

import fcntl
from os import PathLike


def is_locked(path: str | PathLike[str]) -> bool:
    """Whether a living process holds the lock on the file ``path``."""
    try:
        with open(path) as lock:  # noqa: PTH123 (pathlib would be a quarter of the start)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
