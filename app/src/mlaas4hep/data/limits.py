"""Which values of rows lie beyond all that the training saw in their branch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.specs import Specs

LARGE_SHARE = 0.01
"""Share of a branch's values beyond those of the training that data of the same source don't reach.

Of values from the same source, 1 in n + 1 is expected above the highest of the training's n: from
some hundred on, far less than this, also where a class is rarer or the simulation another. In other
units it is most of them.
"""
_SINGLE = float(np.finfo(np.float32).eps)
"""Relative distance of neighbours among numbers of float32."""
_ROUNDING = 4 * _SINGLE
"""More than what a subtraction and a division in float32 may change, relatively."""


class Limits:
    """The training's lowest and highest value in each column, as float32 rows hold them.

    Rows are compared as a whole, not branch by branch: this costs a request of one event little,
    too. What float32 can't tell from a limit is within: a file may hold float32 where another has
    doubles, and a client prints numbers and reads them again.
    """

    def __init__(self, specs: Specs) -> None:
        self.branches = [*specs.flat, *(k for k in specs.jagged if specs.jdim[k])]
        self.widths = [specs.jdim.get(k, 1) for k in self.branches]
        """How many columns each of ``branches`` has."""
        low, high = (np.array([at[k] for k in self.branches]) for at in (specs.minv, specs.maxv))
        # Halved, as a range beyond float64's would be infinite.
        low, high = low / 2, high / 2
        if specs.preprocessing.normalisation == "standard":
            offset = np.array([specs.mean[k] for k in self.branches]) / 2
            span = np.array([specs.std[k] for k in self.branches]) / 2
        else:
            offset, span = low, high - low
        span = np.where(span, span, 1)  # rows hold nothing of a constant branch but 0
        with np.errstate(over="ignore"):
            low = (low - _SINGLE * np.abs(low) - offset) / span * (1 + _ROUNDING)
            high = (high + _SINGLE * np.abs(high) - offset) / span * (1 + _ROUNDING)
            # Padding and missing values, which rows hold as 0, are within.
            self._low = np.repeat(np.minimum(low, 0).astype(np.float32), self.widths)
            self._high = np.repeat(np.maximum(high, 0).astype(np.float32), self.widths)

    def beyond(self, rows: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where values of an Encoder's rows lie below the lowest, and above the highest.

        Both are of shape (n, ``specs.n_values``): columns of a mask are left out. False where there
        is padding, a missing value, or a constant branch, whose columns are 0 whatever it holds;
        clipped values count as the bound.
        """
        values = rows[:, : len(self._low)]
        return values < self._low, values > self._high
