"""Whether what a server, or a disk, gives is a whole ROOT file with a tree."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mlaas4hep.core.units import size
from mlaas4hep.sources.doctor.steps import Diagnosis

HEAD = 64
"""Bytes that ``look_at_head`` wants, or the whole of a shorter file."""
_COPY_AGAIN = "Copy the file again from where it came from, or name another replica."


def look_at_head(diagnosis: Diagnosis, head: bytes, length: int | None) -> None:
    """Step ``ROOT``, its first part: whether it begins and ends as a ROOT file does."""
    name = diagnosis.name
    if length == 0 or not head:
        diagnosis.fail("ROOT", f"{name} is empty: 0 bytes", _COPY_AGAIN)
    if head[:5] != b"root\0"[: len(head)]:  # its version follows, a number below 2^24
        begin = repr(head[:16].decode("latin-1"))
        diagnosis.fail("ROOT", f"{name} is not a ROOT file: it starts with {begin}, not 'root'",
                       "Name a ROOT file; a page in HTML means that the address is that of a web"
                       " page, such as one to sign in at.")  # fmt: skip
    end = 0
    if len(head) >= 20:
        version, end = struct.unpack_from(">i4xi", head, 4)
        if version >= 1_000_000:
            (end,) = struct.unpack_from(">q", head, 12)
    if len(head) < 20 or (length is not None and length < end):
        less = f", {size(end - length)} less than it should" if end and length else ""
        diagnosis.fail("ROOT", f"{name} is truncated: it has {size(length or len(head))}{less}",
                       _COPY_AGAIN)  # fmt: skip


def look_at_packages(diagnosis: Diagnosis, found: Mapping[str, Any]) -> None:
    """Fail if a package is missing that opening the file needs."""
    if "missing" in found:
        diagnosis.fail("package", f"{diagnosis.name} can't be opened here: {found['missing']}",
                       "Install what mlaas4hep's extra `data` names.")  # fmt: skip


def look_at_trees(diagnosis: Diagnosis, found: Mapping[str, Any]) -> None:
    """Step ``ROOT``: the trees that a training would find, or why it couldn't open the file."""
    name = diagnosis.name
    if "error" in found:
        remedy = str(found["remedy"]) or _COPY_AGAIN
        diagnosis.fail("ROOT", str(found["error"]), remedy)
    if "trees" not in found and "failure" in found:
        diagnosis.fail("ROOT", f"{name} can't be opened: {found['failure']}", _COPY_AGAIN)
    if "trees" not in found:
        diagnosis.fail("ROOT", f"{name}: opening it takes too long",
                       "The server is slow: try again, or name another replica.")  # fmt: skip
    trees = list(found["trees"])
    if not trees:
        diagnosis.fail("ROOT", f"{name} holds no tree", "Name a file with a TTree or an RNTuple.")
    diagnosis.ok("ROOT", f"a whole ROOT file with {', '.join(trees)}", trees=trees)


def attempt(name: str, seconds: float, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a new process says that opens the file as a training does, all that it says in time.

    ``late`` is set if it had to be stopped, ``failure`` if it failed without a word.
    """
    program = ("-P", "-m", "mlaas4hep.sources.doctor.attempt")  # nothing of the working directory
    command = [sys.executable, *program, name, f"{seconds - 5:.0f}"]
    found: dict[str, Any] = {}
    try:
        ended = subprocess.run(  # noqa: S603 - our own program
            command,
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
        said = ended.stdout
        if ended.returncode:
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            found["failure"] = lines[-1] if lines else f"it ended with {ended.returncode}"
    except subprocess.TimeoutExpired as error:
        said, found["late"] = error.stdout or b"", True
    for line in said.splitlines():
        try:
            found |= json.loads(line)
        except ValueError:  # what a library printed
            continue
    return found
