"""How the values of each branch are distributed, class by class: histograms that chunks fill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.encode import Scale
from mlaas4hep.data.events import Events, Jagged
from mlaas4hep.data.specs import Specs
from mlaas4hep.data.target import Target

BINS = 50
MOST_CLASSES = 10
"""Classes that have histograms of their own; all others share one."""

Values = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Binning:
    """Bins of equal width: ``edges``, float64 of shape (n + 1,), lie ``factor`` times closer.

    The factor is 1 but for a range beyond float64's. Values at the last edge are in the last bin.
    """

    edges: Floats
    factor: float = 1.0
    is_whole: bool = False
    """Whether each bin holds the same number of whole numbers."""

    @classmethod
    def of(cls, low: float, high: float, whole: bool, bins: int = BINS) -> Binning:
        """From ``low`` to ``high``; with ``whole``, around the whole numbers from low to high.

        Up to twice as many whole numbers as ``bins`` get a bin each; of more, several share one.
        """
        span = high - low
        if whole and max(abs(low), abs(high)) < 2**52:
            width = 1 if span < 2 * bins else math.ceil((span + 1) / bins)
            count = math.ceil((span + 1) / width)
            return cls(low - 0.5 + width * np.arange(count + 1.0), is_whole=True)
        if span == 0:
            half = max(0.5, 2 * float(np.spacing(abs(low))))
            factor = 1.0 if abs(low) < 1e300 else 0.5
            return cls(np.array([low * factor - half, low * factor + half]), factor)
        factor = 1.0 if math.isfinite(span) else 0.5
        edges = np.linspace(low * factor, high * factor, bins + 1)
        if (np.diff(edges) <= 0).any():  # fewer numbers than bins between low and high
            edges = edges[[0, -1]]
        return cls(edges, factor)

    def normalised(self, offset: float, span: float) -> Binning:
        """The same bins of (value x factor - offset) / span; those of a constant are around 0."""
        return Binning((self.edges - offset) / span if span else np.array([-0.5, 0.5]))

    @property
    def real(self) -> Floats:
        """The edges as numbers of the branch."""
        most = np.finfo(np.float64).max
        with np.errstate(over="ignore"):
            return np.clip(self.edges / self.factor, -most, most)

    def places(self, values: Values) -> NDArray[np.int64]:
        """The bin of each value from 1 on, 0 below the first, n + 1 above the last or missing."""
        bins = len(self.edges) - 1
        low, high = float(self.edges[0]), float(self.edges[-1])
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values.astype(np.float64)
            if self.factor != 1.0:
                scaled *= self.factor
            below, inside = scaled < low, scaled <= high
            scaled -= low
            scaled /= high - low
            scaled *= bins
            places = np.clip(scaled, 0, bins - 1).astype(np.int64) + 1
        places[~inside] = bins + 1
        places[below] = 0
        return places


@dataclass(frozen=True)
class Histogram:
    """Counts of values by class and bin; arrays of shape (classes, bins + 2).

    The first and the last cell of a class are what lies below and above the bins. ``missing``,
    of shape (classes,), counts NaN and infinite values, which are in no cell.
    """

    binning: Binning
    entries: NDArray[np.int64]
    sums: Floats
    """Of weights; float64 of shape (0, 0), as ``squares``, where all events count alike."""
    squares: Floats
    missing: NDArray[np.int64]

    @classmethod
    def empty(cls, binning: Binning, classes: int, weighted: bool) -> Histogram:
        """Zeros, to be added to."""
        shape = classes, len(binning.edges) + 1
        of_weights = shape if weighted else (0, 0)
        return cls(
            binning,
            np.zeros(shape, np.int64),
            np.zeros(of_weights),
            np.zeros(of_weights),
            np.zeros(classes, np.int64),
        )

    @property
    def is_weighted(self) -> bool:
        """Whether events count by their weight."""
        return self.sums.size > 0

    @property
    def contents(self) -> Floats:
        """What each cell holds: the sum of weights, or the number of values."""
        return self.sums if self.is_weighted else self.entries.astype(np.float64)

    @property
    def variances(self) -> Floats:
        """Of ``contents``: the sum of the squared weights."""
        return self.squares if self.is_weighted else self.entries.astype(np.float64)

    @property
    def values(self) -> NDArray[np.int64]:
        """All values of each class, missing ones included, shape (classes,)."""
        values: NDArray[np.int64] = self.entries.sum(axis=1) + self.missing
        return values

    def add(self, values: Values, classes: NDArray[np.int64], weights: Floats | None) -> None:
        """Take in values, each with its class and weight."""
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            self.missing[:] += np.bincount(classes[~finite], minlength=len(self.missing))
            values, classes = values[finite], classes[finite]
            weights = None if weights is None else weights[finite]
        shape, size = self.entries.shape, self.entries.size
        cells = classes * shape[1] + self.binning.places(values)
        self.entries[:] += np.bincount(cells, minlength=size).reshape(shape)
        if weights is not None:
            self.sums[:] += np.bincount(cells, weights, size).reshape(shape)
            self.squares[:] += np.bincount(cells, weights * weights, size).reshape(shape)


@dataclass(frozen=True)
class BranchHistograms:
    """One branch. ``after`` is None where nothing is normalised, ``lengths`` of a flat branch.

    ``before`` has the values as they are in the file, ``after`` those that became columns as the
    model sees them: a missing one is 0. Neither has padding. ``lengths`` counts the values that
    each event has; its last bin is the longest list that fits the columns.
    """

    before: Histogram
    after: Histogram | None
    lengths: Histogram | None


@dataclass
class Distributions:
    """The histograms of every branch of ``specs`` that has a column, filled chunk by chunk.

    Their ranges are those of the specs, so memory does not grow with the events. ``classes`` are
    all names of classes.
    """

    specs: Specs
    classes: Sequence[str]
    weighted: bool = False
    normalised: bool = True
    """Whether ``add`` gets rows."""
    target: tuple[Target, Binning] | None = None
    """What a regression predicts, drawn like a branch, and the bins of its values."""
    events: NDArray[np.int64] = field(init=False)
    """Events seen, by label; shape (labels,)."""
    _of: dict[str, BranchHistograms] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.events = np.zeros(len(self.labels), np.int64)
        if self.target:
            target, bins = self.target
            after = bins.normalised(target.mean * bins.factor, target.std * bins.factor)
            both = BranchHistograms(self._empty(bins), self._empty(after), None)
            self._of[target.branch] = both

    def add_target(
        self, values: Floats, classes: NDArray[np.int64], weights: Floats | None
    ) -> None:
        """Take in the targets of events, in their own units."""
        assert self.target  # noqa: S101
        target = self.target[0]
        found = self._of[target.branch]
        found.before.add(values, classes, weights)
        assert found.after  # noqa: S101
        found.after.add(target.normalise(values), classes, weights)

    @property
    def labels(self) -> list[str]:
        """What the histograms are told apart by: the classes, of many the first and the others."""
        if len(self.classes) <= MOST_CLASSES:
            return list(self.classes)
        others = len(self.classes) - MOST_CLASSES
        return [*self.classes[:MOST_CLASSES], f"{others} other class{'es' if others > 1 else ''}"]

    def __iter__(self) -> Iterator[tuple[str, BranchHistograms]]:
        return iter(self._of.items())

    def __len__(self) -> int:
        return len(self._of)

    def add(
        self,
        events: Events,
        classes: NDArray[np.int64],
        rows: Values | None = None,
        weights: Floats | None = None,
    ) -> None:
        """Take in events, and the rows that an Encoder of the specs made of them.

        ``classes``, int64, and ``weights``, float64, are those of the events.
        """
        classes = np.minimum(classes, len(self.labels) - 1)
        self.events += np.bincount(classes, minlength=len(self.labels))
        column = 0
        for branch in self.specs.flat:
            values = events[branch]
            assert not isinstance(values, Jagged)  # noqa: S101  (the Encoder refuses it)
            found = self._of.get(branch) or self._begin(branch, values.dtype)
            found.before.add(values, classes, weights)
            if found.after and rows is not None:
                found.after.add(rows[:, column], classes, weights)
            column += 1
        lists: dict[tuple[int, int], _Lists] = {}
        for branch in self.specs.jagged:
            if not (length := self.specs.jdim[branch]):
                continue
            values = events[branch]
            assert isinstance(values, Jagged)  # noqa: S101
            offsets = values.offsets
            found = self._of.get(branch) or self._begin(branch, values.content.dtype)
            key = id(offsets), length
            if key not in lists:
                lists[key] = _Lists(values.counts, length, classes, weights)
            of = lists[key]
            found.before.add(values.content[offsets[0] : offsets[-1]], *of.of_values)
            if found.after and rows is not None:
                found.after.add(rows[:, column : column + length][of.kept], *of.of_kept)
            if found.lengths:
                found.lengths.add(of.counts, classes, weights)
            column += length

    def _begin(self, branch: str, dtype: np.dtype[Any]) -> BranchHistograms:
        low, high = self.specs.minv[branch], self.specs.maxv[branch]
        binning = Binning.of(low, high, whole=dtype.kind in "biu")
        after = None
        if self.normalised:
            after = self._empty(self._normalised(branch, binning))
        lengths = None
        if branch in self.specs.jdim:
            lengths = self._empty(Binning.of(0, self.specs.jdim[branch], whole=True))
        self._of[branch] = BranchHistograms(self._empty(binning), after, lengths)
        return self._of[branch]

    def _normalised(self, branch: str, binning: Binning) -> Binning:
        """The same bins in the model's column; that of a constant is 0."""
        scale = Scale.of(self.specs, branch)
        factor = binning.factor / scale.factor
        return binning.normalised(scale.offset * factor, scale.span * factor)

    def _empty(self, binning: Binning) -> Histogram:
        return Histogram.empty(binning, len(self.labels), self.weighted)


class _Lists:
    """Class and weight of each value, for branches whose lists have the same lengths."""

    def __init__(
        self,
        counts: NDArray[np.int64],
        length: int,
        classes: NDArray[np.int64],
        weights: Floats | None,
    ) -> None:
        self.counts = counts
        self.kept = np.arange(length) < counts[:, None]
        """Which cells of an event's columns hold a value."""
        self.of_values = _repeated(counts, classes, weights)
        self.of_kept = _repeated(np.minimum(counts, length), classes, weights)


def _repeated(
    counts: NDArray[np.int64], classes: NDArray[np.int64], weights: Floats | None
) -> tuple[NDArray[np.int64], Floats | None]:
    return np.repeat(classes, counts), None if weights is None else np.repeat(weights, counts)
