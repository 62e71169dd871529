"""Reading a tree from start to end, or at several places at once.

Whole baskets are read, each decompressed once, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mlaas4hep.data import Events, Jagged, Range
from mlaas4hep.sources.columns import Column, Piece, SharedOffsets, UnreadableError

Fetch = Callable[[list[tuple[int, int]]], Iterator[Any]]
"""Gives a filled uproot Chunk for each byte range, in order."""
Guard = Callable[[str], AbstractContextManager[None]]
"""Turns whatever fails while that branch is read into an error that names file and branch."""


class SharedBaskets:
    """Baskets that several readers of a file take parts of: decoded once, kept until the last did.

    ``ranges`` are the entries that each of the readers reads.
    """

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._starts = np.sort([start for start, stop in ranges if start < stop])
        self._stops = np.sort([stop for start, stop in ranges if start < stop])
        self._kept: dict[tuple[str, int], tuple[Piece, int]] = {}

    def __contains__(self, basket: tuple[str, int]) -> bool:
        return basket in self._kept

    def pop(self, basket: tuple[str, int]) -> Piece:
        """A kept basket, for one reader."""
        piece, readers = self._kept.pop(basket)
        if readers > 1:
            self._kept[basket] = piece, readers - 1
        return piece

    def add(self, basket: tuple[str, int], piece: Piece, column: Column) -> Piece:
        """What one reader decoded; kept if others will need it."""
        start, stop = column.entry_offsets[basket[1] : basket[1] + 2]
        begun = int(np.searchsorted(self._starts, stop))
        others = begun - int(np.searchsorted(self._stops, start, "right")) - 1
        if others > 0:
            piece = piece.copy(column.layout.dtype)
            self._kept[basket] = piece, others
        return piece


class Reader:
    """Reads branches of a tree one block of events after the other.

    Data is read in windows that end where baskets do: a window holds every basket that starts in
    it, so none is decompressed twice. Memory, whatever the size of the file: twice
    ``window_bytes`` (as on disk, and unpacked), the events asked for at a time, and one basket per
    branch where baskets of different branches don't end together. uproot's own table of baskets
    (about 24 bytes each) comes on top.
    """

    def __init__(
        self,
        columns: dict[str, Column],
        start: int,
        stop: int,
        window_bytes: int,
        fetch: Fetch,
        guard: Guard,
        baskets: SharedBaskets,
    ) -> None:
        self.position = start
        """Entry at which the next ``take`` starts."""
        self.stop = stop
        self._start = start
        self._columns = columns
        self._loaded = start
        self._window_bytes = window_bytes
        self._fetch = fetch
        self._guard = guard
        self._baskets = baskets
        for column in columns.values():
            column.start_at(start)
        self._starts, self._bytes = _basket_starts(list(columns.values()), start, stop)

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

    def _load(self, stop: int) -> None:
        """Read the next window, at least up to the entry ``stop``."""
        begin = int(np.searchsorted(self._starts, self._loaded))
        read = self._bytes[begin - 1] if begin else 0
        fitting = int(np.searchsorted(self._bytes, read + self._window_bytes, "right"))
        end = max(fitting, int(np.searchsorted(self._starts, stop)))
        until = int(self._starts[end]) if end < len(self._starts) else self.stop

        wanted = {name: column.baskets_before(until) for name, column in self._columns.items()}
        chunks = self._fetch(
            [
                place
                for name, baskets in wanted.items()
                for number, place in baskets
                if place and (name, number) not in self._baskets
            ]
        )
        shared: SharedOffsets = {}
        unreadable: list[UnreadableError] = []
        for name, baskets in wanted.items():
            column = self._columns[name]
            held = [
                (
                    number,
                    place,
                    next(chunks) if place and (name, number) not in self._baskets else None,
                )
                for number, place in baskets
            ]
            try:
                with self._guard(name):
                    pieces = []
                    for number, place, chunk in held:
                        if (name, number) in self._baskets:
                            piece = self._baskets.pop((name, number))
                        else:
                            piece = column.decode(number, place, chunk)
                            piece = self._baskets.add((name, number), piece, column)
                        first = int(column.entry_offsets[number])
                        pieces.append(piece.part(self._start - first, self.stop - first))
                    column.extend(pieces, self.position, shared)
            except UnreadableError as error:
                unreadable.append(error)
        if unreadable:
            reasons = {name: why for e in unreadable for name, why in e.branches.items()}
            raise UnreadableError(unreadable[0].file, reasons)
        self._loaded = until


class SpreadReader:
    """Reads the strands of a tree by turns, in proportion: each stretch is a sample of them all.

    A strand is a list of readers, to be read one after the other. At most ``piece`` events of a
    strand come at once, so about every ``piece`` x strands events there are some of each.
    """

    def __init__(
        self, strands: Sequence[Sequence[Reader]], piece: int, is_limited: bool = False
    ) -> None:
        self.places = len(strands)
        self.is_limited = is_limited
        """Whether there are fewer strands than wanted, for want of memory."""
        # Bits reversed (0 8 4 12 2 ...): part of a turn is a sample of the whole, too.
        order = sorted(range(len(strands)), key=lambda strand: f"{strand:b}"[::-1])
        self._strands = [list(strands[strand]) for strand in order]
        self._sizes = [sum(r.stop - r.position for r in readers) for readers in self._strands]
        self._left = list(self._sizes)
        self._piece = piece

    def take(self, n: int) -> Iterator[tuple[int, int, Events]]:
        """The next ``n`` events in pieces: (start, stop, events), the entries and their values."""
        piece = -(-n // max(1, -(-n // self._piece)))  # pieces alike, rather than a small last one
        while n:
            behind = max(
                range(len(self._left)), key=lambda strand: self._left[strand] / self._sizes[strand]
            )
            readers = self._strands[behind]
            start = readers[0].position
            count = min(n, piece, readers[0].stop - start)
            n -= count
            self._left[behind] -= count
            yield start, start + count, readers[0].take(count)
            if readers[0].position == readers[0].stop:
                del readers[0]  # and with it what it has in memory


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
