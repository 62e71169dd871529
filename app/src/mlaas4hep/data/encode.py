"""From events to rows: pad, normalise, and put each value into its column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlaas4hep.core.errors import DataError, EventError, did_you_mean
from mlaas4hep.core.units import many
from mlaas4hep.data.events import Events, Jagged
from mlaas4hep.data.preprocess import Cleaner
from mlaas4hep.data.specs import Specs

PADDING = 0.0
"""What a place beyond the end of a list, or of a missing value, holds in a row."""
Values = NDArray[Any]
Mask = NDArray[np.int8]


class Encoder:
    """Makes a matrix of events: one row per event, one column for each of ``specs.columns``.

    A value x becomes (x - min) / (max - min), from 0 to 1 for what the specs were made from, or
    (x - mean) / standard deviation, as ``specs.preprocessing`` says; nothing is clipped unless it
    says so. A constant branch becomes 0; padding and missing values (NaN, infinite, sentinels)
    become PADDING. With a mask, the second half of the columns is 1 where the first is padding or
    missing, else 0. Lists are padded at the right; values beyond the longest
    list of the specs are dropped and, unless the branch is limited, counted in ``truncated``.

    Branches of float16 and float32 whose range is exact in float32 are computed in float32, others
    (integers, bool, doubles) in float64; 64-bit integers beyond 2**53 are rounded to it first.
    """

    def __init__(self, specs: Specs, dtype: DTypeLike = np.float32) -> None:
        self.columns = specs.columns
        self.width = len(self.columns)
        self.dtype = np.dtype(dtype)
        self.truncated = 0
        if not self.width:
            raise DataError(
                "the specs have no column: no flat branch, and every list is empty",
                "Select other branches.",
            )
        self._mask_at = specs.n_values if specs.preprocessing.mask else 0
        self._flat = [(k, Scale.of(specs, k)) for k in specs.flat]
        self._jagged = []
        column = len(specs.flat)
        for branch in specs.jagged:
            if length := specs.jdim[branch]:
                self._jagged.append((branch, Scale.of(specs, branch), column, length))
                column += length
        self._limited = set(specs.limited)
        self._derivation = specs.derivation and specs.derivation.without_selection
        self.operations = self._derivation.nodes if self._derivation else 0
        """Those of the expressions, for each event or each entry of its lists."""
        self._first_of = {k: group[0] for group in specs.collections for k in group[1:]}
        self._branches = [*(k for k, _ in self._flat), *(item[0] for item in self._jagged)]

    def encode(self, events: Events, out: Values | None = None, mask: Mask | None = None) -> Values:
        """Events, as they are in the tree, as a C-contiguous matrix of shape (n, width).

        Cuts on objects and new variables of the specs are applied first; the selection is not.
        ``out``, such a matrix of the encoder's dtype, is filled and returned if given. ``mask``,
        int8 of the same shape, is set to 1 where there was padding or a missing value, to 0
        elsewhere. Branches beyond those of the specs are ignored. Raises DataError naming a branch
        that is absent, not numeric, jagged where it should be flat (or the other way round), or of
        another length; EventError naming two branches whose lists, of one collection, differ in
        length.
        """
        return self.fill(self.derive(events), out, mask)

    def derive(self, events: Events) -> Events:
        """The events after cuts on objects and with new variables, which ``fill`` takes."""
        return self._derivation.derive(events) if self._derivation else events

    def fill(self, events: Events, out: Values | None = None, mask: Mask | None = None) -> Values:
        """``encode`` for events that ``derive`` gave."""
        n = self._count(events)
        if out is None:
            out = np.empty((n, self.width), self.dtype)
        self._check("out", out, self.dtype, n)
        if mask is not None:
            self._check("mask", mask, np.dtype(np.int8), n)
        with np.errstate(over="ignore", invalid="ignore"):
            out.fill(PADDING)
            if self._mask_at:
                out[:, self._mask_at :] = 1
            if mask is not None:
                mask.fill(1)
                if self._mask_at:
                    mask[:, self._mask_at :] = 0
            self._fill_flat(events, out, mask)
            self._fill_jagged(events, out, mask)
        return out

    def _fill_flat(self, events: Events, out: Values, mask: Mask | None) -> None:
        for column, (branch, scale) in enumerate(self._flat):
            values = events[branch]
            if isinstance(values, Jagged):
                raise DataError(f"the branch {branch} is jagged, expected one value per event")
            out[:, column], missing = scale(values)
            if self._mask_at:
                out[:, self._mask_at + column] = 0 if missing is None else missing
            if mask is not None:
                mask[:, column] = 0 if missing is None else missing

    def _fill_jagged(self, events: Events, out: Values, mask: Mask | None) -> None:
        cells, gaps = out.reshape(-1), None if mask is None else mask.reshape(-1)
        known: dict[int | bytes, _Lists] = {}
        lists_of: dict[str, _Lists] = {}
        for branch, scale, column, length in self._jagged:
            values = events[branch]
            if not isinstance(values, Jagged):
                raise DataError(f"the branch {branch} is flat, expected a list per event")
            offsets = values.offsets
            lists = lists_of[branch] = _find(known, offsets, self.width)
            first = self._first_of.get(branch)
            if first and lists is not lists_of[first]:
                _refuse(first, lists_of[first].counts, branch, lists.counts)
            index, kept = lists.within(length)
            scaled, missing = scale(values.content[offsets[0] : offsets[-1]])
            if kept is not None:
                if branch not in self._limited:
                    self.truncated += len(scaled) - len(index)
                scaled = scaled[kept]
                missing = None if missing is None else missing[kept]
            cells[column:][index] = scaled
            if self._mask_at:
                cells[self._mask_at + column :][index] = 0 if missing is None else missing
            if gaps is not None:
                gaps[column:][index] = 0 if missing is None else missing

    def _count(self, events: Events) -> int:
        """The number of events, the same in every branch."""
        n = -1
        for branch in self._branches:
            if branch not in events:
                raise DataError(
                    f"the events lack the branch {branch!r}", did_you_mean(branch, events)
                )
            values = events[branch]
            content = values.content if isinstance(values, Jagged) else values
            if content.dtype.kind not in "biuf" or content.ndim != 1:
                raise DataError(
                    f"the branch {branch} holds {content.dtype} of {content.ndim} dimensions,"
                    " expected numbers"
                )
            if n not in (-1, len(values)):
                raise DataError(f"the branch {branch} has {len(values)} events, others have {n}")
            n = len(values)
        return n

    def _check(self, name: str, array: Values, dtype: np.dtype[Any], n: int) -> None:
        shape = (n, self.width)
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous, {dtype}, of shape {shape}")


@dataclass(frozen=True)
class Scale:
    """Normalises the values of one branch: (factor x - offset) / span; 0 where span is 0."""

    offset: float
    span: float
    factor: float
    single: bool
    """Whether float32 is exact enough for values of float32."""
    clean: Cleaner | None

    @classmethod
    def of(cls, specs: Specs, branch: str) -> Self:
        """As the specs say."""
        if specs.preprocessing.normalisation == "standard":
            numbers = offset, span = specs.mean[branch], specs.std[branch]
            factor = 1.0
        else:
            numbers = low, high = specs.minv[branch], specs.maxv[branch]
            # A range beyond float64's is halved, and so is what is put into it.
            factor = 1.0 if math.isfinite(high - low) else 0.5
            offset, span = low * factor, high * factor - low * factor
        with np.errstate(over="ignore"):
            exact = all(float(np.float32(x)) == x for x in numbers)
            single = exact and math.isfinite(np.float32(span))
        return cls(offset, span, factor, single, specs.preprocessing.cleaner(branch))

    def __call__(self, values: Values) -> tuple[Values, NDArray[np.bool_] | None]:
        """The normalised values, and where some are missing (None: nowhere)."""
        missing = None
        if self.clean:
            values, missing = self.clean(values)
        real = values.dtype.kind == "f"
        if not self.span:
            scaled = np.zeros(values.shape, np.float32)
        else:
            single = self.single and real and values.dtype.itemsize <= 4
            scaled = values.astype(np.float32 if single else np.float64)
            if self.factor != 1.0:
                scaled *= self.factor
            scaled -= self.offset
            scaled /= self.span
        if not self.clean and real and not (finite := np.isfinite(values)).all():
            missing = ~finite
        if missing is not None:
            scaled[missing] = PADDING
        return scaled, missing


class _Lists:
    """Where the values of lists go, for all branches whose lists have the same lengths."""

    def __init__(self, offsets: NDArray[np.int64], counts: NDArray[np.int64], width: int) -> None:
        self.offsets = offsets
        self.counts = counts
        self._longest = int(counts.max(initial=0))
        firsts = np.arange(len(counts)) * width - (offsets[:-1] - offsets[0])
        self._index = np.repeat(firsts, counts)
        self._index += np.arange(len(self._index))

    def within(self, length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Each value's cell, from the branch's first column, and which values fit ``length``.

        None means that all do.
        """
        if self._longest <= length:
            return self._index, None
        begins = np.repeat(self.offsets[:-1] - self.offsets[0], self.counts)
        kept = np.arange(len(self._index)) - begins < length
        return self._index[kept], kept


def _refuse(first: str, counts: NDArray[np.int64], second: str, others: NDArray[np.int64]) -> None:
    event = int(np.flatnonzero(counts != others)[0])
    raise EventError(
        event,
        f"{first} has {many(int(counts[event]), 'value')}, {second} has {others[event]}: in the"
        " training both had the same number in every event",
        "Lists that describe the same objects have one length.",
    )


def _find(known: dict[int | bytes, _Lists], offsets: NDArray[np.int64], width: int) -> _Lists:
    """The known lists of those lengths, or new ones, which are known from now on.

    By the array itself, which the branches of a collection share, or else by the lengths in it: one
    comparison is cheaper than to hash them, but comparing with all others would be quadratic.
    """
    if lists := known.get(id(offsets)):
        return lists
    counts = np.diff(offsets)
    key: int | bytes = int(offsets[0] - offsets[-1]) - 1  # no address is negative
    if (lists := known.get(key)) and not np.array_equal(lists.counts, counts):
        key = counts.tobytes()
        lists = known.get(key)
    lists = known[key] = known[id(offsets)] = lists or _Lists(offsets, counts, width)
    return lists
