"""The observers' values of test events, kept for the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Events, Jagged
from mlaas4hep.data.preprocess import Cleaner

MOST_EVENTS = 200_000
MOST_BYTES = 64 << 20
"""Of all values; with many observers there are fewer events."""


class Observed:
    """Values of observers for test events: all, or as many as fit the limits, drawn by ``seed``.

    ``places``, int64 of shape (n,) and sorted, are the events' positions in the test part;
    ``values`` have them by observer, float64 of shape (n,), NaN where one is missing. ``events`` is
    how many the test part has.
    """

    def __init__(self, observers: Mapping[str, Cleaner], events: int, seed: int) -> None:
        """``observers`` find what is missing."""
        self._cleaners, self.events = observers, events
        most = min(MOST_EVENTS, MOST_BYTES // (8 * max(1, len(observers))))
        self.places = np.arange(events if observers else 0)
        if len(self.places) > most:
            drawn = np.random.default_rng(seed).choice(events, most, replace=False, shuffle=False)
            self.places = np.sort(drawn)
        self.values = {name: np.full(len(self.places), np.nan) for name in observers}
        self._done = 0

    def add(self, events: Events, is_test: NDArray[np.bool_]) -> None:
        """Take in the next events of the stream, of which some are of the test part."""
        first, self._done = self._done, self._done + int(np.count_nonzero(is_test))
        start, stop = np.searchsorted(self.places, (first, self._done))
        if start == stop:
            return
        index = np.flatnonzero(is_test)[self.places[start:stop] - first]
        for name, clean in self._cleaners.items():
            of_all = events[name]
            if isinstance(of_all, Jagged):
                raise DataError(f"the observer {name} is a list in these events, not a number")
            values, missing = clean(of_all[index])
            kept = self.values[name][start:stop]
            kept[:] = values
            if missing is not None:
                kept[missing] = np.nan
