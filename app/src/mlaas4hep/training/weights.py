"""How much each event counts: the weight of its file, times the value of a branch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from reprlib import repr
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, EventError, UsageError, did_you_mean
from mlaas4hep.core.units import many
from mlaas4hep.data import TRAIN, VALIDATION, Events, Jagged
from mlaas4hep.sources.filelist import Listed
from mlaas4hep.sources.names import fits

_REMEDY = (
    'Give a branch ("genWeight"), a list with one number per file, or {"branch": "genWeight",'
    ' "files": {"ttbar*.root": {"cross_section": 832, "luminosity": 59800,'
    ' "sum_of_weights": 3.1e9}, "data": 1}}.'
)
_OF_SAMPLE = ("cross_section", "luminosity", "sum_of_weights")


@dataclass(frozen=True)
class WeightsKey:
    """The key ``weights`` of params.json: a branch, and numbers for files or their names."""

    branch: str | None = None
    by_position: tuple[float, ...] = ()
    by_name: Mapping[str, float] = field(default_factory=dict)
    """By a file's name, its dataset, a wildcard for these, or its label."""

    @classmethod
    def parse(cls, value: Any) -> Self | None:
        """What the key means; None without weights. Raises UsageError naming what is wrong."""
        if value is None:
            return None
        given = value if isinstance(value, dict) else {}
        if isinstance(value, str):
            given = {"branch": value}
        elif isinstance(value, list):
            given = {"files": value}
        for key in given:
            if key not in ("branch", "files"):
                raise UsageError(
                    f"weights has the unknown part {key!r}", did_you_mean(key, ("branch", "files"))
                )
        branch, files = given.get("branch"), given.get("files", {})
        if not (branch or files):
            raise UsageError("weights names neither a branch nor files", _REMEDY)
        if branch is not None and not isinstance(branch, str):
            raise UsageError(f"weights: branch is {repr(branch)}, not a name", _REMEDY)
        if isinstance(files, list):
            numbers = (_of_file(one, f"file {place}") for place, one in enumerate(files))
            return cls(branch, tuple(numbers))
        if isinstance(files, dict):
            return cls(branch, (), {name: _of_file(one, name) for name, one in files.items()})
        raise UsageError(f"weights: files is {repr(files)}, neither a list nor an object", _REMEDY)

    def without(self, positions: Collection[int], files: Sequence[Listed]) -> WeightsKey:
        """The key for what is left of the ``files`` without those at ``positions``.

        A name that fits none but these is left out, too. UsageError if there isn't a number for
        each of the ``files``.
        """
        if self.by_position:
            _check_number(self.by_position, len(files))
        if not positions:
            return self

        def fit(key: str, is_gone: bool) -> bool:
            return any(
                _fits(key, file.name, "", file.dataset)
                for at, file in enumerate(files)
                if (at in positions) == is_gone
            )

        numbers = tuple(x for at, x in enumerate(self.by_position) if at not in positions)
        by_name = {
            key: number
            for key, number in self.by_name.items()
            if fit(key, False) or not fit(key, True)
        }
        return replace(self, by_position=numbers, by_name=by_name)

    def of_files(
        self, names: Sequence[str], labels: Sequence[str], datasets: Sequence[str] = ()
    ) -> Weights:
        """Those of the files; ``labels`` are theirs, none where a branch holds the label.

        ``datasets`` are those of a fileset.

        Raises UsageError naming a file without a weight or with two, or a name that matches none.
        """
        if self.by_position:
            _check_number(self.by_position, len(names))
            return Weights(self.branch, list(self.by_position))
        if not self.by_name:
            return Weights(self.branch, [1.0] * len(names))
        none = [""] * len(names)
        fitting = [
            [key for key in self.by_name if _fits(key, name, label, dataset)]
            for name, label, dataset in zip(names, labels or none, datasets or none, strict=True)
        ]
        for key in self.by_name:
            if not any(key in keys for keys in fitting):
                known = [*names, *dict.fromkeys([*labels, *datasets])]
                raise UsageError(f"weights: {key!r} matches no file", did_you_mean(key, known))
        for name, keys in zip(names, fitting, strict=True):
            if len(keys) != 1:
                what = f"fits {' and '.join(map(repr, keys))}" if keys else "has no weight"
                raise UsageError(
                    f"weights: the file {name} {what}", "Each file needs exactly one number."
                )
        return Weights(self.branch, [self.by_name[keys[0]] for keys in fitting])


@dataclass(frozen=True)
class Weights:
    """Each event's is its file's number times the value of the branch, if there is one."""

    branch: str | None
    per_file: list[float]

    def of_events(self, events: Events, file: int, count: int) -> NDArray[np.float64]:
        """The weights of ``count`` events of the file at that position.

        Raises EventError on NaN and infinity.
        """
        if self.branch is None:
            return np.full(count, self.per_file[file])
        values = events[self.branch]
        assert not isinstance(values, Jagged)  # noqa: S101  (the selection refuses it)
        with np.errstate(over="ignore", invalid="ignore"):
            weights = values.astype(np.float64) * self.per_file[file]
        finite = np.isfinite(weights)
        if not finite.all():
            at = int(np.flatnonzero(~finite)[0])
            raise EventError(
                at,
                f"the weight branch {self.branch} holds {values[at]}",
                "A weight is a finite number; write the file without such events.",
            )
        return weights


@dataclass(frozen=True)
class Totals:
    """Sums over the events of each file, class and part; arrays of shape (files, classes, 3)."""

    events: NDArray[np.int64]
    weights: NDArray[np.float64]
    squares: NDArray[np.float64]
    """Of the weights."""
    fingerprints: list[int]
    """Of the events of each file, each in its part."""

    @classmethod
    def empty(cls, files: int, classes: int) -> Self:
        """Zeros, to be added to."""
        shape = files, classes, 3
        return cls(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape), [0] * files)

    def add(self, file: int, places: Any, weights: NDArray[np.float64] | None) -> None:
        """Take in events of a file; ``places`` are 3 class + part, ``weights`` by default 1."""
        shape, size = self.events.shape[1:], self.events[file].size
        events = np.bincount(places, minlength=size).reshape(shape)
        self.events[file] += events
        for sums, of_events in (
            (self.weights, weights),
            (self.squares, None if weights is None else weights * weights),
        ):
            if of_events is None:
                sums[file] += events
            else:
                sums[file] += np.bincount(places, of_events, size).reshape(shape)

    def yields(self, files: Sequence[str], classes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each file and class: the events, the sum of their weights, its statistical error."""
        return [
            {
                "file": file,
                "class": name,
                "events": int(self.events[i, k].sum()),
                "yield": float(self.weights[i, k].sum()),
                "error": float(np.sqrt(self.squares[i, k].sum())),
            }
            for i, file in enumerate(files)
            for k, name in enumerate(classes)
            if self.events[i, k].any()
        ]

    def factors(self, balance: bool, groups: Sequence[str]) -> NDArray[np.float64]:
        """What the weights of each class and part are multiplied with for the fit.

        In training and validation the mean is then 1; with ``balance`` each class has the same sum
        in the training. The test's are 1. Shape (classes, 3). Raises DataError where the weights
        of a class, which ``groups`` name in words, or all of the validation, don't add up to a
        positive number.
        """
        events, weights = self.events.sum(axis=0), self.weights.sum(axis=0)
        for name, count, total in zip(groups, events[:, TRAIN], weights[:, TRAIN], strict=True):
            if not total > 0:
                raise DataError(
                    f"the weights of {name} add up to {total:.6g} over its {count}"
                    " training events: no training can follow from that",
                    "Use more events (nevts), or other weights.",
                )
        result = np.ones(weights.shape)
        if balance:
            result[:, (TRAIN, VALIDATION)] /= weights[:, TRAIN, None]
        for part in (TRAIN, VALIDATION):
            total = float((result[:, part] * weights[:, part]).sum())
            count = int(events[:, part].sum())
            if count and not total > 0:
                raise DataError(
                    f"the weights of the {count} validation events add up to {total:.6g}:"
                    " no epoch can be chosen by that",
                    "Use more events (nevts), or another split.",
                )
            if count:
                result[:, part] *= count / total
        return result


def _of_file(value: Any, name: str) -> float:
    """A file's weight: a number, or cross section x luminosity / sum of the generator weights."""
    if not isinstance(value, dict):
        if not _is_number(value):
            raise UsageError(f"weights: {name!r} has {repr(value)}, not a number but 0", _REMEDY)
        return float(value)
    if set(value) != set(_OF_SAMPLE):
        raise UsageError(
            f"weights: {name!r} has {', '.join(value) or 'nothing'}, expected"
            f" {', '.join(_OF_SAMPLE)}",
            _REMEDY,
        )
    for key, number in value.items():
        if not _is_number(number) or number < 0:
            raise UsageError(f"weights: {key} of {name!r} is {repr(number)}, not positive", _REMEDY)
    return float(value["cross_section"] * value["luminosity"] / value["sum_of_weights"])


def _is_number(value: Any) -> bool:
    """Whether it is a number that products of a few are finite of, and not 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 1e-100 < abs(value) < 1e100


def _fits(key: str, name: str, label: str, dataset: str) -> bool:
    return key == label or fits(key, name) or bool(dataset and fits(key, dataset))


def _check_number(numbers: Sequence[float], files: int) -> None:
    if len(numbers) != files:
        raise UsageError(
            f"weights: {many(len(numbers), 'number')} for {many(files, 'file')}",
            "Give one number per file, in the same order, or numbers by name.",
        )
