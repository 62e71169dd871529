"""A diagnosis as the error of a file that can't be opened."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from math import inf

from mlaas4hep.core.errors import DataError, FileError
from mlaas4hep.sources.doctor.diagnose import diagnose
from mlaas4hep.sources.doctor.steps import Diagnosis
from mlaas4hep.sources.remote import note_silent, server_of, silent_for

_SECONDS = 60
"""For so long a diagnosis holds for other files of its server."""
_lock = threading.Lock()
_told: dict[str, tuple[float, Diagnosis | None]] = {}


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


def are_silent(urls: Sequence[str]) -> bool:
    """Whether the servers of all replicas answered nobody before, and don't now.

    A server that was found to be silent more than a minute ago is looked at again, so that one that
    came back is noticed; that takes seconds, where each file would take all tries of a read.
    """
    with _lock:
        for url in urls:
            since = silent_for(url)
            if since is None:
                return False
            if since >= _SECONDS:
                _look(url)
        return all(silent_for(url) is not None for url in urls)


def _of(url: str) -> Diagnosis | None:
    when, known = _told.get(server_of(url), (-inf, None))
    if time.monotonic() - when < _SECONDS:
        return known if known and known.of_server else None
    return _look(url)


def _look(url: str) -> Diagnosis | None:
    found = None
    # The error that is to be explained is worth more than one of the doctor's.
    with contextlib.suppress(Exception):
        found = diagnose(url)
    _told[server_of(url)] = time.monotonic(), found
    note_silent(url, bool(found and found.is_silent))
    return found
