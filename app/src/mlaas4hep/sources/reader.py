"""Reading a tree from start to end, or so that every stretch is a sample of it.

Whole baskets are read, each decompressed once, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import numpy as np

from mlaas4hep.data import Events, Jagged, Passing, Range
from mlaas4hep.data.mixing import cut, scattered
from mlaas4hep.sources.columns import Column, Place, SharedOffsets, UnreadableError

Fetch = Callable[[list[tuple[str, Place]]], Iterator[Any]]
"""Gives a filled uproot Chunk for each byte range of a branch, in order."""
ALL = Passing()
"""Without a selection."""
Guard = Callable[[str], AbstractContextManager[None]]
"""Turns whatever fails while that branch is read into an error that names file and branch."""


class Reader:
    """Reads branches of a tree one block of events after the other.

    Data is read in windows that end where baskets do: a window holds every basket that starts in
    it, so none is decompressed twice. Memory, whatever the size of the file: twice
    ``window_bytes`` (as on disk, and unpacked), the events asked for at a time, and one basket per
    branch where baskets of different branches don't end together; also uproot's own table of
    baskets (about 24 bytes each).
    """

    def __init__(
        self,
        columns: dict[str, Column],
        start: int,
        stop: int,
        window_bytes: int,
        fetch: Fetch,
        guard: Guard,
    ) -> None:
        self.position = start
        """Entry at which the next ``take`` starts; events may be passed over by setting it."""
        self.stop = stop
        self._columns = columns
        self._loaded = start
        self._window_bytes = window_bytes
        self._fetch = fetch
        self._guard = guard
        for column in columns.values():
            column.start_at(start)

    @cached_property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        return _basket_starts(list(self._columns.values()), self._loaded, self.stop)

    def take(self, n: int) -> Events:
        """The next ``n`` events, fewer at the end; branches share offsets where lists do.

        The arrays are views of a window; they stay valid and unchanged as long as they are kept.
        """
        start, stop = self.position, min(self.position + n, self.stop)
        if stop > self._loaded:
            self._load(stop)
        events: dict[str, np.ndarray | Jagged] = {}
        cuts: dict[int, np.ndarray] = {}
        for name, column in self._columns.items():
            begin, end = (start - column.first, stop - column.first) if stop > start else (0, 0)
            if column.offsets is None:
                events[name] = column.content[begin:end]
                continue
            key = id(column.offsets)
            if key not in cuts:
                cuts[key] = column.offsets[begin : end + 1]
            events[name] = Jagged(cuts[key], column.content)
        self.position = stop
        return events

    def load(self) -> None:
        """Read all up to ``stop`` at once; ``position`` may then be set to any entry."""
        self._load(self.stop)

    def _load(self, stop: int) -> None:
        """Read the next window, at least up to the entry ``stop``."""
        if self.position > self._loaded:
            self._loaded = self.position
            for column in self._columns.values():
                column.start_at(self.position)
        until = self.stop if stop == self.stop else self._end_of_window(stop)
        wanted = {name: column.baskets_before(until) for name, column in self._columns.items()}
        chunks = self._fetch(
            [
                (name, place)
                for name, baskets in wanted.items()
                for _, places in baskets
                for place in places
            ]
        )
        shared: SharedOffsets = {}
        unreadable: list[UnreadableError] = []
        for name, baskets in wanted.items():
            column = self._columns[name]
            held = [(number, [next(chunks) for _ in places]) for number, places in baskets]
            try:
                with self._guard(name):
                    pieces = []
                    for number, parts in held:
                        piece = column.decode(number, parts)
                        first = int(column.entry_offsets[number])
                        pieces.append(piece.part(column.stop - first, self.stop - first))
                    column.extend(pieces, self.position, shared)
            except UnreadableError as error:
                unreadable.append(error)
        if unreadable:
            reasons = {name: why for e in unreadable for name, why in e.branches.items()}
            raise UnreadableError(unreadable[0].file, reasons)
        for name, column in self._columns.items():
            if column.stop < until:
                with self._guard(name):  # its list of baskets is not that of the tree's entries
                    raise ValueError(f"it holds entries up to {column.stop}, not to {until}")
        self._loaded = until

    def _end_of_window(self, stop: int) -> int:
        """The entry, ``stop`` or later, up to which the next window goes."""
        starts, sizes = self._windows
        begin = int(np.searchsorted(starts, self._loaded))
        read = sizes[begin - 1] if begin else 0
        fitting = int(np.searchsorted(sizes, read + self._window_bytes, "right"))
        end = max(fitting, int(np.searchsorted(starts, stop)))
        return int(starts[end]) if end < len(starts) else self.stop


class SpreadReader:
    """Reads the parts of a tree in rounds, so that each stretch is a sample of the whole.

    A round is ``at_once`` parts or fewer, evenly spaced along the tree, each of which ``read``
    gives with all of it in memory. They are taken from by turns and in proportion, ``piece``
    entries at most from somewhere in the part, and so end together. Of the events, those that pass
    are given.
    """

    def __init__(
        self,
        parts: Sequence[list[Range]],
        read: Callable[[int, int], Reader],
        piece: int,
        at_once: int,
        places: int,
        is_limited: bool,
        passing: Passing = ALL,
    ) -> None:
        self.places = places
        """About how many parts, PLACES at most, there are events of in a mixing buffer."""
        self.is_limited = is_limited
        """Whether they are fewer than wanted, for want of memory."""
        parts = [part for part in parts if any(passing.count(*each) for each in part)]
        rounds = -(-len(parts) // at_once)
        self._rounds = iter([parts[number::rounds] for number in scattered(rounds)])
        self._round: list[_Part] = []
        self._read = read
        self._piece = piece
        self._passing = passing

    def take(self, n: int) -> Iterator[tuple[int, int, Events]]:
        """The next ``n`` events in pieces: (start, stop, those of the entries that pass)."""
        while n:
            if not self._round:
                parts = next(self._rounds)
                order = scattered(len(parts))
                self._round = [
                    _Part(parts[number], self._read, self._piece, self._passing) for number in order
                ]
            behind = max(self._round, key=lambda part: part.left / part.events)
            left = behind.left
            start, stop, events = behind.take(n)
            n -= left - behind.left
            if not behind.left:
                self._round.remove(behind)  # and with it what it has in memory
            yield start, stop, events


class _Part:
    """Ranges of a tree that are in memory at once; read when the first of them is taken."""

    def __init__(
        self,
        ranges: list[Range],
        read: Callable[[int, int], Reader],
        piece: int,
        passing: Passing,
    ) -> None:
        self._passing = passing
        self.events = self.left = sum(passing.count(*each) for each in ranges)
        pieces = [each for start, stop in ranges for each in cut(start, stop, piece)]
        pieces = [each for each in pieces if passing.count(*each)]
        self._pieces = [pieces[number] for number in reversed(scattered(len(pieces)))]
        self._read = partial(read, ranges[0][0], ranges[-1][1])

    @cached_property
    def _reader(self) -> Reader:
        return self._read()

    def take(self, n: int) -> tuple[int, int, Events]:
        """The next piece, or the first ``n`` events of it: (start, stop, events)."""
        start, stop = self._pieces.pop()
        here = self._passing.count(start, stop)
        if here > n:
            end, stop, here = stop, self._passing.after(start, n), n
            self._pieces.append((stop, end))
        self.left -= here
        self._reader.position = start
        return start, stop, self._passing.of(self._reader.take(stop - start), start, stop)


def _basket_starts(columns: list[Column], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries at which baskets start (sorted), and about how many bytes start up to each.

    Bytes are uncompressed, estimated from each basket's size on disk and the branch's ratio.
    """
    starts, sizes = [], []
    for column in columns:
        begin = column.entry_offsets[:-1]
        used = (begin < stop) & (column.entry_offsets[1:] > start)
        starts.append(np.maximum(begin[used], start))
        sizes.append(column.unpacked[used])
    if not starts:
        return np.empty(0, np.int64), np.empty(0)
    unique, where = np.unique(np.concatenate(starts), return_inverse=True)
    return unique, np.cumsum(np.bincount(where, np.concatenate(sizes), len(unique)))
