"""Which files are meant: names, wildcards, folders and lists, here or on a server, made a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import iglob
from itertools import islice
from pathlib import Path

from mlaas4hep.core.errors import UsageError, did_you_mean
from mlaas4hep.sources.filelist import (
    MOST_FILES,
    Content,
    FileList,
    Listed,
    check_line,
    check_number,
    read_list,
)
from mlaas4hep.sources.names import exists, is_url, local, scheme_of, split_tree

_LISTS = (".txt", ".csv", ".lst", ".list", ".dat", ".json", ".ndjson", ".jsonl", ".gz")
Given = str | Path | Sequence[str | Path]
"""A text as ``--files`` takes it, or names one by one."""
_WILDCARDS = re.compile(r"[*?[]")


def list_files(given: Given, cwd: Path, option: str) -> FileList:
    """The files that a text names, as ``--files`` takes it, or a sequence of such names.

    A text is names joined by commas. Each is a path or URL, or FILE:TREE; a wildcard; a folder,
    whose *.root are meant, also at a URL that ends in a slash; or a list (``read_list``), of such
    names again. Lists keep their order, wildcards and folders are sorted by name. Paths are
    relative to ``cwd``. Raises UsageError that says what is wrong and where it stood.
    """
    source = str(given) if isinstance(given, str | Path) else ",".join(map(str, given))
    if not source.strip():
        raise UsageError(f"{option} is empty", "Name files, joined by commas, or a list of them.")
    try:
        return _all(_split(source, cwd) if isinstance(given, str | Path) else given, cwd, source)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", error.remedy) from None


def _split(text: str, cwd: Path) -> list[str]:
    whole = text.strip()
    if exists(cwd / local(whole)) and whole:
        return [whole]
    return [name for name in map(str.strip, text.split(",")) if name and not name.startswith("#")]


def _all(items: Sequence[str | Path], cwd: Path, source: str) -> FileList:
    if not items:
        raise UsageError(f"{source} names nothing", "Name files, joined by commas.")
    files: list[Listed] = []
    metadata = {}
    for item in items:
        content = _content(str(item), cwd)
        metadata.update(content.metadata)
        for file in content.files:
            files += islice(_expand(file, cwd), MOST_FILES + 1 - len(files))
            check_number(len(files), source)
    _refuse_twice(files)
    return FileList(files, source, metadata)


def _refuse_twice(files: Sequence[Listed]) -> None:
    seen: dict[str, Listed] = {}
    for file in files:
        first = seen.setdefault(file.name, file)
        if first is not file:
            places = dict.fromkeys(filter(None, (first.where, file.where)))
            raise UsageError(
                f"it names {file.name!r} twice{': ' * bool(places)}{' and '.join(places)}",
                "Its events would be in training and test at once. Two trees of one file are"
                " FILE:TREE each.",
            )


def _content(item: str, cwd: Path) -> Content:
    path = cwd / local(item)
    if path.is_fifo() or (path.is_file() and not _is_root(path)):  # also of bash's <(...)
        return read_list(path, item)
    named = path.suffix in _LISTS and not is_url(item)
    if named and not _WILDCARDS.search(item) and not exists(path):
        raise UsageError(f"no such file: {item}", f"Looked in {cwd}.")
    return Content([Listed(item)])


def _is_root(file: Path) -> bool:
    if file.suffix == ".root":
        return True
    with file.open("rb") as stream:
        head = stream.read(5)
    return head[:4] == b"root" and head != b"root:"  # a list may begin with a root:// address


def _expand(listed: Listed, cwd: Path) -> Iterator[Listed]:
    """The files that one name stands for."""
    at = f"{listed.where}: " if listed.where else ""
    name, tree = split_tree(local(listed.name), cwd)
    if is_url(name):
        check_line(name, listed.where)
        address, query = _without_query(name)
        folder, _, last = address.rpartition("/")
        if last and "*" not in last:
            yield listed
            return
        found: Iterable[str] = _on_server(f"{folder}/", query, last or "*.root", at)
    else:
        path = cwd / name
        if path.is_dir():
            found = (f"{name.rstrip('/')}/{each}" for each in _in_folder(path, listed))
        elif exists(path) or not _WILDCARDS.search(name):
            if not exists(path):
                check_line(listed.name, listed.where)
            elif listed.where and path.suffix in _LISTS and not _is_root(path):
                raise UsageError(f"{at}{name} is a list in a list", "Put its names here.")
            yield listed
            return
        else:
            found = _matching(name, cwd, at)
    if listed.entries is not None or listed.uuid or listed.bytes or listed.replicas:
        raise UsageError(f"{at}{name} is described as one file, but names several", "Name a file.")
    for each in found:
        yield replace(listed, name=each + (tree and f":{tree}"))


def _in_folder(path: Path, listed: Listed) -> list[str]:
    try:
        names = sorted(each.name for each in path.iterdir())
    except OSError as error:
        raise UsageError(f"{listed.name}: {error.strerror}", "Name a folder to be read.") from None
    shown = [name for name in names if name.endswith(".root") and name[0] != "."]
    found = [name for name in shown if (path / name).is_file()]
    if not found:
        at = f"{listed.where}: " if listed.where else ""
        raise UsageError(
            f"{at}the folder {listed.name} holds no *.root",
            f"{did_you_mean('.root', names)} Those of subfolders are '{listed.name}/**/*.root'.",
        )
    return found


def _matching(name: str, cwd: Path, at: str) -> list[str]:
    matches = iglob(name, root_dir=cwd, recursive=True)  # noqa: PTH207  (names stay relative)
    known = list(islice(matches, MOST_FILES + 1))
    check_number(len(known), name)
    found = sorted(each for each in known if (cwd / each).is_file())
    if found:
        return found
    remedy = "Wildcards are *, ?, [ab], and ** for folders; quote them, as in 'data/*.root'."
    if name.startswith("/store/"):
        remedy = f"It is not here. On a server: root://HOST/{name}."
    else:
        folder = cwd / _WILDCARDS.split(name, maxsplit=1)[0].rpartition("/")[0]
        if not folder.is_dir():
            remedy = f"There is no folder {folder}."
        elif inside := sorted(each.name for each in islice(folder.iterdir(), 1000)):
            remedy += f" {folder} holds {', '.join(inside[:5])}{', ...' * (len(inside) > 5)}."
    raise UsageError(f"{at}no file matches {name}", remedy)


def _without_query(url: str) -> tuple[str, str]:
    """The URL up to its query, and the query with its question mark; in s3:// there is none."""
    start = -1 if scheme_of(url) == "s3" else url.find("?")
    return (url, "") if start < 0 else (url[:start], url[start:])


def _on_server(folder: str, query: str, pattern: str, at: str) -> list[str]:
    """URLs of the files in a folder there that fit the pattern, sorted; not in its subfolders.

    The query, such as one with a token, is the folder's and each file's.
    """
    from mlaas4hep.sources.opening import list_folder  # which loads uproot

    names = sorted(list_folder(folder + query))
    shown = [name for name in names if name[0] != "." or pattern[0] == "."]
    found = [name for name in shown if fnmatchcase(name, pattern)]
    if not found:
        remedy = f"It holds {', '.join(names[:5])}{', ...' * (len(names) > 5)}." if names else ""
        raise UsageError(f"{at}no file of {folder} matches {pattern}", remedy or "It is empty.")
    for name in found:
        if not name.isprintable() or re.search(r"[?#\s/]", name) or split_tree(folder + name)[1]:
            raise UsageError(
                f"{at}{folder} has a file that no URL can name: {name!r}",
                "Let it be renamed, or name the others one by one.",
            )
    return [f"{folder}{name}{query}" for name in found]
