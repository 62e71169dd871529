"""The output of a training, read as a stranger's: cut, cleaned and bounded, once.

All that goes from user code into a job's row passes through here, so that a row can always be
stored, listed and shown: text is UTF-8 without control characters, numbers are finite and exact in
every reader, nothing is deep or long.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mlaas4hep.core.files import open_plain

MOST_JSON = 1 << 20
"""Bytes of a progress.json or result.json that are read."""
MOST_TEXT = 10_000
"""Letters of a reason, a remedy."""
MOST_WORDS = 300
"""Letters of a text among the metrics."""
MOST_WARNINGS, MOST_WARNING = 50, 4000
"""Warnings that a row keeps, and letters of each."""
MOST_ITEMS = 1000
MOST_LEVELS = 6
MOST_METRICS = 1 << 16
"""Bytes of a job's metrics; what is largest is left out. The bundle's metrics.json has all."""
MOST_INTEGER = 2**53
"""Beyond it, a reader of JSON may find another number."""
_CONTROL = {code: None for code in (*range(32), 127) if chr(code) not in "\n\t"}


@dataclass(frozen=True)
class Result:
    """What result.json says; a training that wrote none, or none that can be read, has no state."""

    state: str = ""
    error: tuple[str, str] | None = None
    """Message and remedy."""
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_result(home: Path) -> Result:
    """The result of the job whose folder is ``home``."""
    found = _read(home / "result.json")
    state, error, metrics = (found.get(key) for key in ("state", "error", "metrics"))
    warnings = found.get("warnings")
    return Result(
        state=state if isinstance(state, str) else "",
        error=(text(error.get("message")), text(error.get("remedy")))
        if isinstance(error, dict)
        else None,
        metrics=_fitting(_clean(metrics)) if isinstance(metrics, dict) else {},
        warnings=[text(each, MOST_WARNING) for each in warnings[:MOST_WARNINGS]]
        if isinstance(warnings, list)
        else [],
    )


def read_progress(home: Path) -> dict[str, Any]:
    """progress.json as {phase, done, total, figures}; empty when there is no valid one."""
    found = _read(home / "progress.json")
    phase, done, total = (found.pop(key, None) for key in ("phase", "done", "total"))
    if not isinstance(phase, str) or not (_is_count(done) and _is_count(total)):
        return {}
    figures = {
        text(name, 50): value
        for name, value in islice(found.items(), 20)
        if isinstance(value, int | float) and _clean(value) is not None
    }
    return {"phase": text(phase, 100), "done": done, "total": total, "figures": figures}


def last_line(log: Path) -> str:
    """The last output line of a training, at most 300 letters: the error, if it is a traceback."""
    try:
        with open_plain(log) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            lines = text(stream.read(4096).decode(errors="replace")).splitlines()
    except OSError:
        return "(none)"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "(none)")


def text(value: object, most: int = MOST_TEXT) -> str:
    """A text of user code as it can be stored and shown, cut to ``most`` letters; else ""."""
    if not isinstance(value, str):
        return ""
    if len(value) > most:
        value = value[: most - 3] + "..."
    return value.translate(_CONTROL).encode(errors="replace").decode()


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_INTEGER


def _clean(value: Any, levels: int = MOST_LEVELS) -> Any:
    """A value of JSON within the bounds; None stands for what is not."""
    match value:
        case bool():
            return value
        case int():
            return value if abs(value) <= MOST_INTEGER else None
        case float():
            return value if math.isfinite(value) else None
        case str():
            return text(value, MOST_WORDS)
        case list() if levels:
            return [_clean(item, levels - 1) for item in value[:MOST_ITEMS]]
        case dict() if levels:
            items = islice(value.items(), MOST_ITEMS)
            return {text(key, 100): _clean(item, levels - 1) for key, item in items}
    return None


def _fitting(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the largest of them, so that they are not too many bytes."""
    sizes = {name: len(json.dumps([name, value])) for name, value in metrics.items()}
    total = sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= MOST_METRICS:
            break
        total -= sizes[name]
        del metrics[name]
    return metrics


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no valid one, or it is too large."""
    try:
        with open_plain(path) as stream:
            content = stream.read(MOST_JSON + 1)
        if len(content) > MOST_JSON:
            return {}
        value = json.loads(content, parse_int=_integer, parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _integer(digits: str) -> int | None:
    """An integer; not even looked at when it has many digits, as that takes long."""
    return int(digits) if len(digits) < 20 else None
