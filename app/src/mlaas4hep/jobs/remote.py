"""Which trainings read remote files, and how one says to the data proxy whose connection it is.

The data proxy's folder holds its key, which jobs don't see, and a folder with its Unix socket,
which they do.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.files import open_plain
from mlaas4hep.jobs.checks import PROCESS_NAME, Names

KEY = "key"
SOCKETS = "socket"
SOCKET = f"{SOCKETS}/proxy.sock"
PROBE = "PROBE"
"""Asks whether the proxy is well, in place of a credential."""
_URL = re.compile(rb"\b(?:https?|davs?|s3)://")
_GRID = re.compile(rb"\b(?:x?roots?|xrootd)://|(?:^|(?<=[\s,\"']))/store/")
_CREDENTIAL = re.compile(
    rf"(({PROCESS_NAME.pattern}) ([0-9]{{1,12}}) ([0-9.]*@[0-9a-f]*)) ([0-9a-f]{{64}})"
)
_MOST_BYTES = 16 << 20
"""Of a list of files that are looked through for an address."""
_MOST_LISTS = 100


def make_key(folder: Path) -> bytes:
    """The key that signs credentials, made when it is needed first."""
    path = folder / KEY
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_bytes()


def read_key(folder: Path) -> bytes:
    """The key that the data proxy made; UsageError when it has never run."""
    try:
        return (folder / KEY).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the data proxy's key {folder / KEY} can't be read ({error.strerror}), so this"
            " training would reach none of its remote files",
            "Tell the operator: mlaas4hep data-proxy must run, with this folder (data_proxy).",
        ) from None


def credential(key: bytes, process_name: str, until: float, doors: str = "@") -> str:
    """The line with which a training's connections begin: its name, which it can't change.

    It is worth nothing after ``until`` (Unix time), when the training has ended at the latest.
    ``doors`` are those of the cache of grid data that it may use (Cache.pass_for).
    """
    said = f"{process_name} {math.ceil(until)} {doors}"
    return f"{said} {_signature(key, said)}"


class EndedError(Exception):
    """The credential of a training that has ended: its name."""


class Known(NamedTuple):
    """The training that has a credential, and what that says of the cache's doors."""

    name: str
    doors: str


def job_of(key: bytes, line: str) -> Known | None:
    """The training that has this credential; None for what is none; EndedError after its end."""
    if not line.isascii() or not (match := _CREDENTIAL.fullmatch(line)):
        return None
    said, name, until, doors, signature = match.groups()
    if not hmac.compare_digest(signature, _signature(key, said)):
        return None
    if time.time() > int(until):
        raise EndedError(name)
    return Known(name, doors)


def _signature(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def reads_remote(root: Path, asked: Names, *, grid: bool = False) -> bool:
    """Whether a training names files by http(s)://, dav(s):// or s3:// addresses.

    With ``grid``, by those of root://, or as /store/..., too.
    It does so in its order, in its lists of files, or in params.json (friends, a redirector).
    """
    urls = (_URL, _GRID) if grid else (_URL,)
    if any(url.search(text.encode()) for url in urls for text in (asked.files, asked.labels)):
        return True
    names = [name.strip() for name in f"{asked.params},{asked.files}".split(",")]
    lists = (name for name in names if name and not name.endswith(".root"))
    return any(_mentions(root / name, urls) for name in islice(lists, _MOST_LISTS))


def _mentions(path: Path, urls: tuple[re.Pattern[bytes], ...]) -> bool:
    try:
        with open_plain(path) as file:
            text = file.read(_MOST_BYTES)
    except OSError:  # a name that is no list; the training says what is wrong with it
        return False
    text = text.replace(rb"\/", b"/")
    return any(url.search(text) for url in urls)
