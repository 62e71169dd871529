"""Commands, the cache folder, and the one kind of error of this folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlaas4hep/parts"


SECONDS = 1800
"""How long a command may take; the longest builds Keycloak, in some minutes."""


class PartError(Exception):
    """A part cannot be had: which, why, and what to do."""


def say(text: str) -> None:
    print(f"parts: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, **options: object) -> str:
    """What the command printed; one that fails or never ends is a PartError with its last lines."""
    words = [str(word) for word in command]
    options = {"timeout": SECONDS} | options
    try:
        ended = subprocess.run(
            words,
            env=os.environ | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
    except FileNotFoundError as error:
        raise PartError(f"{words[0]} is not installed: {error}") from None
    except subprocess.TimeoutExpired as error:
        # Python hands out what was printed so far as bytes, whatever was asked for.
        said = (error.stdout or b"").decode(errors="replace")
        raise _failed(words, f"has not ended after {options['timeout']} s", said) from None
    if ended.returncode:
        raise _failed(words, f"ended with {ended.returncode}", ended.stdout)
    return ended.stdout.strip()


def _failed(words: list[str], how: str, said: str) -> PartError:
    lines = "\n".join(said.strip().splitlines()[-25:])
    return PartError(f"{' '.join(words)}\n{how}:\n{lines}")


# Where Go's own archive puts it; not every shell's PATH has it.
os.environ["PATH"] += os.pathsep + "/usr/local/go/bin"


def need(name: str, why: str) -> None:
    if not shutil.which(name):
        raise PartError(f"{name} is not installed; it is needed for {why}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process at a time makes or starts parts; a second one waits."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making parts; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder that gets its name only when it is complete."""
    unfinished = final.with_name(final.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(final)


def digest_of(folder: Path) -> str:
    """Changes when a file of the folder does."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
