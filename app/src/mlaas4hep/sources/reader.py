"""Reading a tree from start to end: whole baskets, each decompressed once, memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mlaas4hep.data import Events, Jagged
from mlaas4hep.sources.columns import Column, SharedOffsets, UnreadableError

Fetch = Callable[[list[tuple[int, int]]], Iterator[Any]]
"""Gives a filled uproot Chunk for each byte range, in order."""
Guard = Callable[[str], AbstractContextManager[None]]
"""Turns whatever fails while that branch is read into an error that names file and branch."""


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
    ) -> None:
        self.position = start
        """Entry at which the next ``take`` starts."""
        self.stop = stop
        self._columns = columns
        self._loaded = start
        self._window_bytes = window_bytes
        self._fetch = fetch
        self._guard = guard
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
        chunks = self._fetch([b for baskets in wanted.values() for _, b in baskets if b])
        shared: SharedOffsets = {}
        unreadable: list[UnreadableError] = []
        for name, baskets in wanted.items():
            column = self._columns[name]
            mine = [(*basket, next(chunks) if basket[1] else None) for basket in baskets]
            try:
                with self._guard(name):
                    pieces = [column.decode(*basket) for basket in mine]
                    column.extend(pieces, self.position, shared)
            except UnreadableError as error:
                unreadable.append(error)
        if unreadable:
            reasons = {name: why for e in unreadable for name, why in e.branches.items()}
            raise UnreadableError(unreadable[0].file, reasons)
        self._loaded = until


def _basket_starts(columns: list[Column], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries at which baskets start (sorted), and about how many bytes start up to each.

    Bytes are uncompressed, estimated from each basket's size on disk and the branch's ratio.
    """
    starts, sizes = [], []
    for column in columns:
        branch, begin = column.branch, column.entry_offsets[:-1]
        on_disk, unpacked = branch.compressed_bytes, branch.uncompressed_bytes
        size = np.zeros(len(begin))
        size[: len(column.sizes)] = column.sizes * (max(unpacked, on_disk) / max(on_disk, 1))
        used = (begin < stop) & (column.entry_offsets[1:] > start)
        starts.append(np.maximum(begin[used], start))
        sizes.append(size[used])
    if not starts:
        return np.empty(0, np.int64), np.empty(0)
    unique, where = np.unique(np.concatenate(starts), return_inverse=True)
    return unique, np.cumsum(np.bincount(where, np.concatenate(sizes), len(unique)))
