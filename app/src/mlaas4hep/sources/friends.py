"""The files of a training or prediction, each with its friends: trees matched entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from mlaas4hep.core.errors import DataError, FileError
from mlaas4hep.data import Jagged
from mlaas4hep.sources.filelist import Listed
from mlaas4hep.sources.names import friends_of, local
from mlaas4hep.sources.root import RootFile

_STEP = 1 << 16  # entries that are compared at once
_ALIGN = "Write the friend again, with an entry for each event, in the events' order."


def open_files(
    names: Sequence[str],
    tree: str,
    friends: Mapping[str, str],
    identifier: Sequence[str],
    stack: ExitStack,
    find: Callable[[str], str] = str,
    try_all: bool = False,
    listed: Sequence[Listed] = (),
) -> list[RootFile]:
    """Open the files with their friends; ``stack`` closes them.

    ``listed`` is what a list says of each: its replicas, its entries, bytes and UUID.

    A file that can't be read, or is another than the list says, is a FileError; with ``try_all`` it
    is raised after all were tried.

    ``find`` gives the path or URL of a friend that is named. Raises DataError as RootFile does;
    on one tree that would be the friend of several files, each of whose entries can't be those of
    all; and on an entry in which a branch of ``identifier`` that both have differs.
    """
    files: list[RootFile] = []
    failed: list[FileError] = []
    users: dict[tuple[str, str, str], str] = {}
    for name, said in zip(names, listed or [Listed(name) for name in names], strict=True):
        wanted = friends_of(name, tree, friends)
        try:
            places = {k: _found(k, place, find) for k, place in wanted.items()}
            uuid = said.uuid and said.uuid.lower()
            file = stack.enter_context(
                RootFile(name, tree, places, replicas=said.replicas, uuid=uuid)
            )
            if error := _unlike_listed(file, said):
                raise error
        except FileError as bad:
            bad.file = local(name)
            if not try_all:
                raise
            failed.append(bad)
            continue
        files.append(file)
        for alias, friend in file.friends.items():
            user = users.setdefault((alias, friend.uuid, friend.tree), file.name)
            if user != file.name:
                raise DataError(
                    f"friends: {alias}: the tree {friend.tree} of {friend.name} would be the friend"
                    f" of {user} and of {file.name}",
                    'Name a friend for each file, such as "{dir}/{stem}_friend.root".',
                )
            _check_order(file, alias, friend, identifier)
    raise_all(failed)
    return files


def _unlike_listed(file: RootFile, said: Listed) -> FileError | None:
    """The error where the file isn't what the list says, such as how many entries it has."""
    for what, expected, found in (
        ("entries", said.entries, file.entries),
        ("bytes", said.bytes, file.size),
        ("as UUID", said.uuid and said.uuid.lower(), file.uuid),
    ):
        if None not in (expected, found) and expected != found:
            error = FileError(
                f"{file.name} has {found} {what}, but {expected} by {said.where}",
                "It was replaced since the list was made, or copied in part: make the list again,"
                " or name the file without one.",
                file.name,
            )
            error.source = file
            return error
    return None


def raise_all(failed: list[FileError]) -> None:
    """Raise the first error, if any, with the others."""
    if failed:
        failed[0].others = failed[1:]
        raise failed[0]


def _found(alias: str, place: str, find: Callable[[str], str]) -> str:
    try:
        return find(place)
    except DataError as error:
        kind = FileError if isinstance(error, FileError) else DataError
        raise kind(f"friends: {alias}: {error.message}", error.remedy) from None


def _check_order(file: RootFile, alias: str, friend: RootFile, identifier: Sequence[str]) -> None:
    """DataError naming the first entry of which both say that it is another event."""
    pairs = {
        name: f"{alias}.{name}"
        for name in identifier
        if all(
            (info := each.branches.get(name)) and info.kind == "flat" and not info.is_real
            for each in (file, friend)
        )
    }
    for start, _, events in file.blocks([*pairs, *pairs.values()], [(0, file.entries)], _STEP):
        for name, theirs in pairs.items():
            ours, others = events[name], events[theirs]
            assert not isinstance(ours, Jagged)  # noqa: S101
            assert not isinstance(others, Jagged)  # noqa: S101
            if (differ := np.flatnonzero(ours != others)).size:
                at = int(differ[0])
                raise DataError(
                    f"friends: {alias}: entry {start + at} is {name} {others[at]} in {friend.name},"
                    f" {ours[at]} in {file.name}",
                    _ALIGN,
                )
