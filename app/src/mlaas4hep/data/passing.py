"""Which entries of a file pass the selection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.events import Branch, Events, Jagged

_BLOCK = 1024  # entries that are counted together; a multiple of 8


class Passing:
    """The entries of a file that pass; all, without a selection.

    Memory: a bit an entry, and 8 bytes for every 1,024 of them; nothing without a selection.
    """

    def __init__(self, bits: Iterable[NDArray[np.uint8]] | None = None) -> None:
        """``bits`` say of the entries in order whether they pass, as packbits gives; None: all."""
        self._bits: NDArray[np.uint8] | None = None
        if bits is None:
            return
        joined = np.concatenate([*bits, np.empty(0, np.uint8)])
        padding = np.zeros(-len(joined) % (_BLOCK // 8), np.uint8)
        self._bits = np.concatenate([joined, padding])
        blocks = np.bitwise_count(self._bits).reshape(-1, _BLOCK // 8).sum(axis=1, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(blocks)])
        """How many pass before each block."""

    def count(self, start: int, stop: int) -> int:
        """How many of the entries ``start:stop`` pass."""
        if self._bits is None:
            return stop - start
        return self._rank(stop) - self._rank(start)

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each of the entries ``start:stop`` passes."""
        if self._bits is None:
            return np.ones(stop - start, bool)
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-stop // 8)])
        return bits[start - 8 * first : stop - 8 * first].view(bool)

    def entry(self, number: int) -> int:
        """The entry that passes after ``number`` others."""
        if self._bits is None:
            return number
        block = int(np.searchsorted(self._before, number, "right")) - 1
        places = np.flatnonzero(self.mask(block * _BLOCK, (block + 1) * _BLOCK))
        return block * _BLOCK + int(places[number - self._before[block]])

    def nth(self, start: int, number: int) -> int:
        """The entry that passes after ``number`` others from ``start`` on."""
        return start + number if self._bits is None else self.entry(self._rank(start) + number)

    def after(self, start: int, count: int) -> int:
        """The first entry behind ``count`` ones that pass, from ``start`` on; there are so many."""
        return self.nth(start, count - 1) + 1

    def of(self, events: Events, start: int, stop: int) -> Events:
        """Those of the events at ``start:stop`` that pass; no copy if all do."""
        if self.count(start, stop) == stop - start:
            return events
        return chosen(events, self.mask(start, stop))

    def rows(self, values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Those of an array over the entries ``start:stop`` that pass; no copy if all do."""
        if self.count(start, stop) == stop - start:
            return values
        return values[self.mask(start, stop)]

    def _rank(self, entry: int) -> int:
        """How many pass before the entry."""
        block = entry // _BLOCK
        return int(self._before[block]) + int(self.mask(block * _BLOCK, entry).sum())


def chosen(events: Events, mask: NDArray[np.bool_]) -> dict[str, Branch]:
    """The events where ``mask`` is true; branches share offsets where they did."""
    result: dict[str, Branch] = {}
    lists: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
    for name, values in events.items():
        if not isinstance(values, Jagged):
            result[name] = values[mask]
            continue
        old = values.offsets
        if id(old) not in lists:
            counts = values.counts
            offsets = np.zeros(np.count_nonzero(mask) + 1, np.int64)
            np.cumsum(counts[mask], out=offsets[1:])
            lists[id(old)] = offsets, np.repeat(mask, counts)
        offsets, wanted = lists[id(old)]
        result[name] = Jagged(offsets, values.content[old[0] : old[-1]][wanted])
    return result
