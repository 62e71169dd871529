"""A diagnosis as the error of a file that can't be opened."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from mlaas4hep.core.errors import DataError, FileError
from mlaas4hep.sources.doctor.diagnose import diagnose
from mlaas4hep.sources.doctor.steps import Diagnosis

_SECONDS = 60
"""For so long a diagnosis holds for other files of its server."""
_PATIENCE = 40
"""Seconds for a diagnosis."""
_lock = threading.Lock()
_told: dict[str, tuple[float, Diagnosis]] = {}


def explain(error: DataError, urls: Sequence[str]) -> DataError:
    """The error of opening a remote file, with the reason why, if one is found.

    ``urls`` are the file's replicas. Each server is looked at once: of another file there, only
    what holds for the whole server is told again, so that a list of bad files costs no more. A
    FileError stays one.
    """
    with _lock:
        found = [_of(url) for url in urls]
    reasons = [each for each in found if each and each.failed]
    if not reasons:
        return error
    name = Diagnosis(urls[0]).name
    told = "; ".join(each.problem for each in reasons)
    if len(urls) > 1:
        told = f"{name} can't be read from any of its {len(urls)} replicas: {told}"
    elif name not in told:
        told = f"{name} can't be read: {told}"
    kind = FileError if isinstance(error, FileError) else DataError
    return kind(told, reasons[0].remedy)


def _of(url: str) -> Diagnosis | None:
    server = url.split("/", 3)[:3]
    key, now = "/".join(server), time.monotonic()
    when, known = _told.get(key, (0.0, None))
    if known and now - when < _SECONDS:
        return known if known.of_server else None
    found: list[Diagnosis] = []

    def look() -> None:
        # The error that is to be explained is worth more than one of the doctor's.
        with contextlib.suppress(Exception):
            found.append(diagnose(url))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_PATIENCE)  # a server that sends a byte now and then ends no step
    if not found:
        return None
    _told[key] = time.monotonic(), found[0]
    return found[0]
