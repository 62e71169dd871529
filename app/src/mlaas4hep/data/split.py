"""Which events train, validate and test: a hash decides, so no order or state matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError, UsageError, did_you_mean

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The parts, as ``membership`` numbers them."""
MOST_FOLDS = 20
FOLD_VALIDATION = 0.2
"""Of the events outside the fold that tests."""

_REMEDY = (
    "Give the fraction held out for test, such as 0.2, or"
    ' {"train": 0.64, "validation": 0.16, "test": 0.2}.'
)


@dataclass(frozen=True, slots=True)
class Split:
    """Fractions of the events, which sum to 1; ``by`` names the branches that tell events apart.

    Without any, an event is known by its file and entry. With ``folds``, each event is in one of so
    many folds, and the test part is one fold; ``FOLD_VALIDATION`` of the others validates.
    """

    train: float = 0.64
    validation: float = 0.16
    test: float = 0.20
    by: tuple[str, ...] = ()
    folds: int = 0

    @classmethod
    def parse(cls, value: float | Mapping[str, Any] | None) -> Split:
        """What ``split`` in params.json means.

        None is the default; a number is the test's fraction, of the rest 80 % train and 20 %
        validate; a mapping names all three, ``by`` or both. Raises UsageError on anything else.
        """
        if value is None:
            return cls()
        if isinstance(value, Mapping):
            names = ("train", "validation", "test")
            known = (*names, "by", "folds")
            for key in value:
                if key not in known:
                    raise UsageError(
                        f"split has the unknown part {key!r}", did_you_mean(str(key), known)
                    )
            folds = value.get("folds", 0)
            if "folds" in value:
                if type(folds) is not int or not 2 <= folds <= MOST_FOLDS:
                    raise UsageError(
                        f"split: folds is {folds!r}, not a number from 2 to {MOST_FOLDS}", _REMEDY
                    )
                if both := set(names) & set(value):
                    raise UsageError(
                        f"split has folds and {min(both)}",
                        "Each fold is the test part of one model: leave the fractions out.",
                    )
            by = value.get("by", ())
            if isinstance(by, str) or not all(isinstance(k, str) and k for k in by):
                raise UsageError(f"split: by is {by!r}, not a list of branches", _REMEDY)
            if "by" in value and not by:
                raise UsageError("split: by names no branch", _REMEDY)
            if folds:
                return cls(
                    (1 - FOLD_VALIDATION) * (1 - 1 / folds),
                    FOLD_VALIDATION * (1 - 1 / folds),
                    1 / folds,
                    tuple(by),
                    folds,
                )
            if by and not set(names) & set(value):
                return cls(by=tuple(by))
            if missing := [name for name in names if name not in value]:
                raise UsageError(f"split lacks {' and '.join(map(repr, missing))}", _REMEDY)
            train, validation, test = (_fraction(value[name], name) for name in names)
            parts = cls(train, validation, test, tuple(by))
            total = parts.train + parts.validation + parts.test
            if abs(total - 1) > 1e-6:
                raise UsageError(f"the fractions in split sum to {total:g}, not to 1", _REMEDY)
        else:
            test = _fraction(value, "test")
            parts = cls(0.8 * (1 - test), 0.2 * (1 - test), test)
        if parts.train <= 0:
            raise UsageError(f"split = {value!r} leaves no events to train on", _REMEDY)
        return parts


def _fraction(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"split: {name} is {value!r}, not a fraction from 0 to 1", _REMEDY)
    return float(value)


def file_key(position: int, uuid: str) -> str:
    """What ``membership`` knows a file by: its place in the list of files, and its ROOT UUID."""
    return f"{position}:{uuid}"


def membership(
    seed: int, key: str, start: int, stop: int, split: Split | None = None, fold: int = 0
) -> NDArray[np.uint8]:
    """The part of each entry in ``start:stop`` of a file: TRAIN, VALIDATION or TEST.

    ``key`` is the file's ``file_key``. An entry's part depends on seed, file and entry alone; uint8
    of shape (stop - start,). With folds, they are the parts where ``fold`` is the test.
    """
    return _parts(_uniform_of(seed, key, start, stop), split or Split(), fold)


def membership_by(
    seed: int, values: Sequence[NDArray[Any]], split: Split | None = None, fold: int = 0
) -> NDArray[np.uint8]:
    """The part of each event, told by what identifies it: one array of numbers per branch.

    It depends on seed and values alone, not on their type: neither on the file, nor on the order in
    it, nor on the other events; uint8 of shape (events,). With folds, as for ``membership``. Raises
    EventError on NaN and infinity.
    """
    return _parts(_uniform_by(seed, values), split or Split(), fold)


def folds(seed: int, key: str, start: int, stop: int, number: int) -> NDArray[np.int64]:
    """The fold, of so many, of each entry in ``start:stop`` of a file."""
    return _fold(_uniform_of(seed, key, start, stop), number)


def folds_by(seed: int, values: Sequence[NDArray[Any]], number: int) -> NDArray[np.int64]:
    """The fold, of so many, of each event, told by what identifies it."""
    return _fold(_uniform_by(seed, values), number)


def fingerprint(first: int, parts: NDArray[np.uint8]) -> int:
    """A number for consecutive events of a file, the first of which is ``first``, in their parts.

    Those of several blocks are added modulo 2^64, in any order: sets of events that differ, in an
    event or in its part, or have one twice, differ in it.
    """
    events = 4 * np.arange(first, first + len(parts), dtype=np.uint64) + parts
    return int(_mixed(_start("events"), events).sum(dtype=np.uint64))


def _uniform_of(seed: int, key: str, start: int, stop: int) -> NDArray[np.float64]:
    entries = np.arange(start, stop, dtype=np.uint64)
    return _uniform(_mixed(_start(f"{seed}:{key}"), entries))


def _uniform_by(seed: int, values: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    first, *others = map(_as_bits, values)
    bits = _mixed(_start(f"{seed}:by"), first)
    for each in others:
        bits = _mixed(bits, each)
    return _uniform(bits)


def _start(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(before: np.uint64 | NDArray[np.uint64], bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood, 2014) of the state ``before`` after as many steps."""
    bits = bits + np.uint64(1)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits += before
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def _as_bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    """The same for the same number, of whatever type it is."""
    if values.dtype.kind != "f":
        whole = values if values.dtype == np.uint64 else values.astype(np.int64)
        return whole.view(np.uint64)
    exact = values.astype(np.float64)
    if not (finite := np.isfinite(exact)).all():
        at = int(np.flatnonzero(~finite)[0])
        raise EventError(at, f"{values[at]} can't identify it", "Leave the branch out of split.by.")
    is_whole = (exact == np.rint(exact)) & (np.abs(exact) < 2.0**63)
    whole = np.where(is_whole, exact, 0).astype(np.int64).view(np.uint64)
    return np.where(is_whole, whole, exact.view(np.uint64))


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """From 0 to 1."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _fold(uniform: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    return (uniform * number).astype(np.int64)


def _parts(uniform: NDArray[np.float64], split: Split, fold: int) -> NDArray[np.uint8]:
    if split.folds:
        within = uniform * split.folds
        own = within.astype(np.int64)
        validates = (within - own >= 1 - FOLD_VALIDATION).astype(np.uint8)
        return np.where(own == fold, np.uint8(TEST), validates)
    to_validation, to_test = split.train, 1 - split.test
    return (uniform >= to_validation).astype(np.uint8) + (uniform >= to_test).astype(np.uint8)
