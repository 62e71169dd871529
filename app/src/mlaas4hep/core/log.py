"""Logs as one JSON object per line, ready for any collector.

Every line says of which request and job it speaks, where that is known: ``about`` begins such a
stretch of work, ``note`` adds what becomes known in it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from mlaas4hep.core.secrets import without_secrets

_ABOUT: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)


def begin(**known: str) -> dict[str, str]:
    """From here on, all lines of this task (and of threads that it asks) are about ``known``.

    Returns what they are about; ``note`` adds to it.
    """
    _ABOUT.set(known)
    return known


@contextmanager
def about(**known: str) -> Iterator[None]:
    """Lines within the block are about ``known`` too."""
    token = _ABOUT.set((_ABOUT.get() or {}) | known)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def note(**known: str) -> None:
    """From here on, lines of the current request are about ``known`` too."""
    if (current := _ABOUT.get()) is not None:
        current |= known


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, request and job, and what the caller gave as ``extra``."""

    _standard = frozenset(logging.makeLogRecord({}).__dict__) | {
        "message",
        "asctime",
        "taskName",
        "color_message",
    }

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _ABOUT.get() or {}
        line |= {k: v for k, v in record.__dict__.items() if k not in self._standard}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(line, default=str))


def setup_logging(level: str) -> None:
    """Log to stderr as JSON from ``level`` up; uvicorn's loggers included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
