"""The model repository: a folder of bundles that processes replace and read at the same time.

    NAME                        a symlink to .versions/NAME.RANDOM/NAME
    .versions/NAME.RANDOM/NAME  the bundle; never changed, its NAME.tar.gz beside it once packed
    .staging/RANDOM/            what is being written: locked while its writer lives
    .lock                       held for the moment in which a symlink is switched

A model appears, is replaced and disappears by one rename or unlink of its symlink, so that a
reader sees the old or the new one, and a kill at any point leaves one of them. The symlink's
target is the model's version: comparing it tells whether a model was replaced (0.5 us).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mlaas4hep.core.errors import (
    BundleError,
    ConflictError,
    MlaasError,
    NotFoundError,
    did_you_mean,
)
from mlaas4hep.core.files import copy_tree, remove_tree, sync, sync_tree
from mlaas4hep.models.bundle import NAME, Bundle, check_name, pack

_log = logging.getLogger(__name__)


class Repository:
    """The models below ``root``, which is made when absent.

    Any number of processes and threads may use the same root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._versions = self.root / ".versions"
        self._staging = self.root / ".staging"
        self._prefix = f"{self.root}/"
        for folder in (self._versions, self._staging):
            folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """The names of all models, sorted, whether they can be served or not."""
        with os.scandir(self.root) as entries:
            return sorted(e.name for e in entries if NAME.fullmatch(e.name) and e.is_symlink())

    def version(self, name: str) -> str:
        """The version of the model ``name``: a text that changes when it is replaced.

        Raises NotFoundError, naming the nearest.
        """
        if NAME.fullmatch(name):
            with suppress(OSError):
                return os.readlink(self._prefix + name)  # noqa: PTH115 (a third of the time)
        raise NotFoundError(f"no model {name[:128]!r}", did_you_mean(name[:128], self.names()))

    def get(self, name: str) -> Bundle:
        """The bundle of the model ``name``, as it is now.

        Its files may go away once it is replaced or deleted: use ``reading`` to hold them.
        NotFoundError when there is no such model, BundleError when its bundle is damaged.
        """
        while True:
            version = self.version(name)
            try:
                return Bundle.open(self.root / version)
            except (OSError, MlaasError):
                if self.version(name) == version:
                    raise

    @contextmanager
    def reading(self, name: str) -> Iterator[Bundle]:
        """The bundle of the model ``name``, whose files stay until the block is left."""
        while True:
            path = self.root / self.version(name)
            with _locked(path.parent, fcntl.LOCK_SH) as held:
                if held:
                    yield Bundle.open(path)
                    return
            if path == self.root / self.version(name):
                raise BundleError(f"the model {name!r} is damaged: {path.parent} is gone")

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new folder on the repository's file system, removed when the block is left.

        What a killed process left in one is removed by ``sweep``.
        """
        while True:
            folder = self._staging / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            with _locked(folder, fcntl.LOCK_EX) as held:
                if held:  # no sweep came between mkdir and lock
                    try:
                        yield folder
                    finally:
                        with suppress(OSError):  # the next sweep tries again
                            remove_tree(folder)
                    return

    def spool(self) -> IO[bytes]:
        """A nameless file on the repository's file system, gone when it is closed."""
        return tempfile.TemporaryFile(dir=self._staging)

    def put(self, bundle: Path, name: str) -> Bundle:
        """Copy the bundle in the directory ``bundle`` and make it the model ``name``, atomically.

        Every sha256 is compared. BundleError when it is damaged, ConflictError when it was
        trained under another name. When this returns, readers get the new one.
        """
        with self.staging() as folder:
            copy = folder / check_name(name)
            copy_tree(bundle, copy)
            return self.adopt(copy, name)

    def adopt(self, bundle: Path, name: str) -> Bundle:
        """Like ``put``, but moves ``bundle``, which lies in a folder of ``staging``."""
        if (found := Bundle.open(bundle, verify=True).name) != check_name(name):
            raise ConflictError(
                f"the bundle was trained as {found!r}, it can't be published as {name!r}",
                f"Publish it as {found!r}, or train it under the new name.",
            )
        sync_tree(bundle)
        version = self._versions / f"{name}.{secrets.token_hex(8)}"
        with self._switching():
            previous = self._target(name)
            version.mkdir()
            bundle.rename(version / name)
            link = bundle.parent / f"{name}.link"
            link.symlink_to(Path(".versions", version.name, name))
            link.rename(self.root / name)
            sync(version)
            sync(self.root)
            adopted = Bundle.open(version / name)  # here, where no other writer can replace it
            unused = self._unused(name, {version.name, previous})
        for folder in unused:
            _discard(folder)
        return adopted

    def delete(self, name: str) -> None:
        """Remove the model ``name``; NotFoundError, naming the nearest, when there is none."""
        with self._switching():
            self.version(name)
            (self.root / name).unlink()
            sync(self.root)
            unused = self._unused(name, set())
        for folder in unused:
            _discard(folder)

    def archive(self, bundle: Bundle) -> Path:
        """NAME.tar.gz of a bundle that ``reading`` gave: packed once for each version."""
        return self.packed(bundle) or pack(bundle.path)

    def packed(self, bundle: Bundle) -> Path | None:
        """The archive, if it is there already."""
        archive = bundle.path.with_name(f"{bundle.name}.tar.gz")
        return archive if archive.exists() else None

    def sweep(self) -> None:
        """Remove what killed processes left behind, and versions that nobody reads any more."""
        unused = list(self._staging.iterdir())
        with self._switching():
            for folder in self._versions.iterdir():
                if folder.name != self._target(folder.name.rpartition(".")[0]):
                    unused.append(folder)
        for folder in unused:
            _discard(folder)

    def _target(self, name: str) -> str:
        """The folder in .versions that the model is in, "" when there is no such model."""
        try:
            return (self.root / name).readlink().parts[1]
        except (OSError, IndexError):
            return ""

    def _unused(self, name: str, kept: set[str]) -> list[Path]:
        """Versions of the model other than ``kept``: they never become its version again."""
        with os.scandir(self._versions) as entries:
            return [
                self._versions / entry.name
                for entry in entries
                if entry.name.rpartition(".")[0] == name and entry.name not in kept
            ]

    @contextmanager
    def _switching(self) -> Iterator[None]:
        (self.root / ".lock").touch(0o600)
        with _locked(self.root / ".lock", fcntl.LOCK_EX):
            yield


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Hold a lock on ``path`` that the kernel lets go when this process ends.

    Gives False when ``path`` is gone, or is held by others and ``how`` says not to wait.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
        else:
            yield path.exists()
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    """Remove ``folder``, unless somebody holds it; what can't be removed is logged and left."""
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            if held:
                remove_tree(folder)
    except OSError as error:
        _log.warning("%s can't be removed yet: %s", folder, error)
