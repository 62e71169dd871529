"""Atomic writing of files, and safe handling of files that a stranger may have written."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlaas4hep.core.errors import LimitError, UsageError

DEEPEST = 200
"""Levels of folders that ``walk`` goes down."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used up quota, a file beyond the process's limit."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_atomic(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write ``path`` so that a reader sees the old content or all of the new, never a part.

    OSError leaves the old content.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write ``value`` as JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n", mode)


def is_full(error: BaseException | None) -> bool:
    """Whether it is an OSError that says that nothing more can be written here."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def open_plain(path: str | Path, folder: int | None = None) -> IO[bytes]:
    """Open a file of a folder where user code ran: OSError for a link, a pipe, a folder.

    ``path`` is relative to ``folder``, the descriptor of one, when that is given.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{Path(path).name} is not a plain file")
    return os.fdopen(descriptor, "rb")


@dataclass(frozen=True)
class Found:
    """What ``walk`` finds; valid until it is asked for the next one."""

    name: str
    status: os.stat_result
    folder: int
    """Descriptor of the folder that it is in."""
    above: list[str]
    """Names of the folders from below the root down to that one."""

    @property
    def path(self) -> str:
        """Its name relative to the root."""
        return "/".join([*self.above, self.name])

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; a link to a folder is not."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self.status.st_mode)

    def open(self) -> IO[bytes]:
        """Open it as ``open_plain`` does."""
        return open_plain(self.name, self.folder)


@dataclass
class _Level:
    """A folder on the way down of ``walk``, and the folders in it that are still to be seen."""

    descriptor: int
    name: str = ""
    folders: list[str] = field(default_factory=list)


def walk(root: Path) -> Iterator[Found]:
    """Everything below a folder where user code ran, a folder before what is in it.

    Links are not followed, and what vanishes meanwhile is left out. OSError for a folder that
    can't be looked into, and beyond DEEPEST levels.
    """
    try:
        levels = [_Level(os.open(root, _FOLDER))]
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield from _listed(levels)
        while levels:
            level = levels[-1]
            if not level.folders:
                os.close(levels.pop().descriptor)
                continue
            name = level.folders.pop()
            if len(levels) > DEEPEST:
                raise OSError(errno.ELOOP, f"folders are nested deeper than {DEEPEST}")
            try:
                levels.append(_Level(os.open(name, _FOLDER, dir_fd=level.descriptor), name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield from _listed(levels)
    finally:
        for level in levels:
            os.close(level.descriptor)


def _listed(levels: list[_Level]) -> Iterator[Found]:
    level, above = levels[-1], [level.name for level in levels[1:]]
    with os.scandir(level.descriptor) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found = Found(entry.name, status, level.descriptor, above)
            if found.is_folder:
                level.folders.append(found.name)
            yield found


def disk_use(root: Path, most: float = float("inf"), changed_since: float = 0) -> int:
    """Bytes of all files below ``root``; it stops counting beyond ``most``.

    A file counts with its nominal length, at least 4 kB, so that neither holes nor empty files
    are for nothing. With ``changed_since``, files of which nothing changed since then don't count.
    OSError when there is something that can't be looked at.
    """
    total = 0
    for found in walk(root):
        if found.status.st_ctime >= changed_since:
            total += max(found.status.st_size, 4096)
        if total > most:
            break
    return total


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder to the new folder ``target``; OSError naming what is no plain file."""
    target.mkdir()
    for found in walk(source):
        try:
            if found.is_folder:
                (target / found.path).mkdir()
                continue
            with found.open() as content, (target / found.path).open("xb") as copy:
                shutil.copyfileobj(content, copy, 1 << 20)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), found.path) from error


def visible_use(root: Path) -> int:
    """``disk_use`` of ``root``; 0 when it is gone or can't be looked at."""
    try:
        return disk_use(root)
    except OSError:
        return 0


def sync_tree(root: Path) -> None:
    """Flush a folder and its content to disk, so that a power failure leaves no empty files."""
    for found in walk(root):
        sync(found.name, found.folder)
    sync(root)


def sync(path: str | Path, folder: int | None = None) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(root: Path) -> None:
    """Remove a folder where user code ran, whatever it made there; fine when it is gone already.

    A nested folder is first moved up, beside the one that it is in: so there are two levels at
    most, and neither depth nor length of names matters. Links are not followed, locked folders are
    unlocked. What can't be removed is left; OSError says so when all else is gone.
    """
    try:
        top = open_unlocked(root)
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a link or a file in its place
        root.unlink(missing_ok=True)
        return
    removal = _Removal(top)
    try:
        while removal.goes_on():
            pass
    finally:
        os.close(top)
    try:
        root.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise removal.problem or error from None


@contextmanager
def temporary_folder(within: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``within``, gone at the end with all that came into it."""
    folder = Path(tempfile.mkdtemp(dir=within, prefix=prefix))
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove_tree(folder)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path to write to in a folder beside ``path``, gone at the end: a rename makes it whole.

    What fails meanwhile in the file system is a LimitError where the disk is full, else a
    UsageError; both name ``path``.
    """
    try:
        with temporary_folder(path.parent, f".{path.name}.") as folder:
            yield folder / path.name
    except OSError as error:
        if not path.parent.exists():
            about = f"{path}: there is no folder {path.parent}"
            raise UsageError(about, "Make it first.") from None
        kind = LimitError if is_full(error) else UsageError
        raise kind(f"{path} can't be written: {error.strerror or error}") from error


class _Removal:
    """Removing what is in the folder ``top``, one level after the other."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._progress = False
        self.problem: OSError | None = None
        """The first thing that couldn't be removed when all was tried last."""

    def goes_on(self) -> bool:
        """Try everything once; whether anything could be removed or moved up."""
        self._progress, self.problem = False, None
        self._clear(self._top, self._remove)
        return self._progress

    def _clear(self, folder: int, take: Callable[[str, int], None]) -> None:
        """Remove the files in ``folder``; ``take`` does with its folders what is to be done."""
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        take(entry.name, folder)
                    else:
                        os.unlink(entry.name, dir_fd=folder)
                    self._progress = True
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.problem = self.problem or error

    def _remove(self, name: str, above: int) -> None:
        folder = open_unlocked(name, above)
        try:
            self._clear(folder, self._move_up)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=above)

    def _move_up(self, name: str, above: int) -> None:
        os.close(open_unlocked(name, above))  # the kernel moves only what may be written
        os.rename(name, secrets.token_hex(8), src_dir_fd=above, dst_dir_fd=self._top)


def open_unlocked(path: str | Path, above: int | None = None) -> int:
    """Open a folder whatever its mode, from now on 0700, so that what is in it can be removed."""
    found = os.open(path, os.O_PATH | _FOLDER, dir_fd=above)
    try:
        if os.fstat(found).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{found}", 0o700)  # noqa: PTH101 (what was opened, no name)
        return os.open(".", _FOLDER, dir_fd=found)
    finally:
        os.close(found)
