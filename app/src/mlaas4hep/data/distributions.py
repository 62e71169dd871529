"""How the values of each branch are distributed, class by class, found as events pass by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.events import Events, Jagged
from mlaas4hep.data.preprocess import Cleaner
from mlaas4hep.data.specs import Specs

BINS = 50
_MOST_LENGTHS = 50
Counts = NDArray[np.float64]


@dataclass
class Distribution:
    """One branch: ``counts``, float64 of shape (classes, bins), between ``edges``.

    They are sums of weights. ``missing`` and ``values`` are those of all values, by class;
    ``lengths``, of shape (classes, lengths), counts events by the number of values in a list, in
    the last the events with as many or more; None of a flat branch.
    """

    edges: NDArray[np.float64]
    counts: Counts
    missing: Counts
    values: Counts
    lengths: Counts | None = None


@dataclass
class Distributions:
    """Those of all branches that have columns, and of the events; memory is that of the bins.

    A branch of whole numbers over less than ``BINS`` has a bin for each, others have ``BINS`` of
    one width over the range that the specs give.
    """

    specs: Specs
    classes: Sequence[str]
    weighted: bool = False
    events: Counts = field(init=False)
    """Sums of the weights of all events, by class."""
    of_branches: dict[str, Distribution] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.events = np.zeros(len(self.classes))
        self._clean = {
            name: self.specs.preprocessing.cleaner(name) or Cleaner((), (None, None))
            for name in (*self.specs.flat, *self.specs.jagged)
        }

    def add(self, events: Events, classes: NDArray[Any], weights: Counts | None = None) -> None:
        """Take in events, after the derivation if there is one; one class, one weight an event."""
        k = len(self.classes)
        if weights is None:
            weights = np.ones(len(classes))
        self.events += np.bincount(classes, weights, k)
        for name in self.specs.flat:
            values = events[name]
            assert not isinstance(values, Jagged)  # noqa: S101
            self._fill(name, values, classes, weights)
        for name in self.specs.jagged:
            lists = events[name]
            assert isinstance(lists, Jagged)  # noqa: S101
            if not self.specs.jdim[name]:
                continue
            counts = lists.counts
            content = lists.content[lists.offsets[0] : lists.offsets[-1]]
            found = self._fill(
                name, content, np.repeat(classes, counts), np.repeat(weights, counts)
            )
            most = min(self.specs.jdim[name], _MOST_LENGTHS) + 1
            if found.lengths is None:
                found.lengths = np.zeros((k, most))
            places = classes * most + np.minimum(counts, most - 1)
            found.lengths += np.bincount(places, weights, k * most).reshape(k, most)

    def _fill(
        self, name: str, values: NDArray[Any], classes: NDArray[Any], weights: Counts
    ) -> Distribution:
        k = len(self.classes)
        found = self.of_branches.get(name) or self._new(name, values.dtype.kind != "f")
        values, missing = self._clean[name](values)
        found.values += np.bincount(classes, weights, k)
        if missing is not None:
            found.missing += np.bincount(classes[missing], weights[missing], k)
            values, classes, weights = (each[~missing] for each in (values, classes, weights))
        bins = found.counts.shape[1]
        low, high = found.edges[0], found.edges[-1]
        # Halves, so that no difference exceeds what float64 holds.
        share = (values / 2 - low / 2) / (high / 2 - low / 2)
        places = np.clip((share * bins).astype(np.int64), 0, bins - 1)
        counts = np.bincount(classes * bins + places, weights, k * bins)
        found.counts += counts.reshape(k, bins)
        return found

    def _new(self, name: str, is_whole: bool) -> Distribution:
        low, high = self.specs.minv[name], self.specs.maxv[name]
        if is_whole and high - low < BINS:
            edges = np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
        elif low == high:
            size = max(abs(low), 1) / 2
            edges = np.array([low - size, low + size])
        else:
            edges = 2 * np.linspace(low / 2, high / 2, BINS + 1)  # see _fill
        k = len(self.classes)
        counts = np.zeros((k, len(edges) - 1))
        found = Distribution(edges, counts, np.zeros(k), np.zeros(k))
        self.of_branches[name] = found
        return found
