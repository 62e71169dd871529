"""Events in memory, as read from a tree: one entry per branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Jagged:
    """A branch with a varying number of values per event.

    Event ``i`` holds ``content[offsets[i]:offsets[i + 1]]``; ``offsets`` is int64 of shape (n+1,)
    and need not start at 0; ``content`` is one-dimensional, numeric or bool.
    """

    offsets: NDArray[np.int64]
    content: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, events: slice) -> Jagged:
        """Events ``start:stop`` as a view; a step is not supported."""
        start, stop, step = events.indices(len(self))
        if step != 1:
            raise ValueError("a Jagged branch is sliced without a step")
        return Jagged(self.offsets[start : max(stop, start) + 1], self.content)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Values per event, int64 of shape (n,)."""
        return np.diff(self.offsets)


Branch = np.ndarray | Jagged
Events = Mapping[str, Branch]
"""Branch name to its values; every branch has the same number of events."""
