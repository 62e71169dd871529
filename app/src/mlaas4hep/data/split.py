"""Which events train, validate and test: a hash decides, so no order or state matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import UsageError, did_you_mean

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The parts, as ``membership`` numbers them."""

_REMEDY = (
    "Give the fraction held out for test, such as 0.2, or"
    ' {"train": 0.64, "validation": 0.16, "test": 0.2}.'
)


@dataclass(frozen=True, slots=True)
class Split:
    """Fractions of the events; they sum to 1."""

    train: float = 0.64
    validation: float = 0.16
    test: float = 0.20

    @classmethod
    def parse(cls, value: float | Mapping[str, float] | None) -> Split:
        """What ``split`` in params.json means.

        None is the default; a number is the test's fraction, of the rest 80 % train and 20 %
        validate; a mapping names all three. Raises UsageError on anything else.
        """
        if value is None:
            return cls()
        if isinstance(value, Mapping):
            names = ("train", "validation", "test")
            for key in value:
                if key not in names:
                    raise UsageError(
                        f"split has the unknown part {key!r}", did_you_mean(str(key), names)
                    )
            if missing := [name for name in names if name not in value]:
                raise UsageError(f"split lacks {' and '.join(map(repr, missing))}", _REMEDY)
            parts = cls(*(_fraction(value[name], name) for name in names))
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
    seed: int, key: str, start: int, stop: int, split: Split | None = None
) -> NDArray[np.uint8]:
    """The part of each entry in ``start:stop`` of a file: TRAIN, VALIDATION or TEST.

    ``key`` is the file's ``file_key``. An entry's part depends on seed, file and entry alone; uint8
    of shape (stop - start,).
    """
    split = split or Split()
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    bits = np.arange(start, stop, dtype=np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits += np.uint64(int.from_bytes(digest, "little"))
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    to_validation, to_test = split.train, 1 - split.test
    return (uniform >= to_validation).astype(np.uint8) + (uniform >= to_test).astype(np.uint8)


def held_out(
    seed: int, key: str, start: int, stop: int, split: Split | None = None
) -> NDArray[np.bool_]:
    """Which of the entries a training doesn't see: its test part; arguments as ``membership``'s."""
    mask: NDArray[np.bool_] = membership(seed, key, start, stop, split) == TEST
    return mask
