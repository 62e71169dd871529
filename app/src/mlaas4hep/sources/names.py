"""Where a file of the list is: here, at its URL, or behind the redirector; and its tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from mlaas4hep.core.errors import DataError, FileError, UsageError
from mlaas4hep.core.origins import Doors

PLACE = re.compile(r"\{([^{}]*)\}")
"""What a friend's place has instead of its file's: ``{stem}``."""
_PLACES = ("dir", "stem", "file", "tree")
MOST_FRIENDS = 100
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_WITH_TREE = re.compile(r"(.+\.root(?:\.\d+)?):([^/:][^:]*)")
_SERVER = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/]*)?")


def is_url(name: str) -> bool:
    """Whether the name says by itself how it is reached: root://, http(s)://, s3://."""
    return bool(_URL.match(name))


def scheme_of(name: str) -> str:
    """What stands before ``://``, in lower case; "" for a path."""
    found = _URL.match(name)
    return found[1].lower() if found else ""


def local(name: str) -> str:
    """The path that ``file:/PATH``, ``file:///PATH`` and ``~/PATH`` mean; other names as is."""
    if name[:5].lower() == "file:":
        path = name[5:].removeprefix("//").removeprefix("localhost")
        return path if path.startswith("/") else name
    if name.startswith("~"):
        try:
            return str(Path(name).expanduser())
        except RuntimeError:  # nobody of that name
            return name
    return name


def split_tree(name: str, cwd: Path | None = None) -> tuple[str, str]:
    """File and tree of FILE:TREE, as uproot writes it; the tree is "" where none is named.

    FILE ends in .root, or as in .root.1; the port of a server isn't taken for a tree. A file whose
    whole name exists (below ``cwd``) is just that file.
    """
    server = _SERVER.match(name)
    start = server.end() if server else 0
    found = _WITH_TREE.fullmatch(name, start)
    if not found or (not start and exists((cwd or Path()) / name)):
        return name, ""
    return name[: found.end(1)], found[2].rstrip("/")


def check_friends(friends: Mapping[str, str]) -> None:
    """UsageError unless each has a name that branches can begin with, and says where it is.

    They are bounded, as their places are filled in for each file.
    """
    if len(friends) > MOST_FRIENDS:
        raise UsageError(f"friends: {len(friends)} are given", f"Name {MOST_FRIENDS} at most.")
    for name, place in friends.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            raise UsageError(
                f"friends: {name[:100]!r} can't be the name of a friend",
                "Use letters, digits and _: its branches are NAME.branch.",
            )
        if not place.strip():
            raise UsageError(f"friends: {name}: no file is named", "Write FILE or FILE:TREE.")
        if len(place) > 1024 or len(PLACE.findall(place)) > 8:
            raise UsageError(
                f"friends: {name}: {place[:100]!r}... is too long",
                "Write up to 1024 letters, with up to 8 of {dir}, {stem}, {file} and {tree}.",
            )
        if odd := next((k for k in PLACE.findall(place) if k not in _PLACES), None):
            raise UsageError(
                f"friends: {name}: {{{odd[:100]}}} stands for nothing",
                "{dir}, {stem}, {file} and {tree} stand for the folder of the events' file, its"
                " name without .root, the file itself and its tree.",
            )


def friends_of(name: str, tree: str, friends: Mapping[str, str]) -> dict[str, str]:
    """Where the friends of a file are: FILE or FILE:TREE by the friend's name.

    ``tree`` is the file's own unless ``name`` is FILE:TREE.
    """
    file, named = split_tree(local(name))
    folder, slash, last = file.rpartition("/")
    stands_for = {
        "dir": folder if slash else ".",
        "stem": last.removesuffix(".root"),
        "file": file,
        "tree": named or tree,
    }
    return {k: PLACE.sub(lambda at: stands_for[at[1]], place) for k, place in friends.items()}


def missing(name: str, remedy: str) -> DataError:
    """The error "no such file", with the reason where the name tells it, else ``remedy``."""
    return misread(name) or FileError(f"no such file: {name}", remedy)


def misread(name: str) -> DataError | None:
    """The error for a name that is no file's: one with wildcards."""
    if any(c in name for c in ("*" if is_url(name) else "*?[")):
        return DataError(
            f"no such file: {name}: wildcards are not expanded",
            "List the files: one name per line in a text file, or joined by commas.",
        )
    return None


def resolve(name: str, redirector: str, cwd: Path) -> str:
    """The path or URL to open for a name in the list of files, with ``:TREE`` if it has that.

    - A URL is used as it is; ``file:/PATH`` and ``~/PATH`` are paths.
    - A relative name that exists in ``cwd`` is that file; it stays relative if that is the
      working directory, so that messages and provenance name it as the user did.
    - A name that starts with /store and doesn't exist here, or a relative one that doesn't, is
      asked of the ``redirector`` ("" = none); without one, /store of the first server behind the
      installation's cache, if it has one.
    - Any other missing path is FileError "no such file", at once.
    """
    file, tree = split_tree(local(name), cwd)
    return _resolve(file, redirector, cwd) + (tree and f":{tree}")


def _resolve(name: str, redirector: str, cwd: Path) -> str:
    if is_url(name):
        return name
    path = cwd / name
    if exists(path):
        return name if cwd == Path.cwd() else str(path)
    if error := misread(name):
        raise error
    remote = not name.startswith("/") or name == "/store" or name.startswith("/store/")
    if remote and redirector:
        slash = "/" if redirector.startswith("http") else "//"
        return f"{redirector.rstrip('/')}{slash}{name.lstrip('/')}"
    if remote and name.startswith("/") and (doors := Doors.of_environment()):
        return f"root://{doors.origins[0]}/{name}"
    remedy = "Give a path that exists, or a URL such as root://HOST//PATH."
    if remote:
        remedy = (
            "Give a path that exists, or, if it lies on the grid, set redirector in params.json"
            " (--redirector of predict), for instance root://xrootd-cms.infn.it."
        )
    raise FileError(f"no such file: {path}", remedy)


def exists(path: Path) -> bool:
    """Whether there is a file or folder of that path, which may be no path at all."""
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False


def fits(pattern: str, name: str) -> bool:
    """Whether the pattern is the file's name or a wildcard for it, with or without its folder."""
    whole = name, name.rsplit("/", 1)[-1]
    return pattern in whole or any(fnmatchcase(each, pattern) for each in whole)
