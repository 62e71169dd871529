"""Running a program of the grid: with an end, and with an error that says what it said."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlaas4hep.core.errors import MlaasError

_PROGRESS = re.compile(r"[.+*]{2,}")


def run(
    command: Sequence[str | Path],
    *,
    seconds: float,
    package: str,
    remedy: str,
    env: Mapping[str, str | Path],
) -> str:
    """What it said, on both streams. MlaasError if it is missing, hangs, or ends with an error.

    It gets ``env`` and PATH, no other variables; ``package`` is Debian's that has it.
    """
    name = str(command[0])
    try:
        ended = subprocess.run(  # noqa: S603 - the words are ours and the operator's
            [str(word) for word in command],
            env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"} | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise MlaasError(f"{name} is missing", f"Install Debian's package {package}.") from None
    except subprocess.TimeoutExpired:
        raise MlaasError(f"{name} didn't end within {seconds:.0f} s", remedy) from None
    said = ended.stdout.decode(errors="replace")
    if ended.returncode:
        raise MlaasError(f"{name} ended with {ended.returncode}: {in_a_line(said)}", remedy)
    return said


def in_a_line(text: str, most: int = 600) -> str:
    """What a program said, without the dots that show its progress."""
    lines = (line.strip() for line in _PROGRESS.sub(" ", text).splitlines())
    return "; ".join(line for line in lines if line)[:most]
