"""Where a file of the list is: here, at its URL, or behind the redirector."""

from __future__ import annotations

import re
from pathlib import Path

from mlaas4hep.core.errors import DataError

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(name: str) -> bool:
    """Whether the name says by itself how it is reached: root://, http(s)://, s3://."""
    return bool(_URL.match(name))


def resolve(name: str, redirector: str, cwd: Path) -> str:
    """The path or URL to open for a name in the list of files.

    - A URL is used as it is.
    - A relative name that exists in ``cwd`` is that file; it stays relative if that is the
      working directory, so that messages and provenance name it as the user did.
    - A name that starts with /store and doesn't exist here, or a relative one that doesn't, is
      asked of the ``redirector`` ("" = none).
    - Any other missing path is DataError "no such file", at once.
    """
    if is_url(name):
        return name
    path = cwd / name
    if _exists(path):
        return name if cwd == Path.cwd() else str(path)
    remote = not name.startswith("/") or name == "/store" or name.startswith("/store/")
    if remote and redirector:
        slash = "/" if redirector.startswith("http") else "//"
        return f"{redirector.rstrip('/')}{slash}{name.lstrip('/')}"
    remedy = "Give a path that exists, or a URL such as root://HOST//PATH."
    if remote:
        remedy = (
            "Give a path that exists, or set redirector in params.json"
            " (for instance root://xrootd-cms.infn.it) if it lies on the grid."
        )
    raise DataError(f"no such file: {path}", remedy)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False
