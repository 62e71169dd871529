"""An administrator's commands: list, give, free and delete what users have; each is audited.

Nothing here asks who is calling: whoever may write to the store and its database may do it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update

from mlaas4hep.core.errors import ConflictError, MlaasError, NotFoundError, UsageError, did_you_mean
from mlaas4hep.core.files import remove_tree, visible_use
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.checks import PROCESS_NAME
from mlaas4hep.jobs.database import ACTIVE, Database, Folder, Job
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.models.owners import base_of
from mlaas4hep.models.repository import Repository

AUDIT = "audit.jsonl"
"""In the store: one line for each change, readable for the service's user alone."""


@dataclass(frozen=True)
class Thing:
    """A folder, the files and row of a job, or a model; ``size`` in bytes, 0 if unknown."""

    kind: str
    name: str
    owner: str
    size: int
    last_used: float
    """Seconds since 1970: uploaded, ended (now, while it waits or runs), published."""


@dataclass(frozen=True)
class User:
    """All that one owner has."""

    owner: str
    things: list[Thing]

    def count(self, kind: str) -> int:
        """How many things of a kind."""
        return sum(thing.kind == kind for thing in self.things)

    @property
    def size(self) -> int:
        """Bytes of all things."""
        return sum(thing.size for thing in self.things)

    @property
    def last_used(self) -> float:
        """When any of the things was last used."""
        return max(thing.last_used for thing in self.things)


class Administration:
    """Of one installation's folders, jobs and models."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._folders = Folders(settings, database)
        self._owners = self._folders.owners
        self._repository = Repository(settings.models)

    def users(self) -> list[User]:
        """Everybody who has something, by name; "" is whoever came before there was sign-in."""
        found: dict[str, list[Thing]] = {}
        for thing in self._things():
            found.setdefault(thing.owner, []).append(thing)
        return [User(owner, found[owner]) for owner in sorted(found)]

    def things(self, what: str) -> list[Thing]:
        """What ``what`` has, an owner (``user:SUB``, ``client:ID``) or the name of a folder.

        NotFoundError, naming the nearest, when there is nothing.
        """
        if what and (found := list(self._things(what))):
            return found
        things = list(self._things())
        known = {t.owner for t in things} | {_name_of(t) for t in things}
        raise NotFoundError(
            f"nothing belongs to {what[:120]!r}", did_you_mean(what[:120], sorted(known - {""}))
        )

    def delete(self, what: str) -> list[Thing]:
        """Delete what ``things`` names, models and rows of jobs included; returns what is gone.

        ConflictError, before anything is deleted, while a job of it waits or runs.
        """
        doomed = self.things(what)
        names = sorted({_name_of(thing) for thing in doomed})
        with self._database.read() as session:
            active = select(Job.process_name).where(Job.name.in_(names), Job.state.in_(ACTIVE))
            if jobs := session.scalars(active.order_by(Job.id)).all():
                raise ConflictError(
                    f"{', '.join(jobs[:10])} of {what} still wait or run",
                    "Cancel them first (DELETE /jobs/NAME), or wait for their end.",
                )
        for thing in doomed:
            self._delete(thing)
        self._note("delete", what, things=[f"{thing.kind} {thing.name}" for thing in doomed])
        return doomed

    def give(self, name: str, owner: str) -> list[Thing]:
        """Make ``owner`` the one to whom the name and all its things belong; returns these."""
        if not owner.startswith(("user:", "client:")) or not owner.isprintable():
            raise UsageError(
                f"{owner[:120]!r} is not an owner", "Write user:SUB or client:ID, as the list does."
            )
        before = self._owner_of(name)
        things = list(self._things(name))
        self._owners.give(name, owner)
        with self._database.write() as session:
            session.execute(update(Folder).where(Folder.name == name).values(owner=owner))
            session.execute(update(Job).where(Job.name == name).values(owner=owner))
        self._note("give", name, before=before, owner=owner)
        return things

    def free(self, name: str) -> str:
        """Let anybody take a name that nothing has any more; returns whose it was."""
        before = self._owner_of(name)
        if left := list(self._things(name)):
            listed = ", ".join(f"{thing.kind} {thing.name}" for thing in left[:10])
            raise ConflictError(
                f"the name {name} is still in use: {listed}", f"Delete these first: delete {name}."
            )
        self._owners.free(name)
        self._note("free", name, before=before)
        return before

    def backup(self, target: Path) -> None:
        """Copy the database to the new file ``target``, whole, while the services work."""
        self._database.backup(target)
        self._note("backup", str(target))

    def _owner_of(self, name: str) -> str:
        """Whose a name is; NotFoundError, naming the nearest, when it is nobody's."""
        if (owner := self._owners.of(name)) is None:
            raise NotFoundError(
                f"the name {name[:120]!r} has no owner",
                did_you_mean(name[:120], list(self._owners.all())),
            )
        return owner

    def _things(self, what: str | None = None) -> Iterator[Thing]:
        """All things, or those of an owner or a name: of others no file is looked at."""

        def wanted(owner: str, name: str) -> bool:
            return what is None or what in (owner, name)

        with self._database.read() as session:
            folders = session.scalars(select(Folder).order_by(Folder.name)).all()
            jobs = session.scalars(select(Job).order_by(Job.id)).all()
        for folder in folders:
            if wanted(folder.owner, folder.name):
                yield Thing("folder", folder.name, folder.owner, folder.size, folder.uploaded)
        for job in jobs:
            if wanted(job.owner, job.name):
                home = self._settings.jobs / job.process_name
                ended = job.finished or time.time()
                yield Thing("job", job.process_name, job.owner, visible_use(home), ended)
        for name in self._repository.names():
            owner = self._owners.of(base_of(name)) or ""
            if not wanted(owner, base_of(name)):
                continue
            with suppress(OSError, MlaasError):  # it was deleted just now
                home = (self._settings.models / self._repository.version(name)).parent
                yield Thing("model", name, owner, visible_use(home), home.stat().st_mtime)

    def _delete(self, thing: Thing) -> None:
        """Delete one thing; fine when it is gone already."""
        with suppress(NotFoundError):
            if thing.kind == "model":
                self._repository.delete(thing.name)
            elif thing.kind == "folder":
                self._folders.delete(thing.name)
            elif PROCESS_NAME.fullmatch(thing.name):  # else it would name another folder
                remove_tree(self._settings.jobs / thing.name)
        if thing.kind == "job":
            with self._database.write() as session:
                session.execute(delete(Job).where(Job.process_name == thing.name))

    def _note(self, action: str, what: str, **more: Any) -> None:
        """Append a line to the audit log, on disk before this returns."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "by": os.environ.get("MLAAS4HEP_ADMIN") or str(os.getuid()),
            "action": action,
            "of": what,
        }
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self._settings.store / AUDIT, flags, 0o600)
        with os.fdopen(descriptor, "a") as stream:
            stream.write(json.dumps(line | more) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _name_of(thing: Thing) -> str:
    """The name by which its owner has it: NAME of a folder NAME, of a job or model NAME_k."""
    return thing.name if thing.kind == "folder" else base_of(thing.name)
