"""Deleting what is old: folders of ended jobs, and uploaded folders that nobody used.

A job's row stays, with its state, metrics and the time when its files went: so lists stay complete,
and numbers are not given twice. Models stay until somebody deletes them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, or_, select

from mlaas4hep.core.files import remove_tree, visible_use
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.checks import PROCESS_NAME, VERSION
from mlaas4hep.jobs.database import ACTIVE, Database, Folder, Job
from mlaas4hep.jobs.folders import Folders

log = logging.getLogger(__name__)

DAY = 86400


@dataclass(frozen=True)
class Old:
    """The files of an ended job, or an uploaded folder, that may go."""

    kind: str
    name: str
    owner: str
    path: Path
    last_used: float

    @property
    def size(self) -> int:
        """Its bytes on disk; 0 when it can't be looked at."""
        return visible_use(self.path)


def find_old(settings: Settings, database: Database) -> list[Old]:
    """What ``keep_days`` deletes, oldest first; nothing when that is 0."""
    if not settings.keep_days:
        return []
    before = time.time() - settings.keep_days * DAY
    found = [*_old_jobs(settings, database, before), *_old_folders(settings, database, before)]
    return sorted(found, key=lambda old: old.last_used)


def expire(settings: Settings, database: Database) -> list[Old]:
    """Delete what is old, and return it; what can't be deleted is logged and tried again later."""
    folders = Folders(settings, database)
    deleted = []
    for old in find_old(settings, database):
        try:
            done = (_delete_job if old.kind == "job" else _delete_folder)(old, settings, database)
        except Exception as error:  # whatever it is, the others go
            log.warning("the old %s %s can't be deleted: %s", old.kind, old.name, error)
            continue
        if done:
            log.info("deleted the old %s %s", old.kind, old.name)
            deleted.append(old)
    folders.sweep()
    return deleted


def _old_jobs(settings: Settings, database: Database, before: float) -> Iterator[Old]:
    ended = select(Job).where(Job.finished < before, Job.expired.is_(None))
    with database.read() as session:
        for job in session.scalars(ended):
            if not PROCESS_NAME.fullmatch(job.process_name):  # it would name another folder
                continue
            path = settings.jobs / job.process_name
            yield Old("job", job.process_name, job.owner, path, job.finished or 0)


def _delete_job(old: Old, settings: Settings, database: Database) -> bool:
    remove_tree(old.path)
    with database.write() as session:
        job = session.scalar(select(Job).where(Job.process_name == old.name))
        if job:
            job.expired = time.time()
    return True


def _used_since(before: float) -> ColumnElement[bool]:
    return or_(Job.state.in_(ACTIVE), Job.created >= before, Job.finished >= before)


def _old_folders(settings: Settings, database: Database, before: float) -> Iterator[Old]:
    used = select(Job.name).where(_used_since(before))
    unused = select(Folder).where(Folder.uploaded < before, Folder.name.not_in(used))
    with database.read() as session:
        for folder in session.scalars(unused):
            if not VERSION.fullmatch(folder.version):
                continue
            ends = select(Job.finished).where(Job.name == folder.name)
            last_used = max([folder.uploaded, *(t for t in session.scalars(ends) if t)])
            path = settings.uploads / folder.version
            yield Old("folder", folder.name, folder.owner, path, last_used)


def _delete_folder(old: Old, settings: Settings, database: Database) -> bool:
    """Delete the row, unless the folder was used or replaced meanwhile; the sweep does the rest."""
    before = time.time() - settings.keep_days * DAY
    with database.write() as session:
        folder = session.get(Folder, old.name)
        used = select(Job.id).where(Job.name == old.name, _used_since(before)).limit(1)
        if folder is None or folder.uploaded >= before or session.scalar(used) is not None:
            return False
        session.delete(folder)
    return True
