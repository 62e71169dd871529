"""Whose a name is: the first who used it owns it for good, with every model NAME_k.

    ROOT/.owners/NAME    the owner of NAME; made whole, and never changed

The files lie in the model repository, so that TFaaS knows owners without a database. The owner ""
(an installation without sign-in) sees and may do everything.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress

from mlaas4hep.core.errors import ConflictError, NotFoundError, did_you_mean
from mlaas4hep.models.bundle import NAME, check_name
from mlaas4hep.models.repository import Repository

_NUMBERED = re.compile(r"(.+)_[0-9]+")


class TakenError(ConflictError):
    """The name belongs to somebody else."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name!r} is somebody else's", "Choose another name.")


class Owners:
    """The owners of all names in a repository; any number of processes may ask and claim."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._root = repository.root / ".owners"
        self._root.mkdir(exist_ok=True)
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str | None:
        """The owner of ``name``; None when it is nobody's yet."""
        if (owner := self._known.get(name)) is not None:
            return owner
        if not NAME.fullmatch(name):
            return None
        try:
            owner = (self._root / name).read_text()
        except FileNotFoundError:
            return None
        self._known[name] = owner
        return owner

    def claim(self, name: str, owner: str) -> str:
        """Make ``name`` the property of ``owner`` and return whose it is from now on.

        TakenError when it is another's.
        """
        self.check_free(name, owner)
        if self.of(name) is None:
            # Written first and linked then: nobody ever reads half an owner.
            written = self._root / f".{secrets.token_hex(8)}"
            try:
                with written.open("x") as stream:
                    stream.write(owner)
                    stream.flush()
                    os.fsync(stream.fileno())
                with suppress(FileExistsError):
                    os.link(written, self._root / name)
            finally:
                written.unlink(missing_ok=True)
        self.check_free(name, owner)  # somebody may have been faster
        return self.of(name) or ""

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
