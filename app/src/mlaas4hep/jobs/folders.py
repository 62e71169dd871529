"""Uploaded folders, each upload a version of its own, so that a running job keeps what it reads.

    uploads/NAME.RANDOM/files/   the content; the row of NAME says which RANDOM is the present one

A directory belongs to someone while a row names it or a process holds a flock on it; everything
else is swept. So an upload appears with its row, whole, or not at all.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from mlaas4hep.core.archives import unpack_tar
from mlaas4hep.core.errors import (
    ArchiveError,
    ConflictError,
    LimitError,
    NotFoundError,
    did_you_mean,
)
from mlaas4hep.core.files import open_unlocked, remove_tree, walk
from mlaas4hep.core.settings import UploadSettings
from mlaas4hep.core.units import size
from mlaas4hep.jobs.checks import MOST_NAMES, check_name
from mlaas4hep.jobs.database import ACTIVE, Database, Folder, Job, is_full
from mlaas4hep.models.owners import Owners, TakenError
from mlaas4hep.models.repository import Repository

log = logging.getLogger(__name__)

SETTLING = 60.0
"""Seconds that a new directory has to get its lock before it may be swept."""


class Folders:
    """The uploaded folders of this installation.

    Whoever asks as an ``owner`` finds what is theirs, and nothing else; "" finds everything.
    """

    def __init__(self, settings: UploadSettings, database: Database) -> None:
        self.settings = settings
        self._database = database
        self.owners = Owners(Repository(settings.models))
        settings.uploads.mkdir(parents=True, exist_ok=True)

    def all(self, owner: str = "") -> list[Folder]:
        """All folders by name."""
        wanted = select(Folder).order_by(Folder.name)
        with self._database.read() as session:
            return list(session.scalars(wanted.where(Folder.owner == owner) if owner else wanted))

    def get(self, name: str, owner: str = "") -> Folder:
        """The folder of that name; NotFoundError with the nearest names otherwise."""
        with self._database.read() as session:
            if folder := _find(session, name, owner):
                return folder
            wanted = select(Folder.name).order_by(Folder.name).limit(MOST_NAMES)
            names = session.scalars(wanted.where(Folder.owner == owner) if owner else wanted).all()
        raise NotFoundError(f"there is no folder {name[:120]!r}", did_you_mean(name[:120], names))

    def path(self, version: str) -> Path:
        """Where the content of a version is."""
        return self.settings.uploads / version / "files"

    def upload(self, name: str, owner: str = "") -> Upload:
        """Begin an upload; use it as a context manager. ConflictError if the name is another's."""
        self.owners.check_free(check_name(name), owner)
        with self._database.read() as session:
            present = session.get(Folder, name)
        if owner and present and present.owner != owner:  # of before there was sign-in
            raise TakenError(name)
        return Upload(name, self, owner)

    def present(self, folder: Folder) -> None:
        """Make a version the content of its folder; the one before goes when no job needs it."""
        with self._database.write() as session:
            self._check_room(session, folder)
            before = session.get(Folder, folder.name)
            version = before.version if before else ""
            session.merge(folder)
        if version:
            self._discard(version)

    def _check_room(self, session: Session, folder: Folder) -> None:
        """LimitError when the folders of one owner would hold too much with this one."""
        most = self.settings.max_user_folders_bytes
        others = select(func.coalesce(func.sum(Folder.size), 0)).where(
            Folder.owner == (folder.owner or ""), Folder.name != folder.name
        )
        if most and (held := session.scalar(others) or 0) + folder.size > most:
            raise LimitError(
                f"the folder {folder.name!r} has {size(folder.size)}, your other folders"
                f" {size(held)}; the maximum for all of them is {size(most)}"
                " (max_user_folders_bytes)",
                "Delete folders that you don't need any more (DELETE /folders/NAME).",
            )

    def delete(self, name: str, owner: str = "") -> None:
        """Remove a folder; NotFoundError without one, ConflictError while a job needs it."""
        version = self.get(name, owner).version
        try:
            self._forget(name, version)
        except OperationalError as error:
            if not is_full(error):
                raise
            self._vacate(name, version)
            self._forget(name, version)
        self._discard(version)

    def _forget(self, name: str, version: str) -> None:
        """Remove the row of a folder, unless it is in use or was replaced meanwhile."""
        with self._database.write() as session:
            _check_unused(session, name)
            session.execute(delete(Folder).where(Folder.name == name, Folder.version == version))

    def _vacate(self, name: str, version: str) -> None:
        """Remove a folder's content before its row: a full disk has no room to note it first."""
        path = self.settings.uploads / version
        gone = path.with_name(f"{version}.deleted")
        with self._database.write() as session:  # so that no job begins that needs it
            _check_unused(session, name)
            with suppress(FileNotFoundError):
                path.rename(gone)
        remove_tree(gone)

    def delete_specs(self, name: str, owner: str = "") -> list[str]:
        """Remove the folder's specs files, so that the next training scans again; returns them.

        NotFoundError without such a folder, ConflictError while a job needs it.
        """
        folder = self.get(name, owner)
        with self._database.read() as session:
            _check_unused(session, name)
        found = [p for p in self.path(folder.version).glob("*specs*.json") if not p.is_dir()]
        for path in found:
            path.unlink(missing_ok=True)
        return sorted(p.name for p in found)

    def sweep(self) -> None:
        """Remove directories that no row names and nobody is filling."""
        for path in self.settings.uploads.iterdir():
            self._discard(path.name)

    def _discard(self, version: str) -> None:
        """Remove a directory unless it belongs to someone; what can't be is logged and left."""
        if self._needed(version):
            return
        path = self.settings.uploads / version
        try:
            descriptor = open_unlocked(path)
        except OSError:
            return
        try:
            young = time.time() - os.fstat(descriptor).st_ctime < SETTLING
            if young and not (path / "files").exists():
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._needed(version):  # its upload may have ended just now
                remove_tree(path)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("the old folder %s can't be removed yet: %s", version, error)
        finally:
            os.close(descriptor)

    def _needed(self, version: str) -> bool:
        with self._database.read() as session:
            present = select(Folder.name).where(Folder.version == version)
            used = select(Job.id).where(Job.version == version, Job.state.in_(ACTIVE))
            return session.scalar(present) is not None or session.scalar(used) is not None


class Upload:
    """One upload on its way: write the archive to ``archive``, then call ``finish``."""

    def __init__(self, name: str, folders: Folders, owner: str) -> None:
        self._name = name
        self._owner = owner
        self._folders = folders
        self._version = f"{name}.{secrets.token_hex(6)}"
        self._home = folders.settings.uploads / self._version
        self.archive = self._home / "archive"

    def __enter__(self) -> Upload:
        self._home.mkdir()
        self._lock = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._finished = False
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._finished:
                remove_tree(self._home)
        finally:
            os.close(self._lock)

    def finish(self) -> Folder:
        """Unpack the archive; from now on it is the content of the folder.

        The archive's single top folder is the content; an archive without one is it itself.
        ArchiveError for what can't be unpacked, LimitError beyond the installation's limits or the
        disk's, TakenError when the name has become another's.
        """
        unpacked, files = self._home / "unpacked", self._home / "files"
        limits = self._folders.settings
        with self.archive.open("rb") as stream:
            try:
                names = unpack_tar(
                    stream, unpacked, limits.max_folder_bytes, limits.max_folder_files
                )
            except LimitError as error:
                if isinstance(error.__cause__, OSError):  # the disk's limit, not ours
                    raise
                raise LimitError(
                    f"{error.message} (max_folder_bytes, max_folder_files)",
                    "Leave out files that the training doesn't read, or ask the operator for more.",
                ) from None
        self.archive.unlink()
        if not names:
            raise ArchiveError("the archive holds no file", "Pack the folder with its files.")
        top = list(unpacked.iterdir())
        only = top[0] if len(top) == 1 and top[0].is_dir() else unpacked
        total = sum(found.status.st_size for found in walk(unpacked) if found.is_file)
        only.rename(files)
        if only != unpacked:
            unpacked.rmdir()
        folder = Folder(
            name=self._name,
            version=self._version,
            files=len(names),
            size=total,
            uploaded=time.time(),
            owner=self._folders.owners.claim(self._name, self._owner),
        )
        self._folders.present(folder)
        self._finished = True
        return folder


def _find(session: Session, name: str, owner: str) -> Folder | None:
    folder = session.get(Folder, name)
    return None if folder is None or (owner and folder.owner != owner) else folder


def _check_unused(session: Session, name: str) -> None:
    using = select(Job.process_name).where(Job.name == name, Job.state.in_(ACTIVE))
    if job := session.scalar(using.order_by(Job.id).limit(1)):
        raise ConflictError(
            f"the folder {name!r} is in use by the job {job}",
            f"Wait until it has ended, or cancel it (DELETE /jobs/{job}).",
        )
