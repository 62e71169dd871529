"""The data set of a training: ROOT files in, rows and classes or targets out, in three parts.

Parts from all over a file are read in turn, all files in proportion, and the training part is mixed
on its way through a buffer; so an epoch's order depends on files, parameters and seed alone, not on
what is cached, and no order within a file reaches the model.

Memory: the cache (``cache_bytes``, see ``cache_size``); three blocks of rows, each of
``chunk_size`` rows or ``BLOCK_BYTES``, whichever is more; what the readers have unpacked (at most
``READ_BYTES`` in all, but never less than a cluster per file) and as much on disk for one file's
window; the mixing buffer where the training part isn't cached (``MIX_BYTES`` or ``MIX_EVENTS``
rows, whichever is more); 2 rows a column for the comparison; and the observers' values (at most 64
MiB).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError
from mlaas4hep.core.memory import memory_limit
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.core.units import size
from mlaas4hep.data import TEST, TRAIN, VALIDATION, Encoder, plan_chunks
from mlaas4hep.data.histograms import Distributions
from mlaas4hep.data.mixing import PLACES, block_sizes, in_blocks, mixed
from mlaas4hep.frameworks.base import Block, Matrix, Truth
from mlaas4hep.sources.reader import SpreadReader
from mlaas4hep.training.ahead import ahead
from mlaas4hep.training.ledger import Tally
from mlaas4hep.training.observed import Observed
from mlaas4hep.training.prepare import Task
from mlaas4hep.training.sample import RowsToCompare, Sample
from mlaas4hep.training.targets import Targets

CACHE_BYTES = 1 << 30
READ_BYTES = 256 << 20
MIX_BYTES = 256 << 20
MIX_EVENTS = 4096
BLOCK_BYTES = 16 << 20
_BLOCK = 8192  # rows that are handed out at once, at most, unless chunk_size is more
_FEW_PLACES = 4  # with fewer, a file's order may reach the model, and it is said

Chunk = tuple[NDArray[Any], ...]
"""A Block, and last the part of each event (uint8): TRAIN, VALIDATION or TEST."""


def cache_size() -> int:
    """Bytes for rows: CACHE_BYTES, or a quarter of the memory that the process may use."""
    limit = memory_limit()
    return CACHE_BYTES if limit is None else min(CACHE_BYTES, limit // 4)


@dataclass(frozen=True)
class FirstPass:
    """What the pass that fills the cache finds out about the events.

    ``to_compare`` are rows, float32 of shape (rows, columns), to compare two forms of a model on:
    at least 1,000 evenly spaced events (all, if there are fewer), those that hold the least and
    the greatest value of each column, and a row of zeros and one of ones. ``observed`` has the
    observers of the test part.
    """

    to_compare: Matrix
    sample: Sample
    observed: Observed
    warnings: list[str]
    read: NDArray[np.int64]
    """Events of each file in each part that became rows, of shape (files, 3)."""


class Dataset:
    """The events of a task as rows and classes; a frameworks.Batches with a test part.

    Nothing is read before it is asked for. A block is rows, float32 of shape (n, width), their
    classes, int64 of shape (n,), or normalised targets, float32, and, if events don't count alike,
    weights, float64 of shape (n,): scaled for the fit in training and validation, as they are in
    the test. The same task gives the same blocks in the same order. What can't be read is a
    DataError that names the file; a pass that doesn't give each event once is a LedgerError.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.width = task.specs.width
        self.n_classes = len(task.classes)
        self.weighted = task.factors is not None
        self.train_events, self.validation_events, self.test_events = (
            int(count) for count in task.counts.sum(axis=0)
        )
        row = 4 * self.width
        self._held = max(MIX_EVENTS, MIX_BYTES // row)
        self._block = max(task.params.chunk_size, min(_BLOCK, BLOCK_BYTES // row))
        self._cache: dict[int, Block] = {}

    def first_pass(
        self,
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = silent,
        distributions: Distributions | None = None,
    ) -> FirstPass:
        """Read all events once: keep the parts that fit in memory, and draw samples.

        Validation is kept first, then training, then test. ``distributions`` are filled with all
        events, each by its own weight. Phase "reading" counts events.
        """
        task = self.task
        cache = self._room(cache_bytes)
        filled = dict.fromkeys(cache, 0)
        done, total = 0, sum(task.use.counts)
        readers, encoder = self._readers(), Encoder(task.specs, dtype=np.float32)
        to_compare = RowsToCompare(self.width, total)
        sample = Sample(task.specs, task.counts.sum(axis=1).tolist(), task.labels.dtype)
        observed = Observed(task.observers, self.test_events, task.params.seed)
        tally = Tally(task)
        chunks = self._chunks(readers, encoder, tally, sample, distributions, observed)
        for *block, parts in ahead(chunks):
            to_compare.add(block[0])
            for part, kept in cache.items():
                wanted = parts == part
                stop = filled[part] + int(np.count_nonzero(wanted))
                for to, array in zip(kept, block, strict=True):
                    np.compress(wanted, array, axis=0, out=to[filled[part] : stop])
                filled[part] = stop
            done += len(parts)
            progress("reading", done, total)
        self._cache = cache
        warnings = self._seen_in_order(readers)
        if encoder.truncated:
            warnings.append(
                f"{encoder.truncated} values beyond the longest list of the specs were dropped"
            )
        return FirstPass(to_compare.result(), sample, observed, warnings, tally.parts)

    @property
    def cached(self) -> set[int]:
        """The parts that are in memory: TRAIN, VALIDATION, TEST."""
        return set(self._cache)

    def epoch(self, number: int) -> Iterator[Block]:
        """The training part in blocks, mixed by the seed and ``number``."""
        if not self.task.params.shuffle:
            return self._part(TRAIN)
        rng = np.random.default_rng((self.task.params.seed, number))
        sizes = self.train_events, self._held, self._block, rng
        if TRAIN not in self._cache:
            return mixed(self._read(TRAIN), *sizes)
        kept, events = self._cache[TRAIN], self.train_events
        starts = range(0, events, self._block)
        places = ((np.arange(i, min(i + self._block, events)),) for i in starts)
        return (tuple(array[i] for array in kept) for (i,) in mixed(places, *sizes))

    def validation(self) -> Iterator[Block]:
        """The validation part, always in the same order."""
        return self._part(VALIDATION)

    def test(self) -> Iterator[Block]:
        """The test part, in order; no training sees it."""
        return self._part(TEST)

    def _part(self, part: int) -> Iterator[Block]:
        """The part in the order in which it is read, in the same blocks whether cached or not."""
        events = self._events(part)
        if part not in self._cache:
            sizes = block_sizes(events, self._block)
            return in_blocks(self._read(part), sizes)
        kept = self._cache[part]
        starts = range(0, events, self._block)
        return (tuple(array[i : i + self._block] for array in kept) for i in starts)

    def _read(self, part: int) -> Iterator[Block]:
        for *block, parts in ahead(self.chunks()):
            wanted = parts == part
            if wanted.any():
                yield tuple(array[wanted] for array in block)

    def chunks(self) -> Iterator[Chunk]:
        """All events as chunks; what every epoch is made of."""
        encoder = Encoder(self.task.specs, dtype=np.float32)
        return self._chunks(self._readers(), encoder, Tally(self.task))

    def _readers(self) -> list[SpreadReader]:
        task = self.task
        used = task.use.counts
        mixed_over = self._held if task.params.shuffle else self._block
        return [
            file.spread(
                task.branches,
                ranges,
                READ_BYTES // len(task.files),
                mixed_over * entries // sum(used),  # so that there are some of each place
                passing,
            )
            for file, ranges, entries, passing in zip(
                task.files, task.use.ranges, task.use.entries, task.use.passing, strict=True
            )
        ]

    def _chunks(
        self,
        readers: list[SpreadReader],
        encoder: Encoder,
        tally: Tally,
        sample: Sample | None = None,
        distributions: Distributions | None = None,
        observed: Observed | None = None,
    ) -> Iterator[Chunk]:
        task = self.task
        for plan in plan_chunks(task.use.counts, self._block):
            total = sum(stop - start for start, stop in plan)
            rows = np.empty((total, self.width), np.float32)
            truth: Truth = np.empty(total, task.labels.dtype)
            weights = None if task.factors is None else np.ones(total)
            parts = np.empty(total, np.uint8)
            at = 0
            for index, (begin, end) in enumerate(plan):
                for start, stop, events in readers[index].take(end - begin):
                    piece = slice(at, at + task.use.passing[index].count(start, stop))
                    targets = None
                    try:
                        truth[piece] = task.labels.of_events(events, index)
                        if distributions is not None and isinstance(task.labels, Targets):
                            targets = task.labels.values(events)
                        events = encoder.derive(events)
                        encoder.fill(events, out=rows[piece])
                    except EventError as error:
                        entry = task.use.passing[index].nth(start, error.event)
                        raise error.at(entry, task.files[index].name) from None
                    groups = task.labels.groups_of(truth[piece])
                    parts[piece] = task.parts(index, start, stop, events)
                    tally.add(index, start, parts[piece])
                    if observed is not None:
                        observed.add(events, parts[piece] == TEST)
                    if weights is not None and task.weights:
                        weights[piece] = task.weights.of_events(events, index, piece.stop - at)
                    if sample is not None:
                        sample.add(events, rows[piece], groups, truth[piece], index)
                    if distributions is not None:
                        own = weights[piece] if weights is not None and task.weights else None
                        distributions.add(events, groups, rows[piece], own)
                        if targets is not None:
                            distributions.add_target(targets, groups, own)
                    at = piece.stop
            if weights is None or task.factors is None:
                yield rows, truth, parts
            else:
                factors = task.factors[task.labels.groups_of(truth), parts]
                yield rows, truth, weights * factors, parts
        for file in task.files:
            file.check_unchanged()
        tally.check()

    def _seen_in_order(self, readers: list[SpreadReader]) -> list[str]:
        """Warnings about files whose order mixing can't hide from the model."""
        if not self.task.params.shuffle or self.train_events <= self._held:
            return []
        return [
            f"{file.name} is read at {reader.places} of {PLACES} places at once, as more don't "
            f"fit {size(READ_BYTES)}: if its events are sorted, the model sees them sorted "
            "in part; select fewer branches, or write it with smaller clusters"
            for file, reader in zip(self.task.files, readers, strict=True)
            if reader.places < _FEW_PLACES and reader.is_limited
        ]

    def _room(self, cache_bytes: int) -> dict[int, Block]:
        """Empty arrays for the parts that fit in that many bytes."""
        room: dict[int, Block] = {}
        kinds = [np.dtype(self.task.labels.dtype), *([np.dtype(np.float64)] * self.weighted)]
        for part in (VALIDATION, TRAIN, TEST):
            events = self._events(part)
            needed = events * (self.width * 4 + sum(kind.itemsize for kind in kinds))
            if needed <= cache_bytes:
                cache_bytes -= needed
                room[part] = (
                    np.empty((events, self.width), np.float32),
                    *(np.empty(events, kind) for kind in kinds),
                )
        return room

    def _events(self, part: int) -> int:
        return (self.train_events, self.validation_events, self.test_events)[part]
