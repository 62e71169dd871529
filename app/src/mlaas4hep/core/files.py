"""Files that are either whole or absent, and files that a stranger may have put there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, Any


def write_atomic(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write ``path`` so that a reader sees the old content or all of the new, never a part."""
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


def open_plain(path: Path) -> IO[bytes]:
    """Open a file of a folder where user code ran: OSError for a link, a pipe, a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a plain file")
    return os.fdopen(descriptor, "rb")


def disk_use(root: Path, most: float = float("inf"), changed_since: float = 0) -> int:
    """Bytes of all files below ``root``; it stops counting beyond ``most``.

    A file counts with its nominal length, at least 4 kB, so that neither holes nor empty files
    are for nothing. With ``changed_since``, files of which nothing changed since then don't count.
    OSError when there is something that can't be looked at.
    """
    total, folders = 0, [root]
    while folders and total <= most:
        try:
            entries = os.scandir(folders.pop())
        except (FileNotFoundError, NotADirectoryError):  # it was just removed
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(Path(entry.path))
                if status.st_ctime >= changed_since:
                    total += max(status.st_size, 4096)
                if total > most:
                    break
    return total


def remove_tree(root: Path) -> None:
    """Remove a folder where user code ran: also folders that it made unreadable."""
    root.chmod(0o700)
    for folder, subfolders, _ in os.walk(root):
        for name in subfolders:
            if not (path := Path(folder, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root)
