"""Which events of which file are used, in which order: every stretch samples the whole."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.passing import Passing

PLACES = 16
"""Places of a file, evenly spaced along it, that ``nevts`` takes events from and that are mixed."""

Range = tuple[int, int]
"""Entries of a file, (start, stop)."""
Arrays = tuple[NDArray[Any], ...]
"""Arrays of the same length, one element (or row) an event in each."""


@dataclass(frozen=True)
class EventsToUse:
    """The entries of each file that are used: those in ``ranges``, which ascend, that pass.

    All that pass, or ``nevts`` of them in proportion to the files' numbers, taken from ``PLACES``
    places evenly spaced along each file. A file that has such events contributes at least one.
    """

    nevts: int
    ranges: tuple[tuple[Range, ...], ...]
    passing: tuple[Passing, ...] = field(default=(), compare=False)

    @classmethod
    def of(
        cls, entries: Sequence[int], nevts: int = -1, passing: Sequence[Passing] = ()
    ) -> EventsToUse:
        """Those of files with so many ``entries``; ``nevts`` is -1 (all) or at least 1.

        ``passing`` says of each file which entries may be used; without it, all.
        """
        if passing:
            numbers = cls.of([p.count(0, n) for p, n in zip(passing, entries, strict=True)], nevts)
            ranges = (
                tuple((each.entry(start), each.entry(stop - 1) + 1) for start, stop in used)
                for each, used in zip(passing, numbers.ranges, strict=True)
            )
            return cls(nevts, tuple(ranges), tuple(passing))
        passing = tuple(Passing() for _ in entries)
        if nevts == 0 or nevts < -1:
            raise ValueError(f"nevts is {nevts}; expected -1 (all) or at least 1")
        total = sum(entries)
        if nevts == -1 or nevts >= total:
            return cls(nevts, tuple(((0, rows),) if rows else () for rows in entries), passing)
        return cls(nevts, tuple(map(_spread, entries, _shares(entries, nevts))), passing)

    @property
    def counts(self) -> list[int]:
        """How many events of each file are used."""
        return [
            sum(passing.count(start, stop) for start, stop in ranges)
            for ranges, passing in zip(self.ranges, self.passing, strict=True)
        ]

    @property
    def entries(self) -> list[int]:
        """How many entries the ranges of each file span, passing or not."""
        return [sum(stop - start for start, stop in ranges) for ranges in self.ranges]

    def as_dict(self) -> dict[str, int]:
        """As ``Specs.selection`` holds it."""
        spread = {} if self.nevts == -1 else {"nevts_places": PLACES}
        return {"nevts": self.nevts, **spread}


def _shares(entries: Sequence[int], nevts: int) -> list[int]:
    """So many events of all files, of each in proportion, by the method of largest remainders."""
    total = sum(entries)
    shares = [rows * nevts // total for rows in entries]
    rest = sorted(range(len(entries)), key=lambda i: -(entries[i] * nevts % total))
    for i in rest[: nevts - sum(shares)]:
        shares[i] += 1
    return shares


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


def spans(ranges: Sequence[Range], borders: Sequence[int], at_most: int) -> list[list[Range]]:
    """The ranges cut at ``borders`` (sorted entries), in parts to be read one at a time.

    A part is all that is used between two borders, and its neighbours' as long as they are
    ``at_most`` entries together; so no two parts lie between the same borders.
    """
    between: dict[int, list[Range]] = {}
    for start, stop in ranges:
        inner = borders[bisect_right(borders, start) : bisect_left(borders, stop)]
        for begin, end in pairwise([start, *inner, stop]):
            between.setdefault(bisect_right(borders, begin), []).append((begin, end))
    found: list[list[Range]] = []
    last = -1
    for where, used in between.items():
        if found and where == last + 1 and used[-1][1] - found[-1][0][0] <= at_most:
            first, *used = used
            begin, end = found[-1].pop()
            found[-1] += [(begin, first[1])] if end == first[0] else [(begin, end), first]
            found[-1] += used
        else:
            found.append(used)
        last = where
    return found


def cut(start: int, stop: int, at_most: int) -> list[Range]:
    """The range in pieces alike, of ``at_most`` entries at most."""
    pieces = -(-(stop - start) // at_most)
    edges = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(edges))


def scattered(count: int) -> list[int]:
    """The numbers below ``count`` in an order of which each stretch is spread over all of them."""
    return sorted(range(count), key=lambda number: f"{number:b}"[::-1])  # bits reversed: 0 4 2 6 1


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
