"""Numbers for people: sizes in bytes, and how many there are of something."""

from __future__ import annotations

import re

from mlaas4hep.core.errors import UsageError

MiB = 1024**2
GiB = 1024**3
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)i?b?", re.IGNORECASE)


def parse_size(text: str, what: str) -> int:
    """Bytes of a size as docker takes it: ``3gb``, ``512m``, ``1.5g``, ``1073741824``.

    UsageError, naming the option ``what``, when it is not a size or 0.
    """
    found = _SIZE.fullmatch(text.strip())
    factor = 1024 ** " kmgt".index(found[2].lower() or " ") if found else 0
    value = int(float(found[1]) * factor) if found else 0
    if value <= 0:
        raise UsageError(f"{what}: {text[:40]!r} is not a size", 'Write it as "3gb" or "512mb".')
    return value


def size(count: float) -> str:
    """A number of bytes for people, in docker's binary units: ``3 GB``, ``3.2 GB``, ``64 MB``."""
    units = ["bytes", "kB", "MB", "GB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.1f}".removesuffix(".0") + f" {units[0]}"


def many(count: int, noun: str) -> str:
    """``1 label``, ``2 labels``, ``3 branches``."""
    ending = "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count} {noun}{'' if count == 1 else ending}"
