"""The data set of a training: ROOT files in, rows and classes out, in three parts.

Parts from all over a file are read in turn, all files in proportion, and the training part is mixed
on its way through a buffer; so an epoch's order depends on files, parameters and seed alone, not on
what is cached, and no order within a file reaches the model.

Memory: the cache (at most ``cache_bytes``); three blocks of rows, each of ``chunk_size`` rows or
``BLOCK_BYTES``, whichever is more; what the readers have unpacked (at most ``READ_BYTES`` in all,
but never less than a cluster per file) and as much on disk for one file's window; the
mixing buffer where the training part isn't cached (``MIX_BYTES`` or ``MIX_EVENTS`` rows, whichever
is more); and 2 rows a column for the comparison.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, UsageError, did_you_mean
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import (
    TEST,
    TRAIN,
    VALIDATION,
    Encoder,
    EventsToUse,
    Jagged,
    Range,
    Specs,
    membership,
    plan_chunks,
)
from mlaas4hep.data.mixing import PLACES, block_sizes, in_blocks, mixed
from mlaas4hep.frameworks.base import Classes, Matrix
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection, select
from mlaas4hep.training.params import Params
from mlaas4hep.training.suspects import Sample

CACHE_BYTES = 1 << 30
READ_BYTES = 256 << 20
MIX_BYTES = 256 << 20
MIX_EVENTS = 4096
BLOCK_BYTES = 16 << 20
MAX_CLASSES = 1000
SPECS_FILE = "global-specs.json"
_BLOCK = 8192  # rows that are handed out at once, at most, unless chunk_size is more
_FEW_PLACES = 4  # with fewer, a file's order may reach the model, and it is said
_SAMPLE = 1000  # rows, evenly spaced, for comparing ONNX with the native model
_MEMBERS = 1 << 20  # entries whose part is computed at once

T = TypeVar("T")
Chunk = tuple[Matrix, Classes, NDArray[np.uint8]]
"""Rows, their classes, and the part of each: TRAIN, VALIDATION or TEST."""


def open_files(names: Sequence[str], params: Params, cwd: Path, stack: ExitStack) -> list[RootFile]:
    """Open all files, to be closed by ``stack``; DataError names the one that can't be."""
    paths = [resolve(name, params.redirector, cwd) for name in names]
    return [stack.enter_context(RootFile(path, params.branch)) for path in paths]


def selection_of(params: Params, label_branch: str | None = None) -> Selection:
    """Which branches are read, as the parameters say."""
    return Selection(
        tree=params.branch,
        identifier=params.identifier,
        selected_branches=params.selected_branches,
        exclude_branches=params.exclude_branches,
        branches=params.branches,
        label_branch=label_branch,
    )


def scan_files(
    names: Sequence[str],
    params: Params,
    cwd: Path,
    labels: Sequence[str] = (),
    progress: Progress = silent,
) -> tuple[Specs, list[str]]:
    """The specs of the files alone, which ``mlaas4hep specs`` writes, and warnings.

    With ``labels``, those of a training with the same: a label branch is no feature.
    """
    with ExitStack() as stack:
        files = open_files(names, params, cwd, stack)
        selection = selection_of(params, _label_branch(labels, files))
        use = EventsToUse.of([file.entries for file in files], params.nevts)
        specs = scan(files, selection, use, progress)
        return specs, select(files, selection).warnings + specs.warnings


@dataclass(frozen=True)
class Labels:
    """Classes 0..k-1 and where each event's class comes from: its file, or a branch."""

    names: list[str]
    per_file: list[int]
    """The class of each file; empty with a label branch."""
    branch: str | None = None
    values: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.int64))
    """The branch's sorted values, one a class; empty without a branch."""

    @classmethod
    def per_files(cls, labels: Sequence[str], files: Sequence[RootFile]) -> Labels:
        """One label per file: whole numbers, sorted as such, or names."""
        if len(labels) != len(files):
            raise UsageError(
                f"{len(labels)} labels for {len(files)} files",
                "Give one label per file, in the same order, or the name of a label branch.",
            )
        if all(_is_int(label) for label in labels):
            names = [str(value) for value in sorted({int(label) for label in labels})]
            labels = [str(int(label)) for label in labels]
        else:
            names = sorted(set(labels))
        if len(names) == 1:
            raise UsageError(
                f"all files have the label {names[0]!r}: there is one class only",
                "Give files of at least two classes, or the name of a label branch.",
            )
        return cls(names, [names.index(label) for label in labels])

    @classmethod
    def in_branch(cls, name: str, files: Sequence[RootFile], use: EventsToUse) -> Labels:
        """The different values of a flat or string branch, sorted, among the events in use."""
        found: NDArray[Any] | None = None
        for file, ranges in zip(files, use.ranges, strict=True):
            for _, _, events in file.blocks([name], ranges, _MEMBERS):
                values = np.unique(_label_values(events, name))
                found = values if found is None else np.unique(np.concatenate([found, values]))
                if len(found) > MAX_CLASSES:
                    raise DataError(
                        f"the label branch {name} has more than {MAX_CLASSES} different values",
                        "Name a branch that holds a class.",
                    )
        if found is None or len(found) < 2:
            value = "no value" if found is None or not len(found) else f"the value {found[0]!s}"
            raise DataError(
                f"the label branch {name} holds {value} only", "At least two classes are needed."
            )
        names = [str(value) for value in found]
        if any(not value.isprintable() for value in names):
            raise DataError(f"the label branch {name} holds control characters")
        return cls(names, [], name, found)


def _label_branch(labels: Sequence[str], files: Sequence[RootFile]) -> str | None:
    """The only label, if it is a branch and no number; None when labels are per file."""
    if len(labels) != 1 or _is_int(labels[0]):
        return None
    name = labels[0]
    if any(name in file.branches for file in files):
        return name
    if len(files) == 1:
        raise UsageError(
            f"--labels {name!r} is no branch of the tree {files[0].tree} in {files[0].name}, "
            "and one file with one label is one class",
            did_you_mean(name, files[0].branches),
        )
    return None


def _is_int(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _label_values(events: Any, name: str) -> NDArray[Any]:
    """The label of each event as int64 or text."""
    values = events[name]
    if isinstance(values, Jagged):
        raise DataError(f"the label branch {name} is jagged", "A label is one value per event.")
    if values.dtype.kind == "O":
        return values.astype(str)  # type: ignore[no-any-return]
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.rint(values))
        if not whole.all():
            raise DataError(
                f"the label branch {name} holds {values[~whole][0]!s}, which is no whole number",
                "A label is one whole number, bool or text per event.",
            )
    return values if values.dtype.kind in "US" else values.astype(np.int64)  # type: ignore[no-any-return]


class Dataset:
    """Open files, their specs and classes; a frameworks.Batches with a test part.

    The same files, parameters and labels give the same specs, parts, matrices and order.
    """

    def __init__(
        self,
        files: Sequence[RootFile],
        labels: Sequence[str],
        params: Params,
        cwd: Path,
        specs: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = silent,
    ) -> None:
        self._files = list(files)
        self._params = params
        self._split = params.parts
        self._use = EventsToUse.of([file.entries for file in files], params.nevts)
        self.warnings: list[str] = []
        if not sum(self._use.counts):
            raise DataError(
                f"no events in the tree {params.branch} of {', '.join(f.name for f in files)}"
            )
        label_branch = _label_branch(labels, files)
        selection = selection_of(params, label_branch)
        chosen = select(files, selection)
        self.warnings += chosen.warnings
        self.labels = (
            Labels.in_branch(label_branch, files, self._use)
            if label_branch
            else Labels.per_files(labels, files)
        )
        self.specs = self._find_specs(selection, specs, cwd, progress)
        left_out = chosen.left_out | self.specs.left_out  # older specs don't know them
        self.warnings += replace(self.specs, left_out=left_out).warnings
        self.width = self.specs.width
        if not self.width:
            raise DataError("no column is left to train on", "Select more branches.")
        row = 4 * self.width
        self._held = max(MIX_EVENTS, MIX_BYTES // row)
        self._block = max(params.chunk_size, min(_BLOCK, BLOCK_BYTES // row))
        self.n_classes = len(self.labels.names)
        self.counts = self._count()
        self.train_events, self.validation_events, self.test_events = (
            int(count) for count in self.counts.sum(axis=0)
        )
        self._check_counts()
        self._sampler: _Sampler | None = _Sampler(self.width, sum(self._use.counts))
        self._sample: Matrix | None = None
        self.drawn = Sample(self.specs, self.counts.sum(axis=1).tolist())
        self._cache: dict[int, tuple[Matrix, Classes]] = {}
        self._fill(cache_bytes, progress)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order."""
        return self.labels.names

    @property
    def cached(self) -> set[int]:
        """The parts that are in memory: TRAIN, VALIDATION, TEST."""
        return set(self._cache)

    def epoch(self, number: int) -> Iterator[tuple[Matrix, Classes]]:
        """The training part in blocks, mixed by the seed and ``number``."""
        if not self._params.shuffle:
            return self._part(TRAIN)
        rng = np.random.default_rng((self._params.seed, number))
        sizes = self.train_events, self._held, self._block, rng
        if TRAIN not in self._cache:
            return mixed(self._read(TRAIN), *sizes)  # type: ignore[return-value]
        rows, classes = self._cache[TRAIN]
        places = ((np.arange(*each),) for each in _cut([(0, self.train_events)], self._block))
        return ((rows[i], classes[i]) for (i,) in mixed(places, *sizes))

    def validation(self) -> Iterator[tuple[Matrix, Classes]]:
        """The validation part, always in the same order."""
        return self._part(VALIDATION)

    def test(self) -> Iterator[tuple[Matrix, Classes]]:
        """The test part, in order; no training sees it."""
        return self._part(TEST)

    def sample(self) -> Matrix:
        """Rows to compare two forms of a model on.

        At least 1,000 evenly spaced events (all, if there are fewer), those that hold the least
        and the greatest value of each column, and a row of zeros and one of ones.
        """
        if self._sample is None:
            for _ in self.chunks():
                pass
        assert self._sample is not None  # noqa: S101
        return self._sample

    def _part(self, part: int) -> Iterator[tuple[Matrix, Classes]]:
        """The part in the order in which it is read, in the same blocks whether cached or not."""
        events = int(self.counts[:, part].sum())
        if part not in self._cache:
            sizes = block_sizes(events, self._block)
            return in_blocks(self._read(part), sizes)  # type: ignore[return-value]
        rows, classes = self._cache[part]
        starts = range(0, events, self._block)
        return ((rows[i : i + self._block], classes[i : i + self._block]) for i in starts)

    def _read(self, part: int) -> Iterator[tuple[Matrix, Classes]]:
        for rows, classes, parts in _ahead(self.chunks()):
            wanted = parts == part
            if wanted.any():
                yield rows[wanted], classes[wanted]

    def chunks(self) -> Iterator[Chunk]:
        """All events as chunks: rows, classes, parts; what every epoch is made of."""
        label = self.labels.branch
        branches = [*self.specs.flat, *self.specs.jagged, *([label] if label else [])]
        used = self._use.counts
        mixed_over = self._held if self._params.shuffle else self._block
        readers = [
            file.spread(
                branches,
                ranges,
                READ_BYTES // len(self._files),
                mixed_over * events // sum(used),  # so that there are some of each place
            )
            for file, ranges, events in zip(self._files, self._use.ranges, used, strict=True)
        ]
        if self._sampler and self._params.shuffle and self.train_events > self._held:
            self.warnings += [
                f"{file.name} is read at {reader.places} of {PLACES} places at once, as more don't "
                f"fit {READ_BYTES >> 20} MiB: if its events are sorted, the model sees them sorted "
                "in part; select fewer branches, or write it with smaller clusters"
                for file, reader in zip(self._files, readers, strict=True)
                if reader.places < _FEW_PLACES and reader.is_limited
            ]
        encoder = Encoder(self.specs, dtype=np.float32)
        for plan in plan_chunks(used, self._block):
            total = sum(stop - start for start, stop in plan)
            rows = np.empty((total, self.width), np.float32)
            classes = np.empty(total, np.int64)
            parts = np.empty(total, np.uint8)
            at = 0
            for index, (begin, end) in enumerate(plan):
                for start, stop, values in readers[index].take(end - begin):
                    piece = slice(at, at + stop - start)
                    encoder.encode(values, out=rows[piece])
                    if label:
                        found = _label_values(values, label)
                        classes[piece] = np.searchsorted(self.labels.values, found)
                    else:
                        classes[piece] = self.labels.per_file[index]
                    parts[piece] = self._members(index, start, stop)
                    if self._sampler:
                        self.drawn.add(values, rows[piece], classes[piece], index)
                    at = piece.stop
            if self._sampler:
                self._sampler.add(rows)
            yield rows, classes, parts
        if self._sampler:
            self._sample, self._sampler = self._sampler.result(), None
            if encoder.truncated:
                self.warnings.append(
                    f"{encoder.truncated} values beyond the longest list of the specs were dropped"
                )

    def _members(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        key = f"{index}:{self._files[index].uuid}"
        return membership(self._params.seed, key, start, stop, self._split)

    def _count(self) -> NDArray[np.int64]:
        """Events by class and part, shape (k, 3)."""
        counts = np.zeros((self.n_classes, 3), np.int64)
        label = self.labels.branch
        for index, (file, ranges) in enumerate(zip(self._files, self._use.ranges, strict=True)):
            if label is None:
                for start, stop in _cut(ranges, _MEMBERS):
                    parts = self._members(index, start, stop)
                    counts[self.labels.per_file[index]] += np.bincount(parts, minlength=3)
                continue
            for start, stop, events in file.blocks([label], ranges, _MEMBERS):
                classes = np.searchsorted(self.labels.values, _label_values(events, label))
                places = classes * 3 + self._members(index, start, stop)
                counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
        return counts

    def _check_counts(self) -> None:
        for name, (train, validation, test) in zip(self.classes, self.counts, strict=True):
            if not train:
                raise DataError(
                    f"the class {name!r} has no event to train on "
                    f"({validation} validate, {test} test)",
                    "Use more events (nevts), or another split.",
                )
            if self.test_events and not test:
                self.warnings.append(f"the class {name!r} has no event in the test part")

    def _find_specs(
        self, selection: Selection, given: Path | None, cwd: Path, progress: Progress
    ) -> Specs:
        """Specs that fit: the given file, else global-specs.json here, else a new scan."""
        records = [file.record for file in self._files]
        wanted = selection.as_dict() | self._use.as_dict()
        if given is not None:
            specs = Specs.load(cwd / given)
            specs.check_fits(records, wanted)
            return specs
        path = cwd / SPECS_FILE
        if path.exists():
            try:
                specs = Specs.load(path)
                specs.check_fits(records, wanted)
            except DataError as error:
                self.warnings.append(f"{SPECS_FILE} is made anew: {error.message}")
            else:
                return specs
        specs = scan(self._files, selection, self._use, progress)
        try:
            specs.save(path)
        except OSError as error:
            self.warnings.append(f"{path} can't be written: {error.strerror}")
        return specs

    def _fill(self, cache_bytes: int, progress: Progress) -> None:
        """Keep in memory what fits: validation first, then training, then test."""
        counts = {TRAIN: self.train_events, VALIDATION: self.validation_events}
        counts[TEST] = self.test_events
        for part in (VALIDATION, TRAIN, TEST):
            size = counts[part] * (self.width * 4 + 8)
            if size <= cache_bytes:
                cache_bytes -= size
                rows = np.empty((counts[part], self.width), np.float32)
                self._cache[part] = rows, np.empty(counts[part], np.int64)
        if not any(counts[part] for part in self._cache):
            return
        at = dict.fromkeys(self._cache, 0)
        done, total = 0, sum(self._use.counts)
        for rows, classes, parts in _ahead(self.chunks()):
            for part, (all_rows, all_classes) in self._cache.items():
                wanted = parts == part
                stop = at[part] + int(np.count_nonzero(wanted))
                np.compress(wanted, rows, axis=0, out=all_rows[at[part] : stop])
                np.compress(wanted, classes, out=all_classes[at[part] : stop])
                at[part] = stop
            done += len(classes)
            progress("reading", done, total)


def _cut(ranges: Sequence[Range], step: int) -> Iterator[Range]:
    """The ranges in steps of ``step`` at most."""
    for start, stop in ranges:
        for begin in range(start, stop, step):
            yield begin, min(begin + step, stop)


class _Sampler:
    """Collects evenly spaced rows, and those with the extremes of each column."""

    def __init__(self, width: int, events: int) -> None:
        self._every = max(1, events // _SAMPLE)
        self._done = 0
        self._spaced: list[Matrix] = []
        self._extremes = [
            _Extreme(np.full(width, np.inf, np.float32)),
            _Extreme(np.full(width, np.inf, np.float32)),
        ]

    def add(self, rows: Matrix) -> None:
        self._spaced.append(rows[-self._done % self._every :: self._every].copy())
        low, high = self._extremes
        low.add(rows, rows.min(axis=0), rows.argmin, self._done)
        high.add(rows, -rows.max(axis=0), rows.argmax, self._done)
        self._done += len(rows)

    def result(self) -> Matrix:
        width = len(self._extremes[0].best)
        corners = np.stack([np.zeros(width, np.float32), np.ones(width, np.float32)])
        held = self._extremes[0].rows | self._extremes[1].rows
        return np.concatenate([*self._spaced, *(row[None] for row in held.values()), corners])


class _Extreme:
    """The row that holds the least value so far, for each column; rows are shared."""

    def __init__(self, best: Matrix) -> None:
        self.best = best
        self.rows: dict[int, Matrix] = {}
        self._row_of = np.full(len(best), -1, np.int64)

    def add(self, rows: Matrix, least: Matrix, where: Any, offset: int) -> None:
        columns = np.flatnonzero(least < self.best)
        if not len(columns):
            return
        self.best[columns] = least[columns]
        indices = where(axis=0)[columns]
        self._row_of[columns] = indices + offset
        kept = set(self._row_of.tolist())
        self.rows = {index: row for index, row in self.rows.items() if index in kept}
        for index in np.unique(indices):
            self.rows.setdefault(int(index) + offset, rows[index].copy())


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made by a thread while this one is used."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the reader
            put(None, error)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=work, name="mlaas4hep-read", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
