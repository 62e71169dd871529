"""Commands that make the parts, each with an end, and the error of this package."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 60


class GridError(Exception):
    """A server or credential of the tests can't be made: which, why, and what to do."""


def run(*command: str | Path, **options: object) -> bytes:
    """What the command printed; one that fails is a GridError with what it said."""
    words = [str(word) for word in command]
    options = {"timeout": SECONDS, "stdin": subprocess.DEVNULL} | options
    if "input" in options:
        del options["stdin"]
    try:
        ended = subprocess.run(words, capture_output=True, **options)
    except FileNotFoundError:
        raise GridError(f"{words[0]} is missing: python3 tests/parts up xrootd") from None
    if ended.returncode:
        said = (ended.stderr + ended.stdout).decode(errors="replace").strip()
        raise GridError(f"{' '.join(words)} ended with {ended.returncode}:\n{said}")
    return ended.stdout
