"""What was transferred of a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Of one open file, counted as it is read: also bytes that were read again.

    ``replica`` is where they came from, if that isn't the file's name.
    """

    bytes: int = 0
    requests: int = 0
    retries: int = 0
    replica: str = ""
