"""Waiting for what will come, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(what: str, true: Callable[[], object], seconds: float = 180, pause: float = 1) -> None:
    """Look every ``pause`` seconds; whoever waits in vain says for what, and what was seen last."""
    end = time.monotonic() + seconds
    while not (seen := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s; last seen: {seen!r}")
        time.sleep(pause)
