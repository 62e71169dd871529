"""Files of root:// that a training reads through the installation's cache.

The cache never looks by itself whether a file has changed at its origin, so it is asked to: when a
file is opened, and now and then while it is read.
"""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from time import monotonic
from urllib.parse import urlencode

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.origins import Door, Doors, with_port
from mlaas4hep.sources.remote import DeniedError, PassingError, ReplacedError

LOOK_SECONDS = 10.0
"""A file that is replaced while it is read is noticed by the first read after so long."""
_log = logging.getLogger(__name__)


def through(url: str, doors: Doors) -> tuple[str, Door]:
    """The URL by which a training reads ``url``, and its door; DataError where there is none."""
    origin, path = _origin(url, doors), _path(url)
    if found := doors.to(origin, path.partition("?")[0]):
        return f"root://{found[0]}/{path}", found[1]
    folders = doors.folders(origin)
    may = f"may read below {', '.join(folders)} only" if folders else "may read none"
    raise DataError(
        f"{url} can't be read: of the grid's data, your groups {may}",
        "Ask the operator for it (data_paths), or train on other files.",
    )


class CachedFile:
    """A file that is read through the cache; ``url`` is where."""

    def __init__(self, url: str, doors: Doors, seconds: float) -> None:
        """Have a file evicted that was replaced; ``seconds`` is how long the cache may think."""
        self.url, door = through(url, doors)
        self._name, self._seconds = url, seconds
        asked = {"door": door.number, "path": _path(url).partition("?")[0]}
        self._question = urllib.request.Request(f"{doors.status}/fresh?{urlencode(asked)}")  # noqa: S310
        state, reason, self._version = self._ask()
        self.away = f" (its server, as the cache says: {reason})" if state == "unknown" else ""
        self.was_evicted = state == "evicted"
        if state == "evicted":
            _log.warning("%s was replaced at its server: it is read anew", url)
        elif state == "in use":
            raise PassingError("it was replaced, and others still read the old one from the cache")
        elif state == "missing":  # the cache may still have it
            raise FileNotFoundError(f"its server has it no more: {url}")
        elif state == "unknown":
            _log.warning(
                "%s: what is cached of it may be old, as its server doesn't tell: %s", url, reason
            )

    def check(self, *, now: bool = False) -> None:
        """ReplacedError if the file was replaced since it was opened; asks now and then only."""
        if not now and monotonic() < self._looked + LOOK_SECONDS:
            return
        state, _, version = self._ask()
        if state == "unknown":
            return
        if state != "same" or (self._version and version != self._version):
            raise ReplacedError("another file, or none, at its server")
        self._version = version

    def _ask(self) -> tuple[str, str, str]:
        """State, the reason where it isn't known, and the version (size and time) at the origin."""
        try:
            # By http: the executor says where the cache is.
            with urllib.request.urlopen(self._question, timeout=self._seconds) as answer:  # noqa: S310
                said = json.load(answer)
            found = str(said["state"]), str(said["reason"]), str(said.get("version", ""))
        except urllib.error.HTTPError as error:
            if error.code == 403:  # the settings have changed since it began
                raise DeniedError("this training may not read it any more") from None
            if error.code == 404:
                raise DataError(
                    f"{self._name} can't be read: the cache doesn't read that folder",
                    "Ask the operator to add it to the paths of the cache (xrootd_paths).",
                ) from None
            raise PassingError(f"the cache doesn't answer: {error}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PassingError(f"the cache doesn't answer: {error}") from None
        self._looked = monotonic()
        return found


def _origin(url: str, doors: Doors) -> str:
    server = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    wanted = with_port(server).lower()
    if origin := next((each for each in doors.origins if each.lower() == wanted), None):
        return origin
    raise DataError(
        f"{url} can't be read: trainings reach no root:// servers but {', '.join(doors.origins)}",
        "Name a file of these, or ask the operator to add the server (xrootd_origins).",
    )


def _path(url: str) -> str:
    """The path at its server, with one slash before it."""
    return "/" + url.partition("://")[2].partition("/")[2].lstrip("/")
