"""Which events of which file are used, in which order: every stretch samples the whole."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACES = 16
"""Places of a file, evenly spaced along it, that ``nevts`` takes events from and that are read at
the same time."""

Range = tuple[int, int]
"""Entries of a file, (start, stop)."""
Arrays = tuple[NDArray[Any], ...]
"""Arrays of the same length, one element (or row) an event in each."""


@dataclass(frozen=True)
class EventsToUse:
    """The entries of each file that are used, as ranges in ascending order.

    All, or ``nevts`` in proportion to the files' entries, taken from ``PLACES`` places evenly
    spaced along each file. A file that has events contributes at least one.
    """

    nevts: int
    ranges: tuple[tuple[Range, ...], ...]

    @classmethod
    def of(cls, entries: Sequence[int], nevts: int = -1) -> EventsToUse:
        """Those of files with so many ``entries``; ``nevts`` is -1 (all) or at least 1."""
        if nevts == 0 or nevts < -1:
            raise ValueError(f"nevts is {nevts}; expected -1 (all) or at least 1")
        total = sum(entries)
        if nevts == -1 or nevts >= total:
            return cls(nevts, tuple(((0, rows),) if rows else () for rows in entries))
        shares = [min(rows, max(1, round(rows * nevts / total))) for rows in entries]
        return cls(nevts, tuple(map(_spread, entries, shares)))

    @property
    def counts(self) -> list[int]:
        """How many events of each file are used."""
        return [sum(stop - start for start, stop in ranges) for ranges in self.ranges]

    def as_dict(self) -> dict[str, int]:
        """As ``Specs.selection`` holds it."""
        spread = {} if self.nevts == -1 else {"nevts_places": PLACES}
        return {"nevts": self.nevts, **spread}


def _spread(entries: int, used: int) -> tuple[Range, ...]:
    done = [used * place // PLACES for place in range(PLACES + 1)]
    return tuple(
        (begin := entries * before // used, begin + after - before)
        for before, after in pairwise(done)
        if before < after
    )


def plan_chunks(events: Sequence[int], chunk_size: int) -> Iterator[list[Range]]:
    """Each chunk as one (start, stop) per file, in the order of the files.

    The files' pieces are contiguous and in proportion to the files' ``events``, so a chunk has
    about ``chunk_size`` events (each file rounds by half an event at most). Every event is in
    exactly one chunk: nothing is lost at a file's end, and no chunk is empty.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    total = sum(events)
    starts = [0] * len(events)
    for done in range(chunk_size, total + chunk_size, chunk_size):
        stops = [round(count * min(done, total) / total) for count in events]
        if stops != starts:
            yield list(zip(starts, stops, strict=True))
        starts = stops


def strands(ranges: Sequence[Range], count: int, borders: NDArray[np.int64]) -> list[list[Range]]:
    """The ranges divided, in order, into about ``count`` parts of about as many events.

    A cut moves to the nearest of ``borders`` (sorted entries) if one is within half a part and no
    other cut is there, so parts may differ in size; none is empty.
    """
    sizes = [stop - start for start, stop in ranges]
    firsts = [0, *accumulate(sizes)]  # of each range, counting only what is used
    total = firsts[-1]
    count = max(1, min(count, total))
    cuts = [0]
    for part in range(1, count):
        cut = total * part // count
        where = bisect_right(firsts, cut) - 1
        start, stop = ranges[where]
        entry = start + cut - firsts[where]
        near = bisect_left(borders, entry)
        moves = [int(b) - entry for b in borders[max(0, near - 1) : near + 1] if start < b < stop]
        move = min(moves, key=abs, default=0)
        if entry > start and abs(move) * 2 * count <= total and cut + move > cuts[-1]:
            cut += move
        if cut > cuts[-1]:
            cuts.append(cut)
    return [
        [
            (start + max(0, begin - first), start + min(size, end - first))
            for (start, _), size, first in zip(ranges, sizes, firsts, strict=False)
            if first < end and first + size > begin
        ]
        for begin, end in pairwise([*cuts, total])
        if begin < end
    ]


def in_blocks(stream: Iterable[Arrays], sizes: Iterable[int]) -> Iterator[Arrays]:
    """The same events, the first ``sizes[0]`` at once, then ``sizes[1]``, and so on; copies.

    Raises ValueError unless the sizes are those of the whole stream.
    """
    source = iter(stream)
    arrays: Arrays = ()
    at = left = 0
    for size in sizes:
        block: Arrays = ()
        filled = 0
        while filled < size:
            if not left:
                arrays = next(source, ())
                if not arrays:
                    raise ValueError("fewer events than expected")
                at, left = 0, len(arrays[0])
            if not block:
                block = tuple(np.empty((size, *a.shape[1:]), a.dtype) for a in arrays)
            count = min(left, size - filled)
            for to, a in zip(block, arrays, strict=True):
                to[filled : filled + count] = a[at : at + count]
            filled, at, left = filled + count, at + count, left - count
        yield block
    if left or next(source, ()):
        raise ValueError("more events than expected")


def block_sizes(events: int, block: int) -> list[int]:
    """Blocks of ``block`` events, the last one smaller."""
    return [min(block, events - start) for start in range(0, events, block)]


def mixed(
    stream: Iterable[Arrays], events: int, held: int, block: int, rng: np.random.Generator
) -> Iterator[Arrays]:
    """The ``events`` of the stream in random order, in blocks of ``block``, the last one smaller.

    ``held`` events (and less than a block more) are in memory: each block of the stream takes the
    places of random ones, which are given instead. With ``held >= events`` every order is equally
    likely. The order depends on the numbers and ``rng`` alone, not on what the events are, nor on
    how the stream is cut.
    """
    held = min(events, max(held, block))
    held += (events - held) % block
    blocks = in_blocks(stream, [held, *block_sizes(events - held, block)])
    buffer = next(blocks)
    for arrays in blocks:
        places = rng.choice(held, len(arrays[0]), replace=False)
        yield tuple(a[places] for a in buffer)
        for kept, new in zip(buffer, arrays, strict=True):
            kept[places] = new
    order = rng.permutation(held)
    for start in range(0, held, block):
        yield tuple(a[order[start : start + block]] for a in buffer)
