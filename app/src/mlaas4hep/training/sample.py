"""Rows drawn from the stream of events: to compare two forms of a model, and to look at columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data import Events, Jagged, Specs
from mlaas4hep.frameworks.base import Classes, Matrix, Truth

SAMPLE_BYTES = 16 << 20
SAMPLE_EVENTS = 5000  # of one class
_SPACED = 1000  # rows, evenly spaced, for comparing ONNX with the native model


class Sample:
    """Rows of every class, evenly spread over the stream, with class, truth and file.

    ``rows``: float32 of shape (events, columns), as a model sees them, without a mask; ``counts``:
    int32 of shape (events, jagged branches with columns), the number of values that each list had.
    ``truth`` are their classes or, if they are all of one, their targets, of type ``dtype``.
    """

    def __init__(self, specs: Specs, events: Sequence[int], dtype: type = np.int64) -> None:
        self._jagged = [name for name in specs.jagged if specs.jdim[name]]
        self._width = specs.n_values
        size = 4 * (self._width + len(self._jagged)) * len(events)
        most = max(1, min(SAMPLE_EVENTS, SAMPLE_BYTES // size))
        self._every = [max(1, -(-count // most)) for count in events]
        self._seen = [0] * len(events)
        self._done = 0
        total = sum(-(-n // every) for n, every in zip(events, self._every, strict=True))
        self._rows = np.empty((total, self._width), np.float32)
        self._counts = np.empty((total, len(self._jagged)), np.int32)
        self._classes = np.empty(total, np.int64)
        self._truth: Truth = np.empty(total, dtype)
        self._files = np.empty(total, np.int64)

    @property
    def weights(self) -> NDArray[np.int64]:
        """How many events of its class each row stands for."""
        return np.array(self._every)[self.classes]

    @property
    def rows(self) -> Matrix:
        """What was drawn so far."""
        return self._rows[: self._done]

    @property
    def counts(self) -> NDArray[np.int32]:
        """Values per list."""
        return self._counts[: self._done]

    @property
    def classes(self) -> Classes:
        """The class of each row."""
        return self._classes[: self._done]

    @property
    def truth(self) -> Truth:
        """The class of each row, or its target."""
        return self._truth[: self._done]

    @property
    def files(self) -> NDArray[np.int64]:
        """The position of each row's file."""
        return self._files[: self._done]

    def add(self, events: Events, rows: Matrix, classes: Classes, truth: Truth, file: int) -> None:
        """Draw from the next events of a file; ``rows`` are what they became."""
        drawn = []
        for one in np.unique(classes):
            at = np.flatnonzero(classes == one)
            drawn.append(at[-self._seen[one] % self._every[one] :: self._every[one]])
            self._seen[one] += len(at)
        index = np.sort(np.concatenate(drawn))
        if not len(index):
            return
        here = slice(self._done, self._done + len(index))
        self._done = here.stop
        self._rows[here] = rows[index, : self._width]
        self._classes[here], self._files[here] = classes[index], file
        self._truth[here] = truth[index]
        known: dict[int, NDArray[np.int64]] = {}
        for column, name in enumerate(self._jagged):
            lists = events[name]
            if isinstance(lists, Jagged):
                if id(lists.offsets) not in known:
                    known[id(lists.offsets)] = lists.counts[index]
                self._counts[here, column] = known[id(lists.offsets)]


class RowsToCompare:
    """Evenly spaced rows of a stream, and those that hold the extremes of each column."""

    def __init__(self, width: int, events: int) -> None:
        self._every = max(1, events // _SPACED)
        self._done = 0
        self._spaced: list[Matrix] = []
        self._extremes = [
            _Extreme(np.full(width, np.inf, np.float32)),
            _Extreme(np.full(width, np.inf, np.float32)),
        ]

    def add(self, rows: Matrix) -> None:
        """Take in the next rows of the stream."""
        self._spaced.append(rows[-self._done % self._every :: self._every].copy())
        low, high = self._extremes
        low.add(rows, rows.min(axis=0), rows.argmin, self._done)
        high.add(rows, -rows.max(axis=0), rows.argmax, self._done)
        self._done += len(rows)

    def result(self) -> Matrix:
        """What was found, then a row of zeros and one of ones; shape (rows, columns)."""
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
