"""Opening files wherever they are: a scheme has an opener; failures have a remedy."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import uproot

from mlaas4hep.core.errors import (
    DataError,
    FileError,
    MlaasError,
    RefusedError,
    UnreachedError,
    first_line,
    nearest,
)
from mlaas4hep.core.origins import Doors
from mlaas4hep.core.units import size
from mlaas4hep.sources.columns import NotUnderstoodError, UnreadableError
from mlaas4hep.sources.names import is_url, local, missing, scheme_of
from mlaas4hep.sources.remote import (
    Connect,
    Connection,
    Patience,
    RemoteSource,
    Traffic,
    reason,
    silent_for,
    until_it_passes,
)

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that any other file would have, too."""
_COPY_AGAIN = "Copy the file again from where it came from, or take it off the list."
_WEB, _XROOTD = "web:WebConnection", "xrootd:XRootDConnection"
OPENERS = {
    "root": _XROOTD,
    "roots": _XROOTD,
    "xroot": _XROOTD,
    "xroots": _XROOTD,
    "xrootd": _XROOTD,
    "http": _WEB,
    "https": _WEB,
    "dav": _WEB,
    "davs": _WEB,
    "s3": "bucket:BucketConnection",
}
"""The Connection of each scheme, MODULE:CLASS; a module is imported when it is needed.

It has a ``list_folder(url, patience)``, too.
"""


def opener(name: str) -> Connect:
    """What opens a URL; DataError for a scheme that isn't known."""
    scheme = scheme_of(name)
    if scheme not in OPENERS:
        close = nearest(scheme, OPENERS, 1)
        raise DataError(
            f"{name} can't be opened: {scheme}:// is not supported",
            f"Use {' or '.join(f'{near}://' for near in close or ('root', 'https'))}.",
        )
    module, found = OPENERS[scheme].split(":")
    try:
        connect: Connect = getattr(import_module(f"mlaas4hep.sources.{module}"), found)
    except ImportError as error:
        raise DataError(
            f"{name} can't be opened: {first_line(error)}", "Install that package."
        ) from error
    return connect


@contextmanager
def reading(file: str, branch: str = "") -> Iterator[None]:
    """Turn whatever fails in uproot and below it into a DataError that names the file.

    A FileError, unless something else than the file is to blame.
    """
    where = f"{file}: branch {branch}" if branch else file
    try:
        yield
    except MlaasError:
        raise
    except NotUnderstoodError as error:
        raise UnreadableError(file, {branch: str(error)}) from error
    except FileNotFoundError:
        raise missing(file, "Give a path or URL that exists.") from None
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise DataError(f"{file} is a folder", "Name ROOT files.") from None
        if error.errno == errno.EACCES:
            raise FileError(f"{file}: {error.strerror}", "Give a file you may read.") from None
        if error.errno in _OF_THE_MACHINE:
            raise DataError(
                f"{where} can't be read: {error.strerror}",
                "All files of a training are open at once: raise the limit (ulimit -n), or join"
                " files (hadd).",
            ) from error
        raise FileError(f"{where} can't be read: {first_line(error)}", _COPY_AGAIN) from error
    except MemoryError as error:
        raise DataError(f"{where} can't be read: out of memory", "Give it more memory.") from error
    except ImportError as error:
        raise DataError(
            f"{where} can't be read: {first_line(error)}", "Install that package."
        ) from error
    except Exception as error:
        raise FileError(
            f"{where} can't be read, it seems damaged: {first_line(error)}", _COPY_AGAIN
        ) from error


def _connect(url: str, patience: Patience, traffic: Traffic) -> Connection:
    return opener(url)(url, patience, traffic)


def open_file(
    name: str,
    replicas: Sequence[str] = (),
    *,
    uuid: str | None = None,
    explained: bool = True,
    **options: Any,
) -> Any:
    """The uproot file of that path or URL; DataError says why it can't be opened.

    ``replicas`` are other URLs of the same file, for when this one fails, or is found to have
    another ``uuid`` than that. With ``explained`` the
    reason is looked for as ``mlaas4hep doctor`` does it, once for each server, which takes some
    seconds more; a server that answers nobody is then asked for no other file until the doctor,
    once a minute, finds that it does. ``options`` are uproot's.
    """
    name = local(name)
    urls = (name, *replicas)
    # A training that reads by the cache can't ask the servers themselves.
    explained = explained and not (Doors.of_environment() and any(map(_by_xrootd, urls)))
    try:
        if explained and _are_silent(urls):
            raise UnreachedError(
                f"{name} can't be read: its server answered nobody a moment ago",
                "Try again when it is back, or name another replica.",
            )
        return _open_file(name, replicas, uuid, options)
    except (UnreachedError, RefusedError) as error:
        if not explained:
            raise
        from mlaas4hep.sources.doctor import explain  # only where something is wrong

        raise explain(error, urls) from error


def _by_xrootd(url: str) -> bool:
    return OPENERS.get(scheme_of(url)) == _XROOTD


def _are_silent(urls: Sequence[str]) -> bool:
    """Whether it is known that none of the servers answers: many files may be theirs."""
    if any(silent_for(url) is None for url in urls):
        return False
    from mlaas4hep.sources.doctor import are_silent

    return are_silent(urls)


def _open_file(
    name: str, replicas: Sequence[str], uuid: str | None, options: dict[str, Any]
) -> Any:
    with reading(name):
        if not is_url(name):
            check_local(Path(name))
        else:
            for url in (name, *replicas):
                opener(url)
            options |= {"handler": RemoteSource, "connect": _connect, "replicas": replicas}
            options |= {"uuid": uuid if replicas else None}  # else the caller tells it better
        return uproot.open({name: None}, **options)  # in this form a colon is part of the name


def list_folder(url: str) -> list[str]:
    """Names of the files in the folder at that URL, without those of its subfolders.

    A web server must know WebDAV or send a page of links. DataError says why a folder can't be
    listed.
    """
    module = import_module(opener(url).__module__)
    try:
        found: list[str] = until_it_passes(lambda patience: module.list_folder(url, patience))
    except MlaasError:
        raise
    except Exception as error:
        why = "there is none" if isinstance(error, FileNotFoundError) else reason(error)
        raise DataError(
            f"the folder {url} can't be listed: {why}",
            "Check the address, or name its files one by one.",
        ) from error
    return found


def check_local(path: Path) -> None:
    """Say at once what is wrong with a local file: none, empty, not ROOT, truncated."""
    with path.open("rb") as stream:
        head = stream.read(20)
        length = os.fstat(stream.fileno()).st_size
    if not length:
        raise FileError(f"{path} is empty: 0 bytes", _COPY_AGAIN)
    if not b"root".startswith(head[:4]) and head[:4] != b"root":
        raise FileError(
            f"{path} is not a ROOT file: it starts with {head[:4].decode('latin-1')!r}, not 'root'",
            "Give a ROOT file.",
        )
    if len(head) == 20:
        version, end = struct.unpack_from(">i4xi", head, 4)
        if version >= 1_000_000:
            (end,) = struct.unpack_from(">q", head, 12)
        check_whole(str(path), length, end)
        return
    raise FileError(f"{path} is truncated: it has {size(length)}", _COPY_AGAIN)


def check_whole(name: str, length: int | None, end: int) -> None:
    """Compare a file's length with where it ends by its own account."""
    if length is not None and length < end:
        raise FileError(
            f"{name} is truncated: it has {size(length)}, {size(end - length)} less than it should",
            _COPY_AGAIN,
        )
