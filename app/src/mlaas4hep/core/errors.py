"""Errors that name the thing, the value, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from heapq import nlargest
from itertools import islice
from typing import Any

from mlaas4hep.core.secrets import without_secrets


class MlaasError(Exception):
    """A failure that a person can fix.

    ``message`` says what is wrong, naming file, branch, key and value; ``remedy`` says what to do
    about it. ``exit_code`` is what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = without_secrets(message), without_secrets(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(MlaasError):
    """The request itself is wrong: an option, a key of params.json, a label list, a setting."""

    exit_code = 2


class DataError(MlaasError):
    """A file, tree or branch can't be read or holds what can't be used."""


class FileError(DataError):
    """A file of the list can't be read: missing, truncated, damaged, or its server fails.

    All else is as asked, so that a training may go on without it. ``file`` is its name, as that of
    its RootFile; ``source`` is the latter, if it was open. ``others`` are those of further files
    that were found with it.
    """

    def __init__(self, message: str, remedy: str = "", file: str = "") -> None:
        super().__init__(message, remedy)
        self.file = file
        self.source: Any = None
        self.others: list[FileError] = []


class UnreachedError(FileError):
    """A server, or each of several, can't be reached or doesn't give a file; why is open."""


class RefusedError(DataError):
    """A server refuses a file, as it would others: the credential is to blame; why is open."""


class LedgerError(MlaasError):
    """Events were read twice or not at all, or the sums over them don't agree: our own mistake."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"the events don't add up: {message}",
            "Nothing was trained on wrong counts. Please report it, with this text.",
        )


class EventError(DataError):
    """An event contradicts itself; ``event`` counts from the first of those looked at."""

    def __init__(self, event: int, about: str, remedy: str = "", where: str = "") -> None:
        super().__init__(f"{where}event {event}: {about}", remedy)
        self.event, self.about = event, about

    def after(self, events: int, file: str = "") -> EventError:
        """The same with ``events`` others before it, in that file."""
        return self.at(self.event + events, file)

    def at(self, event: int, file: str = "") -> EventError:
        """The same about that event of the file."""
        where = f"{file}: " if file else ""
        return EventError(event, self.about, self.remedy, where)


class ModelError(MlaasError):
    """The user's model file, or the model that it returns, can't be used."""


class ArchiveError(MlaasError):
    """A tar can't be read, or holds what the archive of a folder doesn't: links, '..', devices."""


class BundleError(MlaasError):
    """A bundle is not one of ours, is damaged, or exceeds a limit."""


class NotFoundError(MlaasError):
    """A folder, job or model of that name does not exist."""

    exit_code = 2


class ConflictError(MlaasError):
    """The request contradicts what exists already."""


class LimitError(MlaasError):
    """A limit of this installation is exceeded; the message says which and its value."""


class BusyError(MlaasError):
    """More work than can be queued right now; try again later."""


class OverdueError(MlaasError):
    """Something exceeded its time limit, and was killed."""


class SignInError(MlaasError):
    """The caller is unknown: the token is missing or not valid."""


class ForbiddenError(MlaasError):
    """The caller is known but may not do this, or another site's page made the request."""


_MOST_NAMES, _MOST_LETTERS, _MOST_LIKELY = 2000, 64, 20
"""Names that ``nearest`` looks at, letters of each, and how many of them it compares in full.

A comparison takes a time that grows with the square of the length, or its cube; names are users'.
"""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first, ignoring case; of the first 2,000."""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(_compared(name))

    def likeness(candidate: str, measure: Callable[[], float]) -> float:
        matcher.set_seq1(_compared(candidate))
        return measure()

    first = dict.fromkeys(islice(known, _MOST_NAMES))
    rough = {k: likeness(k, matcher.quick_ratio) for k in first}
    likely = nlargest(_MOST_LIKELY, (k for k in rough if rough[k] >= 0.6), rough.__getitem__)
    exact = {k: likeness(k, matcher.ratio) for k in likely}
    return nlargest(count, (k for k in exact if exact[k] >= 0.6), exact.__getitem__)


def _compared(name: str) -> str:
    """What of a name is compared: the beginning and the end of a long one."""
    if len(name) > _MOST_LETTERS:
        name = name[: _MOST_LETTERS // 2] + name[-_MOST_LETTERS // 2 :]
    return name.casefold()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'a' or 'b'?``, or the known names if none is near; bounded in time."""
    known = list(islice(known, _MOST_NAMES))
    if close := nearest(name, known):
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    if not known:
        return "There are none."
    shown = ", ".join(repr(k) for k in known[:10])
    return f"There are: {shown}{', ...' if len(known) > 10 else ''}."


def first_line(error: BaseException) -> str:
    """Its class, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''}"
