"""A tree in a ROOT file, read with uproot into plain numpy arrays."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from uproot.source.chunk import Chunk

from mlaas4hep.core.errors import DataError, FileError, did_you_mean
from mlaas4hep.data import Events, FileRecord, Passing, Range
from mlaas4hep.data.mixing import PLACES, cut, spans
from mlaas4hep.sources.columns import (
    BranchInfo,
    Column,
    Place,
    Table,
)
from mlaas4hep.sources.names import is_url, local, split_tree
from mlaas4hep.sources.opening import check_whole, open_file, reading
from mlaas4hep.sources.reader import ALL, Fetch, Reader, SpreadReader
from mlaas4hep.sources.remote import RemoteSource, Traffic
from mlaas4hep.sources.rntuple import Fields
from mlaas4hep.sources.ttree import Branches

WINDOW_BYTES = 16 * 2**20
"""Bytes that a Reader unpacks at a time."""
_PART_BYTES = 2**20
"""Bytes that are rather read at once than in parts."""
_GAP = 64 * 1024
"""Bytes between two baskets that are rather read than jumped over."""
_GAP_REMOTE = 256 * 1024
"""The same between ranges of a remote file."""


def known_trees(name: str) -> list[str]:
    """Names of the trees in the file of that path or URL, with their folders."""
    with open_file(name) as file, reading(name):
        return tree_names(file)


def tree_names(directory: Any) -> list[str]:
    """Names of the trees (TTree, RNTuple) in an open file, with folders, in the file's order."""
    return [name for name, kind in _classes(directory).items() if kind.startswith(_TREES)]


def _classes(directory: Any) -> dict[str, str]:
    found: dict[str, str] = directory.classnames(recursive=True, cycle=False)
    return found


_RNTUPLE = "ROOT::RNTuple"
_TREES = ("TTree", "TNtuple", _RNTUPLE)


def _open_table(file: Any, name: str, tree: str, is_named: bool) -> Table:
    """The tree; without it the file is a bad one, unless ``is_named`` says that FILE:TREE is."""
    with reading(name):
        trees, known = tree_names(file), _classes(file)
        kind = known.get(tree.split(";")[0])
        if kind and kind.startswith(_TREES):
            return Fields(file[tree]) if kind == _RNTUPLE else Branches(file[tree])
    if kind is None:
        kind_of_error = DataError if is_named else FileError
        raise kind_of_error(
            f"{name}: no tree {tree!r}",
            f"{did_you_mean(tree, trees)} Name it as FILE:TREE, or for all files by `branch` in"
            " params.json (--branch of predict, --tree of inspect).",
        )
    raise DataError(f"{name}: {tree!r} is a {kind}, not a tree", did_you_mean(tree, trees))


def _plain(file: Any, tree: str) -> str:
    """The name without its cycle (``Events;2``) if that is the newest, which the name alone means.

    So that one tree has one name.
    """
    name = tree.split(";")[0]
    same = name == tree or file.key(name).fCycle == file.key(tree).fCycle
    return name if same else tree


class RootFile:
    """An open file and one tree of it; the newest cycle where there are several.

    ``name`` is the path or URL, with the tree if it was named so (FILE:TREE), ``uuid`` ROOT's own,
    ``size`` in bytes (None where the server doesn't tell), ``entries`` the number of events. Every
    failure is a DataError that names the file, and the branch if it is about one. ``friends`` are
    other trees of as many entries, whose branches are the file's as ``FRIEND.branch``.
    """

    def __init__(
        self,
        name: str,
        tree: str = "Events",
        friends: Mapping[str, str] | None = None,
        is_friend: bool = False,
        replicas: Sequence[str] = (),
        uuid: str | None = None,
    ) -> None:
        """``tree`` is the one to open unless ``name`` is FILE:TREE.

        ``friends`` are given by name, each as FILE:TREE, or FILE if the tree has that name. A tree
        to be one (``is_friend``) is refused if it has an index. ``replicas`` are other URLs of a
        remote file, which are tried in order when ``name`` can't be read, or hasn't this ``uuid``.
        """
        self.name = local(name)
        self.friends: dict[str, RootFile] = {}
        self._path, named = split_tree(self.name)
        self.tree = tree = named or tree
        # By default uproot doesn't read what index a tree has.
        self._opened_as = _state(self._path)
        self._file = open_file(
            self._path, replicas, uuid=uuid, minimal_ttree_metadata=not is_friend
        )
        self._read = Traffic(replica=self._path)
        self._descriptor = -1
        name = self._path
        try:
            self._table = _open_table(self._file, name, tree, bool(named))
            self.tree = _plain(self._file, tree)
            self.entries = self._table.entries
            if is_friend:
                self._refuse_index()
            with reading(name):
                self.uuid = str(self._file.file.uuid)
                self.size = self._size()
                check_whole(name, self.size, int(self._file.file.fEND))
                if not is_url(name):
                    self._descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            for friend, place in (friends or {}).items():
                self._befriend(friend, place)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        for friend in self.friends.values():
            friend.close()
        self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _befriend(self, name: str, place: str) -> None:
        """Open a friend; DataError if its entries can't be those of the events by position."""
        try:
            friend = self.friends[name] = RootFile(place, name, is_friend=True)
        except DataError as error:
            kind = FileError if isinstance(error, FileError) else DataError
            raise kind(f"friends: {name}: {error.message}", error.remedy) from None
        if friend.entries != self.entries:
            raise DataError(
                f"friends: {self.name} has {self.entries} entries in the tree {self.tree}, its"
                f" friend {name}, {friend.name}, has {friend.entries} in the tree {friend.tree}",
                "Write the friend with an entry for each event, in the events' order.",
            )

    def _refuse_index(self) -> None:
        with reading(self._path):
            has_index = self._table.has_index
        if has_index:
            raise DataError(
                f"the tree {self.tree} of {self._path} has an index (TTree::BuildIndex), by which"
                " ROOT matches its entries to events; here they are matched by position",
                "Write it without index, with an entry for each event in the events' order, such as"
                " by RDataFrame(tree_with_its_friend).Snapshot(...).",
            )

    def check_unchanged(self) -> None:
        """FileError if somebody wrote into the file, or a friend, since it was opened.

        What was read may then be of two versions. Of a local file that another one replaced
        (``mv``), or that was removed, the old content is still read: ``is_replaced``. Of a remote
        file each read checks it, but of one that is read through a cache.
        """
        for file in (self, *self.friends.values()):
            if isinstance(source := file._file.file.source, RemoteSource):
                source.confirm()
            if file._descriptor >= 0 and _state(file._descriptor) != file._opened_as:
                error = FileError(
                    f"{file._path} was changed while it was read", "Train when it is complete."
                )
                error.file, error.source = self.name, self
                raise error

    @property
    def is_replaced(self) -> bool:
        """Whether another file, or none, has its name by now, or that of a friend."""
        return any(
            file._descriptor >= 0 and _state(file._path) != file._opened_as
            for file in (self, *self.friends.values())
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Name this file in a FileError, also in that of a friend."""
        try:
            yield
        except FileError as error:
            self.check_unchanged()
            error.file, error.source = self.name, self
            raise

    def _size(self) -> int | None:
        try:
            return int(self._file.file.source.num_bytes)
        except Exception:
            return None

    @property
    def traffic(self) -> Traffic:
        """What was read of the file so far, without friends; of a local one, too."""
        source = self._file.file.source
        if isinstance(source, RemoteSource):
            return source.traffic
        read, opening = self._read, source.performance_counters
        return replace(
            read,
            bytes=read.bytes + opening.num_requested_bytes,
            requests=read.requests + opening.num_requests,
        )

    @property
    def record(self) -> FileRecord:
        """The file as the specs know it."""
        friends = tuple(friend.record for friend in self.friends.values())
        return FileRecord(self.name, self.uuid, self.size, self.entries, self.tree, friends)

    @cached_property
    def branches(self) -> dict[str, BranchInfo]:
        """All branches by name, in the tree's order; parts of an object as ``object/part``.

        The parts of an RNTuple's records are ``object.part``. Those of friends follow, as
        ``FRIEND.branch``.
        """
        with self._reading(), reading(self._path):
            found = self._table.infos()
        for name, friend in self.friends.items():
            for info in (each.of_friend(name) for each in friend.branches.values()):
                if info.name in found:
                    raise DataError(
                        f"friends: {info.name} is a branch of the tree {self.tree} of {self.name},"
                        f" and one of {friend.name} would have that name",
                        f"Give the friend another name than {name}.",
                    )
                found[info.name] = info
        return found

    def read(self, branches: Sequence[str], start: int = 0, stop: int | None = None) -> Events:
        """Events ``start:stop`` of the branches; memory is that of these events."""
        stop = self.entries if stop is None else min(stop, self.entries)
        start = min(start, stop)
        with self._reading():
            return self.reader(branches, 1, start, stop).take(stop - start)

    def reader(
        self,
        branches: Sequence[str],
        window_bytes: int = WINDOW_BYTES,
        start: int = 0,
        stop: int | None = None,
    ) -> Reader:
        """Reads ``start:stop`` of the branches from start to end, see Reader."""
        stop = self.entries if stop is None else min(stop, self.entries)
        columns = {name: self._column(name) for name in branches}
        return Reader(columns, start, stop, window_bytes, self._fetch(), self._guard)

    def blocks(
        self,
        branches: Sequence[str],
        ranges: Sequence[Range],
        step: int,
        passing: Passing = ALL,
    ) -> Iterator[tuple[int, int, Events]]:
        """The ranges from the first to the last, ``step`` entries at most at a time.

        Each as (start, stop, those of the events that pass); memory is that of a Reader.
        """
        if not ranges:
            return
        with self._reading():
            reader = self.reader(branches, start=ranges[0][0], stop=ranges[-1][1])
            for begin, end in ranges:
                reader.position = begin
                while (start := reader.position) < end:
                    events = reader.take(min(step, end - start))
                    yield start, reader.position, passing.of(events, start, reader.position)
            self.check_unchanged()

    def spread(
        self,
        branches: Sequence[str],
        ranges: Sequence[Range],
        max_bytes: int,
        turn: int,
        passing: Passing = ALL,
    ) -> SpreadReader:
        """Reads the ranges so that each ``turn`` entries are a sample of all, see SpreadReader.

        A part is a cluster, between entries at which the baskets of all branches begin. Small ones
        are read together; one of more than two baskets a branch may be divided, and a basket that
        lies across a cut is unpacked for both sides. As many parts are in memory as are needed for
        PLACES of them in a turn, fewer where they exceed ``max_bytes``, but one at least.
        The order depends on file, branches and these numbers alone.
        """
        columns = {name: self._column(name) for name in branches}
        sizes = [column.unpacked for column in columns.values()]
        event = max(1.0, sum(float(size.sum()) for size in sizes) / max(1, self.entries))
        basket = sum(float(size.max(initial=0)) for size in sizes)
        events = sum(stop - start for start, stop in ranges)
        # A buffer of a turn, out of which chance takes, has events of as many pieces as 2 turns.
        piece = max(1, 2 * turn // PLACES) if turn < events else events
        most = min(max(piece * event, _PART_BYTES), WINDOW_BYTES, max_bytes // PLACES)
        common = reduce(np.intersect1d, [column.entry_offsets for column in columns.values()])
        borders = [
            border
            for cluster in pairwise(common.tolist())
            for border, _ in cut(*cluster, int(max(most, 2 * basket) / event))
        ]
        parts = spans(ranges, borders, int(most / event))
        largest = max((part[-1][1] - part[0][0] for part in parts), default=1) * event
        passed = 2 * turn * len(parts) // max(1, events)
        wanted = max(1, min(PLACES - passed, len(parts))) if turn < events else 1
        at_once = max(1, min(wanted, int(max_bytes / largest)))
        fetch = self._fetch()

        def read(start: int, stop: int) -> Reader:
            own = {name: copy(column) for name, column in columns.items()}
            reader = Reader(own, start, stop, WINDOW_BYTES, fetch, self._guard)
            with self._reading():
                reader.load()
            return reader

        return SpreadReader(
            parts, read, piece, at_once, min(PLACES, at_once + passed), at_once < wanted, passing
        )

    def _guard(self, branch: str) -> Any:
        return reading(self._of_branch(branch)._path, branch)

    def _of_branch(self, name: str) -> RootFile:
        """The file that holds a branch: this one or a friend."""
        friend = self.branches[name].friend
        return self.friends[friend] if friend else self

    def _column(self, name: str) -> Column:
        if name not in self.branches:
            raise DataError(
                f"{self.name}: no branch {name!r} in the tree {self.tree}",
                did_you_mean(name, self.branches),
            )
        info = self.branches[name]
        if info.kind == "unsupported":
            raise DataError(
                f"{self.name}: the branch {name} ({info.type}) can't be used:"
                " it holds neither a number nor a list of numbers nor a text in every event",
                "Use other branches.",
            )
        file = self._of_branch(name)
        with self._reading(), reading(file._path, name):
            return file._table.column(info.own_name)

    def _fetch(self) -> Fetch:
        """How a Reader gets bytes: of each branch from its file."""
        fetches = {file: file._fetch_own() for file in (self, *self.friends.values())}

        def fetch(wanted: list[tuple[str, Place]]) -> Iterator[Any]:
            files = [self._of_branch(name) for name, _ in wanted]
            places: dict[RootFile, list[Place]] = {file: [] for file in files}
            for file, (_, place) in zip(files, wanted, strict=True):
                places[file].append(place)
            chunks = {file: fetches[file](own) for file, own in places.items()}
            return (next(chunks[file]) for file in files)

        return fetch

    def _fetch_own(self) -> Any:
        """Bytes of this file: a local one by position into one buffer that is used again."""
        buffer = np.empty(0, np.uint8)

        def local(spans: list[Place]) -> Iterator[np.ndarray]:
            nonlocal buffer
            total = sum(stop - start for start, stop in spans)
            if total > len(buffer):
                buffer = np.empty(total, np.uint8)
            used = 0
            for start, stop in spans:
                view = buffer[used : used + stop - start]
                self._read_into(view, start)
                yield view
                used += stop - start

        def remote(spans: list[Place]) -> Iterator[np.ndarray]:
            return (np.frombuffer(data, np.uint8) for data in source.read(spans))

        source = self._file.file.source
        read, gap = (remote, _GAP_REMOTE) if is_url(self._path) else (local, _GAP)

        def fetch(ranges: list[Place]) -> Iterator[Any]:
            spans = _join_near(ranges, gap)
            firsts = [start for start, _ in spans]
            with reading(self._path):
                found = zip(read(spans), firsts, strict=True)
                chunks = [Chunk.wrap(source, data, start) for data, start in found]
            return (chunks[bisect_right(firsts, start) - 1] for start, _ in ranges)

        return fetch

    def _read_into(self, view: np.ndarray, start: int) -> None:
        filled = 0
        while filled < len(view):
            count = os.preadv(self._descriptor, [view[filled:].data], start + filled)
            if not count:
                raise OSError(f"the file ends at byte {start + filled}, within a basket")
            filled += count
            self._read.bytes += count
            self._read.requests += 1


def _state(file: str | int) -> tuple[int, int, int, int] | None:
    """What changes when a local file, by path or descriptor, is replaced or written to."""
    if isinstance(file, str) and is_url(file):
        return None
    try:
        found = os.fstat(file) if isinstance(file, int) else Path(file).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _join_near(ranges: list[Place], gap: int) -> list[Place]:
    """The byte ranges sorted, with those that lie close together as one."""
    spans: list[Place] = []
    for start, stop in sorted(ranges):
        if spans and start - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans
