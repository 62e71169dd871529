"""Errors that name the thing, the value, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MlaasError(Exception):
    """A failure that a person can act upon.

    ``message`` says what is wrong, naming file, branch, key and value; ``remedy`` says what to do
    about it. ``exit_code`` is what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(MlaasError):
    """The request itself is wrong: an option, a parameter, a label list. Nothing was done."""

    exit_code = 2


class DataError(MlaasError):
    """A file, tree or branch can't be read or holds what can't be used."""


class ModelError(MlaasError):
    """The user's model file, or the model that it returns, can't be used."""


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
    """Something took longer than it may, and was ended."""


class SignInError(MlaasError):
    """Nobody knows who asks: there is no token, or one that is not valid."""


class ForbiddenError(MlaasError):
    """Who asks is known, or can't be trusted to ask by itself, and may not do this."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first, ignoring case."""
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=count, cutoff=0.5)
    return [by_folded[c] for c in close]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'a' or 'b'?``, or what there is when nothing is near."""
    known = list(known)
    if close := nearest(name, known):
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    if not known:
        return "There are none."
    shown = ", ".join(repr(k) for k in known[:10])
    return f"There are: {shown}{', ...' if len(known) > 10 else ''}."
