"""What lists of files say: a name per line, a coffea fileset, Rucio's replicas, a bundle's files.

Nothing here looks whether the files exist, which ``listing.py`` does.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.units import size
from mlaas4hep.sources.names import is_url, scheme_of, split_tree

MOST_BYTES = 64 * 2**20
"""Of a list: it is read as a whole."""
MOST_FILES = 100_000
"""Files that a training can be given."""
_GZIP = b"\x1f\x8b"
_READABLE = ("root", "roots", "xroot", "xrootd", "http", "https", "dav", "davs", "s3")
_NOT_METADATA = ("files", "form", "compressed_form")  # of a dataset; forms are long, and coffea's
_SHAPES = (
    'Lists in JSON are coffea\'s fileset, {"DATASET": {"files": {"FILE": "TREE"}}} or'
    ' {"DATASET": ["FILE"]}; Rucio\'s replicas, {"name": ..., "pfns": {"URL": ...}}; a list of'
    " names; or provenance/files.json of a bundle."
)


@dataclass(frozen=True)
class Listed:
    """One file as a list names it: a path or URL, or FILE:TREE.

    ``where`` says where it stood, such as "line 3 of files.txt". ``replicas`` are other URLs of
    the same file, in the order in which to try them. ``entries``, ``bytes`` and ``uuid`` are what
    the list says of it, None if it doesn't.
    """

    name: str
    where: str = ""
    dataset: str = ""
    replicas: tuple[str, ...] = ()
    entries: int | None = None
    bytes: int | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class FileList:
    """The files that ``--files`` names, resolved: no wildcard, folder or list is among them.

    ``source`` is the option's text, ``metadata`` what a fileset says of each of its datasets.
    """

    files: list[Listed]
    source: str = ""
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, files: FileList | Sequence[str]) -> FileList:
        """The list itself, or one of those names."""
        return files if isinstance(files, FileList) else cls([Listed(name) for name in files])

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """A path or URL of each file, or FILE:TREE."""
        return [file.name for file in self.files]

    @property
    def datasets(self) -> list[str]:
        """The dataset of each file, "" where it has none."""
        return [file.dataset for file in self.files]

    @property
    def labels(self) -> list[str]:
        """The dataset of each file, if all have one; else none."""
        return self.datasets if all(self.datasets) else []

    @property
    def replicas(self) -> dict[str, list[str]]:
        """Other URLs of the files that have any, by name."""
        return {file.name: list(file.replicas) for file in self.files if file.replicas}

    @property
    def entries(self) -> dict[str, int]:
        """How many entries the list says that each file has, by name; may be empty."""
        return {file.name: file.entries for file in self.files if file.entries is not None}


@dataclass(frozen=True)
class Content:
    """What one list says; the names may still be wildcards and folders."""

    files: list[Listed]
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_list(path: Path, shown: str) -> Content:
    """Read a list: text or JSON, also with gzip. ``shown`` is its name in messages.

    A text has one name per line; blank lines and those that begin with # are dropped. Raises
    UsageError that says what the file was taken for, and where it is no list of files.
    """
    text = _text(path, shown).lstrip()
    if text.startswith("<"):
        raise UsageError(
            f"{shown} is HTML or XML, not a list of files: it begins with {text[:40]!r}",
            "A page that asks to sign in was saved, or a metalink: write one name per line (of"
            " rucio list-file-replicas by --pfns).",
        )
    if text.startswith(("{", "[")):
        found = _from_json(text, shown)
    else:
        found = Content(list(_lines(text, shown)))
    if not found.files:
        raise UsageError(f"{shown} names nothing", "Write one name per line.")
    check_number(len(found.files), shown)
    return found


def check_number(files: int, shown: str) -> None:
    """UsageError on more files than a training can be given."""
    if files > MOST_FILES:
        raise UsageError(
            f"{shown} names more than {MOST_FILES} files",
            "Name fewer, or join them (hadd).",
        )


def _text(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as stream:
            zipped = stream.peek(2)[:2] == _GZIP  # without seek, as a pipe has none
            with gzip.open(stream) if zipped else stream as source:
                data = source.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(
                f"{shown} is larger than {size(MOST_BYTES)}, which no list of files is",
                "A ROOT file begins with the letters 'root'. Split a list that is so long.",
            )
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(
            f"{shown} is not a ROOT file, nor a text: {error}",
            "Give ROOT files, or a list of them.",
        ) from None


def _lines(text: str, shown: str) -> Iterable[Listed]:
    found = 0
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        found += 1
        check_number(found, shown)
        yield Listed(name, f"line {number} of {shown}")


def check_line(name: str, where: str) -> None:
    """UsageError saying what is wrong with a name that can be no file's: a table, a CSV, prose."""
    at = f"{where}: " if where else ""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        raise UsageError(f"{at}{name!r} is a path of Windows", "Under WSL C:\\ is /mnt/c/.")
    if not where:
        return
    if name.startswith(("|", "+--")):
        raise UsageError(
            f"{at}{name[:60]!r} is a line of a table", "Let rucio print URLs alone: --pfns."
        )
    odd = r"\s|\.root[,;]" if is_url(name) else r"[\s,;]"
    if len(name) > 4096 or not name.isprintable() or re.search(odd, name):
        raise UsageError(
            f"{at}{name[:200]!r} is not the name of a file",
            "A list has one name per line, and nothing else (of cernopendata-client, what it prints"
            " without --verbose).",
        )


def _from_json(text: str, shown: str) -> Content:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise UsageError(f"{shown} has the key {key!r} twice", "Which one is meant?")
            found[key] = value
        return found

    def load(part: str) -> Any:
        return json.loads(part, object_pairs_hook=pairs)

    try:
        value = load(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise UsageError(f"{shown} begins like JSON, but isn't: {error}", _SHAPES) from None
        value = []
        for number, line in enumerate(text.splitlines(), 1):  # an object a line: Rucio's API
            try:
                value += [load(line)] if line.strip() else []
            except ValueError as other:
                what = f"line {number} of {shown} is not JSON as those before: {other}"
                raise UsageError(what, _SHAPES) from None
    except ValueError as error:  # such as a number of thousands of digits
        raise UsageError(f"{shown} can't be read as JSON: {error}", _SHAPES) from None
    except RecursionError:
        raise UsageError(f"{shown} is nested too deeply", _SHAPES) from None
    try:
        if isinstance(value, dict):
            is_file = _is_rucio(value)
            return Content([_replicas(value, shown)]) if is_file else _fileset(value, shown)
        return Content([_record(one, f"entry {n} of {shown}") for n, one in enumerate(value, 1)])
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise UsageError(f"{shown} has another shape: {error!r}", _SHAPES) from None


def _record(value: Any, where: str) -> Listed:
    if isinstance(value, str):
        return Listed(value, where)
    if isinstance(value, dict) and _is_rucio(value):
        return _replicas(value, where)
    if isinstance(value, dict) and {"name", "tree", "uuid", "entries"} <= value.keys():
        return _of_bundle(value, where)
    raise _other(where, value)


def _other(where: str, value: Any) -> UsageError:
    what = type(value).__name__
    if isinstance(value, dict):
        keys = ", ".join(map(repr, list(value)[:5]))
        what = f"an object with {keys or 'nothing'}{', ...' if len(value) > 5 else ''}"
    return UsageError(f"{where} is {what}, which names no file", _SHAPES)


def _of_bundle(value: dict[str, Any], where: str) -> Listed:
    """A file of ``provenance/files.json``, so that a training can be repeated."""
    name, replicas, label = value["name"], value.get("replicas", []), value.get("label")
    dataset = value.get("dataset") or label or ""
    if not _are_texts([name, value["tree"], dataset, *_listed(replicas)]):
        raise _other(where, value)
    tree = "" if split_tree(name)[1] else value["tree"]
    return Listed(
        _with_tree(name, tree, where),
        where,
        dataset,
        tuple(replicas),
        _whole(value["entries"], where),
        _whole(value.get("size"), where),
        str(value["uuid"]),
    )


def _is_rucio(value: dict[str, Any]) -> bool:
    return "name" in value and ("pfns" in value or "rses" in value)


def _replicas(value: dict[str, Any], where: str) -> Listed:
    """A file as Rucio's API answers, POST /replicas/list: an object, one per line or in a list.

        {"scope": "mc16", "name": "a.root", "bytes": 162088, "adler32": "e2e05678",
         "pfns": {"root://HOST//PATH": {"rse": "SITE_DISK", "type": "DISK", "priority": 1, ...}},
         "rses": {"SITE_DISK": ["root://HOST//PATH"]}, "states": {"SITE_DISK": "AVAILABLE"}}

    (rucio/lib/rucio/client/replicaclient.py, list_replicas.) Replicas that can't be read are left
    out: another protocol, a member of an archive, a site where it is not available. The others
    are sorted by priority, those on tape last.
    """
    pfns, rses, states = (value.get(key) or {} for key in ("pfns", "rses", "states"))
    if not pfns and isinstance(rses, dict):
        pfns = {url: {"rse": rse} for rse, urls in rses.items() for url in _listed(urls)}
    if isinstance(pfns, list) and _are_texts(pfns):
        pfns = dict.fromkeys(pfns)
    about: list[Any] = [one or {} for one in pfns.values()] if isinstance(pfns, dict) else [None]
    whole = all(isinstance(one, dict) for one in (*about, states))
    if not whole or not _are_texts([value["name"], *pfns]):
        raise _other(where, value)
    did = f"{value.get('scope', '')}:{value['name']}".lstrip(":")
    found = []
    for url, one in zip(pfns, about, strict=True):
        if scheme_of(url) not in _READABLE or one.get("client_extract"):
            continue
        if states.get(one.get("rse"), "AVAILABLE") == "AVAILABLE":
            priority = one.get("priority")
            number = priority if isinstance(priority, int) else 0
            found.append((one.get("type") == "TAPE", number, url))
    urls = [url for _, _, url in sorted(found, key=lambda one: one[:2])]
    if not urls:
        what = ", ".join(sorted({f"{scheme_of(url)}://" for url in pfns})) or "none"
        raise UsageError(
            f"{where}: {did} has no replica that can be read: {what}",
            "Ask Rucio for others: --protocols root,davs.",
        )
    return Listed(urls[0], where, "", tuple(urls[1:]), bytes=_whole(value.get("bytes"), where))


def _fileset(value: dict[str, Any], shown: str) -> Content:
    """A fileset of coffea, {DATASET: ...}, in each of its forms; or uproot's {FILE: TREE}.

    A dataset is a list of files, {"files": a list, "treename": TREE} or {"files": {FILE: TREE}},
    where TREE may be {"object_path": TREE, "num_entries": ..., "steps": [[0, 100], ...], "uuid":
    ...} (coffea/dataset_tools/filespec.py). Steps must cover the file, as all of it is read.
    """
    if value and all(".root" in key and _is_tree(one) for key, one in value.items()):
        return Content(list(_files(value, "", "", shown)))
    files: list[Listed] = []
    metadata: dict[str, dict[str, Any]] = {}
    for dataset, spec in value.items():
        where = f"the dataset {dataset!r} of {shown}"
        if not dataset.strip() or not dataset.isprintable():
            raise UsageError(f"{where} has no name that can be a label", "Name it otherwise.")
        about = {}
        given = spec
        if isinstance(spec, dict) and "files" in spec:
            given = spec["files"]
            about = {key: one for key, one in spec.items() if key not in _NOT_METADATA}
        if not isinstance(given, dict | list) or dataset == "files":
            raise _other(shown if dataset == "files" else where, value)
        tree = about.get("treename") or about.get("treeName") or ""
        before = len(files)
        files += _files(given, dataset, tree, where)
        if len(files) == before:
            raise UsageError(f"{where} has no files", "Leave it out, or name its files.")
        if about:
            metadata[dataset] = about
    return Content(files, metadata)


def _files(given: Any, dataset: str, tree: str, where: str) -> Iterable[Listed]:
    if isinstance(given, list):
        given = dict.fromkeys(given, tree or None) if _are_texts(given) else {"": given}
    for name, spec in given.items():
        at = f"{name[:500]} in {where}"
        if not name or not _is_tree(spec):
            raise _other(where, given)
        if not isinstance(spec, dict):
            yield Listed(_with_tree(name, spec or tree, at), where, dataset)
            continue
        if spec.get("format", "root") != "root":
            raise UsageError(f"{at} is {spec['format']!r}, not ROOT", "Give ROOT files.")
        uuid = spec.get("uuid")
        yield Listed(
            _with_tree(name, spec["object_path"], at),
            where,
            dataset,
            entries=_steps(spec, at),
            uuid=None if uuid is None else str(uuid),
        )


def _is_tree(spec: Any) -> bool:
    tree = spec.get("object_path", 0) if isinstance(spec, dict) else spec
    return tree is None or isinstance(tree, str)


def _steps(spec: dict[str, Any], where: str) -> int | None:
    """The number of entries; UsageError where the steps leave some out, as all would be read."""
    entries, steps = _whole(spec.get("num_entries"), where), spec.get("steps")
    if not steps:
        return entries
    if not isinstance(steps[0], list):  # uproot's short form: borders
        steps = list(pairwise(steps))
    end = 0
    for start, stop in steps:
        if start != end:
            break
        end = stop
    else:
        if entries in (None, end):
            return _whole(end, where)
    raise UsageError(
        f"{where}: its steps leave out entries {f'of {entries}' if entries else ''}",
        "All entries of a file are read: use a fileset with all steps, or `nevts` in params.json.",
    )


def _with_tree(name: str, tree: str | None, where: str) -> str:
    if not tree:
        return name
    if split_tree(f"{name}:{tree}") != (name, tree):
        raise UsageError(
            f"{where}: the tree {tree!r} can be named only where the file's name ends in .root",
            "Leave it out, and name the tree by `branch` in params.json.",
        )
    return f"{name}:{tree}"


def _whole(value: Any, where: str) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise UsageError(f"{where}: {value!r} is no number of entries or bytes", _SHAPES)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(one, str) for one in values)
