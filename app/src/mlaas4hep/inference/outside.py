"""Warns of files with values that the training never reached, such as those in other units."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data import Branch, Events, Jagged, Limits, Specs
from mlaas4hep.data.encode import Mask, Values
from mlaas4hep.data.limits import LARGE_SHARE

CHANCE = 1e-5
"""How improbable as many must be, which matters for few events and after small trainings.

With a hundred branches of two ends each, that is one false alarm in 500 files.
"""
NEARLY_ALL = 0.99
"""Share of clipped values that no useful branch has: the training clipped some, too, or many."""
MANY = 100
"""Of fewer values, nearly all may be clipped by chance."""
MOST_NAMED = 10


class Outside:
    """Counts, by branch, the values of events that lie beyond all of the training."""

    def __init__(self, specs: Specs) -> None:
        self._specs, self._limits = specs, Limits(specs)
        self._selection = bool(specs.derivation and specs.derivation.cuts.selection)
        self._sifted = False
        self._seen = self._counted = 0
        self._values, self._below, self._above = np.zeros((3, specs.n_values), np.int64)
        clipped = specs.preprocessing.clip.keys() & set(self._limits.branches)
        varied = (k for k in sorted(clipped) if specs.minv[k] < specs.maxv[k])
        self._clipped = {k: _Clipped(specs, k) for k in varied}

    def add(
        self, events: Events, rows: Values, mask: Mask, passing: NDArray[np.bool_] | None = None
    ) -> None:
        """Count events, as they are after derivation, whose rows and mask the encoder gave.

        Only those ``passing`` the training's selection are counted, if it is known.
        """
        self._seen += len(rows)
        for branch, clipped in self._clipped.items():
            clipped.add(events[branch])
        if passing is not None:
            self._sifted = True
            rows, mask = rows[passing], mask[passing]
        self._counted += len(rows)
        below, above = self._limits.beyond(rows)
        self._values += np.count_nonzero(mask[:, : below.shape[1]] == 0, axis=0)
        self._below += np.count_nonzero(below, axis=0)
        self._above += np.count_nonzero(above, axis=0)

    def warnings(self) -> list[str]:
        """A line for each branch with too many such values, the largest share first."""
        ask = "Is the file in the same units?"
        if self._seen and not self._counted:
            return [f"none of the {self._seen} events passes the training's selection. {ask}"]
        if self._selection and not self._sifted:
            ask += " (Events that the training's selection drops are counted, too.)"
        found = self._beyond()
        for branch, clipped in self._clipped.items():
            if branch not in found and (nearly_all := clipped.nearly_all()):
                found[branch] = nearly_all
        worst = sorted(found, key=lambda branch: -found[branch][0])
        lines = [
            f"{branch}: {100 * share:.3g} % of the values are {where}. {ask}"
            for branch in worst[:MOST_NAMED]
            for share, where in [found[branch]]
        ]
        if more := len(worst) - len(lines):
            lines.append(f"... and {more} more branches have values beyond those of the training")
        return lines

    def _beyond(self) -> dict[str, tuple[float, str]]:
        """By branch: which share lies where, if many lie below the lowest or above the highest."""
        found = {}
        # The training had as many values in an event: this is the chance of any to be a new one.
        new = self._counted / max(self._counted + self._specs.scanned, 1)
        first = np.cumsum([0, *self._limits.widths[:-1]])
        totals = (np.add.reduceat(each, first) for each in (self._values, self._below, self._above))
        for branch, values, below, above in zip(self._limits.branches, *totals, strict=True):
            many = int(max(below, above))
            if many <= LARGE_SHARE * values or new**many > CHANCE:
                continue
            if above >= below:
                where = f"above {self._specs.maxv[branch]:.6g}, the highest in the training"
            else:
                where = f"below {self._specs.minv[branch]:.6g}, the lowest in the training"
            found[branch] = (many / int(values), where)
        return found


class _Clipped:
    """Counts the values of one branch beyond the bounds to which they are clipped."""

    def __init__(self, specs: Specs, branch: str) -> None:
        self._clean = specs.preprocessing.cleaner(branch)
        self._low, self._high = specs.preprocessing.clip[branch]
        self._values = self._below = self._above = 0

    def add(self, branch: Branch) -> None:
        values: NDArray[Any] = branch.content if isinstance(branch, Jagged) else branch
        if isinstance(branch, Jagged):
            values = values[branch.offsets[0] : branch.offsets[-1]]
        assert self._clean  # noqa: S101
        _, missing = self._clean(values)
        if missing is not None:
            values = values[~missing]
        self._values += len(values)
        if self._low is not None:
            self._below += int(np.count_nonzero(values < self._low))
        if self._high is not None:
            self._above += int(np.count_nonzero(values > self._high))

    def nearly_all(self) -> tuple[float, str] | None:
        """Which share is clipped at which bound, if it is nearly all."""
        many = max(self._below, self._above)
        if self._values < MANY or many < NEARLY_ALL * self._values:
            return None
        if self._above >= self._below:
            return many / self._values, f"above {self._high:.6g}, to which they are clipped"
        return many / self._values, f"below {self._low:.6g}, to which they are clipped"
