"""Owners of names: the first user of a name owns it, with every model NAME_k.

    ROOT/.owners/NAME    the owner of NAME; appears and changes as a whole

The files lie in the model repository, so that TFaaS knows owners without a database. The owner ""
(an installation without sign-in) sees and may do everything.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlaas4hep.core.errors import ConflictError, NotFoundError, did_you_mean
from mlaas4hep.core.files import sync
from mlaas4hep.models.bundle import NAME, check_name
from mlaas4hep.models.repository import Repository

_NUMBERED = re.compile(r"(.+)_[0-9]+")
TICK_SECONDS = 0.05
"""Time stamps of two changes differ after so long: by them processes see that an owner changed."""


class TakenError(ConflictError):
    """The name belongs to another user."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name!r} belongs to another user", "Choose another name.")


class Owners:
    """The owners of all names in a repository; any number of processes may ask and claim."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._root = repository.root / ".owners"
        self._root.mkdir(exist_ok=True)
        self._known: dict[str, tuple[int, str]] = {}
        """The owner of a name, as long as the folder's time stamp is this one."""

    def of(self, name: str) -> str | None:
        """The owner of ``name``; None if it has none."""
        stamp = os.stat(self._root).st_mtime_ns  # noqa: PTH116 (asked for every prediction)
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        if not NAME.fullmatch(name):
            return None
        try:
            owner = (self._root / name).read_text()
        except FileNotFoundError:
            return None
        self._known[name] = stamp, owner
        return owner

    def claim(self, name: str, owner: str) -> str:
        """Make ``owner`` the owner of ``name`` unless it has one; returns its owner.

        TakenError if it belongs to another user.
        """
        self.check_free(name, owner)
        if self.of(name) is None:
            # Written first and linked then: nobody ever reads half an owner.
            written = self._write(owner)
            try:
                with suppress(FileExistsError):
                    os.link(written, self._root / name)
            finally:
                written.unlink(missing_ok=True)
        self.check_free(name, owner)  # somebody may have been faster
        return self.of(name) or ""

    def give(self, name: str, owner: str) -> None:
        """Make ``owner`` the owner of ``name``, whoever owned it."""
        written = self._write(owner)
        time.sleep(TICK_SECONDS)
        written.rename(self._root / check_name(name))
        sync(self._root)

    def free(self, name: str) -> None:
        """Remove the owner of ``name``, so that anybody may use it."""
        time.sleep(TICK_SECONDS)
        (self._root / check_name(name)).unlink(missing_ok=True)
        sync(self._root)

    def all(self) -> dict[str, str]:
        """The owner of each name that has one, by name."""
        with os.scandir(self._root) as entries:
            names = sorted(entry.name for entry in entries if NAME.fullmatch(entry.name))
        return {name: owner for name in names if (owner := self.of(name)) is not None}

    def _write(self, owner: str) -> Path:
        written = self._root / f".{secrets.token_hex(8)}"
        with written.open("x") as stream:
            stream.write(owner)
            stream.flush()
            os.fsync(stream.fileno())
        return written

    def check_free(self, name: str, owner: str) -> None:
        """TakenError unless ``owner`` has the name, or may claim it."""
        found = self.of(check_name(name))
        if found is None and any(base_of(model) == name for model in self._repository.names()):
            found = ""  # models from before there was sign-in
        if owner and found not in (None, owner):
            raise TakenError(name)

    def sees(self, model: str, owner: str) -> bool:
        """Whether ``owner`` may know of the model."""
        return not owner or self.of(base_of(model)) == owner

    def names(self, owner: str) -> Sequence[str]:
        """The names of the owner's models, sorted."""
        return [name for name in self._repository.names() if self.sees(name, owner)]

    def check(self, model: str, owner: str) -> None:
        """NotFoundError unless the model, if there is one, is the owner's."""
        if owner and self.of(base_of(model)) != owner:
            raise self.missing(model, owner)

    def missing(self, model: str, owner: str) -> NotFoundError:
        """The error for a model that is not there for ``owner``, naming the nearest of theirs."""
        shown = model[:128]
        return NotFoundError(f"no model {shown!r}", did_you_mean(shown, self.names(owner)))


def base_of(model: str) -> str:
    """NAME of a model NAME_k; a name without a number is its own."""
    found = _NUMBERED.fullmatch(model)
    return found[1] if found else model
