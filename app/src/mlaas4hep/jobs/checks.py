"""Checks of a job: names, limits, files, and the bundle that it wrote."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol

from mlaas4hep.core.errors import BundleError, LimitError, UsageError, did_you_mean
from mlaas4hep.core.files import open_plain, walk
from mlaas4hep.core.settings import JobSettings, UploadSettings
from mlaas4hep.core.units import size
from mlaas4hep.models.bundle import MOST_FILES
from mlaas4hep.sources.names import (
    MOST_FRIENDS,
    PLACE,
    check_friends,
    friends_of,
    is_url,
    scheme_of,
    split_tree,
)

NAME = re.compile(r"[A-Za-z0-9_]{1,100}")
PROCESS_NAME = re.compile(r"[A-Za-z0-9_]{1,100}_[1-9][0-9]{0,18}")
VERSION = re.compile(r"[A-Za-z0-9_]{1,100}\.[0-9a-f]{12}")
LEAST_CPUS = 0.01
MOST_NAMES = 2000
"""Names of files that are looked through for the one that was meant."""
MOST_LOOSE = 10
"""Names of a submission that may be wildcards or folders."""
MOST_LETTERS = 1024
MOST_PARAMS = 1 << 20
"""Bytes of params.json that are read for its friends."""
_TABLE = (".txt", ".csv", ".lst", ".list", ".json")


class Names(Protocol):
    """What names files: a Submission, or the row that was made of it."""

    @property
    def files(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def params(self) -> str: ...  # noqa: D102


def check_name(name: str) -> str:
    """The name of a folder; UsageError when it can't be one."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"the name {name[:120]!r} can't be used",
            "Use 1 to 100 letters (a-z, A-Z), digits and underscores.",
        )
    return name


def check_upload_size(received: int, settings: UploadSettings) -> None:
    """LimitError when an archive of ``received`` bytes is too large."""
    if received > settings.max_upload_bytes:
        raise LimitError(
            f"the archive is larger than {size(settings.max_upload_bytes)} (max_upload_bytes)",
            "Leave out files that the training doesn't read, or ask the operator for more.",
        )


def check_environment(settings: JobSettings, name: str, device: str) -> str:
    """The name of the environment; UsageError if it doesn't exist or lacks that device."""
    known = settings.job_environments
    name = name or next(iter(known))
    if name not in known:
        raise UsageError(
            f"environment: {name[:64]!r} is not offered here", did_you_mean(name[:64], known)
        )
    if device not in ("cpu", "gpu"):
        raise UsageError(f"device: {device[:40]!r} is unknown", 'Ask for "cpu" or "gpu".')
    if device == "gpu" and not known[name].gpus:
        able = [other for other, environment in known.items() if environment.gpus]
        if not able:
            raise UsageError(
                "device: this installation has no GPU for trainings", 'Ask for "device": "cpu".'
            )
        raise UsageError(
            f"device: the environment {name!r} has no GPU",
            f'Ask for "cpu", or for the environment {" or ".join(map(repr, able))}.',
        )
    return name


def check_resources(settings: JobSettings, cpus: float, memory: int) -> None:
    """LimitError when a training may not have ``cpus`` cores or ``memory`` bytes.

    UsageError when it would have next to no core: a container engine takes that for no limit.
    """
    if not cpus >= LEAST_CPUS:
        raise UsageError(
            f"cpus: {cpus:g} is less than {LEAST_CPUS}, the least that a training can have",
            'Write a number of cores, as "2" or "0.5".',
        )
    if memory > settings.max_job_memory_bytes:
        raise LimitError(
            f"memory: {size(memory)} is more than the {size(settings.max_job_memory_bytes)} "
            "that a training may have (max_job_memory_bytes)",
            "Ask for less.",
        )
    if cpus > settings.max_job_cpus:
        raise LimitError(
            f"cpus: {cpus:g} is more than the {settings.max_job_cpus:g} cores "
            "that a training may have (max_job_cpus)",
            "Ask for less.",
        )


def check_files(root: Path, asked: Names) -> None:
    """UsageError unless every file that ``asked`` names is in the folder ``root``."""
    inside(root, asked.model, "model")
    params = inside(root, asked.params, "params")
    files = list(dict.fromkeys(_parts(asked.files, "files")))
    _check_listed(root, [split_tree(name, root)[0] for name in files if not _is_elsewhere(name)])
    _check_friends(root, params, files)
    labels = _parts(asked.labels, "labels") if asked.labels.strip() else []  # of a regression
    for name in labels:
        if "/" in name or (len(labels) == 1 and name.lower().endswith(_TABLE)):
            inside(root, name, "labels")


def _is_elsewhere(name: str) -> bool:
    return name.startswith("/store/") or (is_url(name) and scheme_of(name) != "file")


def _check_friends(root: Path, params: Path, files: Sequence[str]) -> None:
    """UsageError unless the friends of these files are in the folder, or elsewhere by a URL.

    Only what is certain is refused: a friend that is named after its file ("{stem}") is looked for
    where ``files`` are ROOT files, not where a list names them. All else the training tells, also
    of the friends of any but the first files.
    """
    try:
        with open_plain(params) as stream:
            found = json.loads(stream.read(MOST_PARAMS))
        friends, redirector = found.get("friends"), found.get("redirector")
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if not isinstance(friends, dict):
        return
    named = {alias: place for alias, place in friends.items() if isinstance(place, str)}
    check_friends(named)
    trees = [name for name in files if not name.lower().endswith(_TABLE)]
    for file in trees[:MOST_FRIENDS] or [""]:
        for alias, place in friends_of(file, "", named).items():
            if _is_elsewhere(place) or (not trees and PLACE.search(named[alias])):
                continue
            if not redirector or _leads_out(place):  # it is asked for what isn't here
                inside(root, split_tree(place, root)[0], f"params: friends: {alias}")


def _check_listed(root: Path, names: Sequence[str]) -> None:
    """UsageError unless each is a file of the folder, or a wildcard or a folder for some of them.

    The training finds which these are; here no link is followed, and of a folder with more than
    MOST_NAMES files a wildcard for none is left to the training.
    """
    loose: dict[PurePosixPath, UsageError] = {}
    for name in names:
        try:
            inside(root, name, "files")
        except UsageError as error:
            path = PurePosixPath(name)
            if _leads_out(name) or len(name) > MOST_LETTERS:
                raise
            loose[path] = error
            if len(loose) > MOST_LOOSE:
                raise UsageError(
                    f"files: more than {MOST_LOOSE} names are wildcards, folders, or of no file,"
                    f" such as {name[:120]!r}",
                    "Put them into a text file of the folder, one per line.",
                ) from None
    looked = _paths(root) if loose else []
    for found in looked:
        loose = {path: error for path, error in loose.items() if not _is_of(found, path)}
    if loose and len(looked) < MOST_NAMES:
        raise next(iter(loose.values()))


def _is_of(found: str, path: PurePosixPath) -> bool:
    """Whether a file is in that folder, or fits that wildcard; * goes across folders, too."""
    in_it = PurePosixPath(found).parent == path and found.endswith(".root")
    return in_it or fnmatchcase(found, str(path).replace("**/", "*"))


def _parts(text: str, what: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{what} is empty", "Name a file of the folder, or a comma list.")
    if len(text) > 100_000 or max(map(len, parts)) > 4096 or not text.isprintable():
        raise UsageError(
            f"{what} holds control characters or is too long",
            "Put the names into a text file of the folder, one per line.",
        )
    return parts


def parse_cpus(text: str) -> float:
    """A number of cores, such as ``2`` or ``0.5``; UsageError unless it is a number above 0."""
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0 < cpus < math.inf:
        raise UsageError(f"cpus: {text[:40]!r} is not a number of cores", 'Write it as "2".')
    return cpus


def inside(root: Path, name: str, what: str) -> Path:
    """The existing file ``name`` of the folder ``root``, else UsageError.

    ``what`` is the option that named it.
    """
    if not name or len(name) > MOST_LETTERS or not name.isprintable():
        raise UsageError(f"{what}: {name[:120]!r} is not a file name", "Name a file of the folder.")
    if _leads_out(name):
        raise UsageError(
            f"{what}: {name!r} leads outside of the folder",
            "Name files relative to the uploaded folder, without '..'.",
        )
    try:
        found = (root / name).resolve()
        exists = found.is_relative_to(root.resolve()) and found.is_file()
    except OSError as error:
        raise UsageError(f"{what}: {name[:120]!r}: {error.strerror}") from error
    if not exists:
        raise UsageError(
            f"{what}: the folder has no file {name!r}", did_you_mean(name, _file_names(root))
        )
    return found


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _file_names(root: Path) -> list[str]:
    """Names of the folder's files; not all of very many."""
    return sorted(_paths(root))


def _paths(root: Path) -> list[str]:
    """The first MOST_NAMES files of the folder, from its top down."""
    found: list[str] = []
    with suppress(OSError):  # a training made what can't be looked into
        files = (each.path for each in walk(root) if each.is_file)
        found.extend(islice(files, MOST_NAMES))
    return found


def check_plain(bundle: Path, most: int) -> None:
    """BundleError when a bundle holds anything but files and folders, or more than ``most`` bytes.

    User code ran there: a link leads out of it, a pipe never ends, many files take long to read.
    """
    if bundle.is_symlink():
        raise BundleError(f"the bundle is a link: {bundle.name}")
    total = 0
    for number, found in enumerate(walk(bundle), 1):
        total += found.status.st_size
        if number > MOST_FILES:
            raise BundleError(f"the bundle holds more than {MOST_FILES} files and folders")
        if total > most:
            raise BundleError(f"the bundle is larger than {size(most)} (max_bundle_bytes)")
        if stat.S_ISLNK(found.status.st_mode):
            raise BundleError(f"the bundle holds a link: {found.name}")
        if not (found.is_file or found.is_folder):
            raise BundleError(f"the bundle holds something that is not a file: {found.name}")
