"""Specs: what one pass over the files finds, and all that encoding an event needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, MlaasError
from mlaas4hep.core.files import write_json
from mlaas4hep.core.secrets import without_secrets
from mlaas4hep.data.derivation import Derivation
from mlaas4hep.data.events import Events, Jagged
from mlaas4hep.data.preprocess import Cleaner, Preprocessing

VERSION = 1
"""Version of the format; raised when what a number in it means changes."""

NARROW = ("float16", "float32")
"""Types of features whose values, sent as decimal text, are rounded to them."""
MAX_COLUMNS = 1_000_000
"""More columns than that are taken for a mistake: no training can use them."""

MANY_COLUMNS = 1000
"""Beyond that many, it is worth knowing which list made them."""

_ANEW = "Delete the file, or leave out --specs, to make new specs."


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as the specs know it: by its ROOT UUID, size in bytes, tree and entries of that.

    ``size`` is None where the source doesn't tell; ``entries`` are all entries, scanned or not.
    ``friends`` are the trees that were read with it.
    """

    name: str
    uuid: str
    size: int | None
    entries: int
    tree: str = ""
    friends: tuple[FileRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As specs.json holds it."""
        friends = {"friends": [each.to_json() for each in self.friends]} if self.friends else {}
        own = {k: v for k, v in asdict(self).items() if k != "friends"}
        return own | {"name": without_secrets(self.name)} | friends


@dataclass(frozen=True)
class Specs:
    """Range and multiplicity of every branch that is a feature.

    ``flat`` and ``jagged`` are sorted by ASCII; ``minv`` and ``maxv`` are over finite values, as
    float64 (so 64-bit integers beyond 2**53 are rounded to the nearest such number); ``jdim`` is
    the longest list, or the number of columns that was asked for; ``missing`` counts NaN and
    infinite values, where there are any; ``scanned`` are the events looked at; ``selection`` is
    whatever decided what was read. A jagged branch that was empty in every event has jdim 0, no
    range and no column. ``collections`` are groups of jagged branches whose lists had the same
    lengths in every event, as they describe the same objects; ``left_out`` says why other branches
    can't be used; ``limited`` are the jagged branches of which columns were asked for, so that
    values beyond them are dropped on purpose. With a ``derivation``, all this is of events to which
    it was applied, and ``flat`` and ``jagged`` hold the new variables too. ``observers`` are not
    features but branches that predictions keep beside the scores.
    """

    tree: str
    flat: list[str]
    jagged: list[str]
    minv: dict[str, float]
    maxv: dict[str, float]
    jdim: dict[str, int]
    missing: dict[str, int] = field(default_factory=dict)
    files: list[FileRecord] = field(default_factory=list)
    scanned: int = 0
    selection: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    collections: list[list[str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    limited: list[str] = field(default_factory=list)
    observers: list[str] = field(default_factory=list)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    mean: dict[str, float] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)
    derivation: Derivation | None = None
    types: dict[str, str] = field(default_factory=dict)
    """float16 or float32, of the features that have it in all files."""

    @property
    def inputs(self) -> tuple[list[str], list[str]]:
        """The flat and the jagged branches that an event in the tree needs to become a row."""
        jagged = [name for name in self.jagged if self.jdim[name]]
        if not self.derivation:
            return self.flat, jagged
        kinds = {name: each.kind for name, each in self.derivation.without_selection.inputs.items()}
        kinds |= dict.fromkeys(self.flat, "flat") | dict.fromkeys(jagged, "jagged")
        for name in self.derivation.cuts.new_variables:
            kinds.pop(name, None)
        return (
            sorted(k for k, kind in kinds.items() if kind == "flat"),
            sorted(k for k, kind in kinds.items() if kind == "jagged"),
        )

    @property
    def columns(self) -> list[str]:
        """Names of the columns in order: flat branches, then k_0 .. k_{jdim-1} of jagged ones.

        With a mask, ``COLUMN_missing`` follows for each of them.
        """
        values = [*self.flat, *(f"{k}_{i}" for k in self.jagged for i in range(self.jdim[k]))]
        return values + [f"{k}_missing" for k in values] if self.preprocessing.mask else values

    @property
    def n_values(self) -> int:
        """Number of columns that hold values, those of a mask left out."""
        return len(self.flat) + sum(self.jdim[k] for k in self.jagged)

    @property
    def width(self) -> int:
        """Number of columns, counted without naming them."""
        return self.n_values * (2 if self.preprocessing.mask else 1)

    @property
    def warnings(self) -> list[str]:
        """What whoever trains on it should know: branches left out, columns from one long list."""
        found = []
        if self.left_out:
            one = len(self.left_out) == 1
            found.append(
                f"{len(self.left_out)} branch{'' if one else 'es'} can't be used:"
                f" {by_reason(self.left_out)}"
            )
        if self.jagged and self.width > MANY_COLUMNS:
            found.append(
                f"{_many(self.width, self.jdim)}; max_vec_sizes"
                " limits lists, exclude_branches leaves branches out"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """The prototype's keys and ours; always valid JSON."""
        events: dict[str, int] = {}
        for number, file in enumerate(self.files, 1):
            name = without_secrets(file.name)
            events[f"{name} ({number})" if name in events else name] = file.entries
        return {
            "version": self.version,
            "tree": self.tree,
            "fkeys": self.flat,
            "jkeys": self.jagged,
            "jdim": self.jdim,
            "minv": self.minv,
            "maxv": self.maxv,
            "nans": {k: self._zero(k) for k in self.minv},
            "events": events | {"total": sum(f.entries for f in self.files)},
            "scanned": self.scanned,
            "missing": self.missing,
            "files": [f.to_json() for f in self.files],
            "selection": self.selection,
            "collections": self.collections,
            "left_out": self.left_out,
            **({"limited": self.limited} if self.limited else {}),
            **({"observers": self.observers} if self.observers else {}),
            **({"preprocessing": done} if (done := self.preprocessing.to_json()) else {}),
            **({"mean": self.mean, "std": self.std} if self.std else {}),
            **({"types": self.types} if self.types else {}),
            **({"derivation": self.derivation.to_json()} if self.derivation else {}),
        }

    def _zero(self, branch: str) -> float:
        """Where a physical 0 lies after normalising; 0 where no finite number says it."""
        if self.std:
            return -self.mean[branch] / self.std[branch] if self.std[branch] else 0.0
        low, high = self.minv[branch], self.maxv[branch]
        if low == high:
            return 0.0
        if math.isinf(high - low):
            low, high = low / 2, high / 2
        value = -low / (high - low)
        return value if math.isfinite(value) else 0.0

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Specs from ``to_json``; ``where`` names the file in errors.

        Raises DataError naming the key that is absent or holds what it can't.
        """
        if not isinstance(value, dict):
            raise DataError(f"{where} holds no specs: expected an object", _ANEW)
        if "version" not in value:
            raise DataError(f"{where} has no version: specs of the prototype don't say what they"
                            " were made from", _ANEW)  # fmt: skip
        if value["version"] != VERSION:
            raise DataError(
                f"{where} has version {value['version']!r}; this release knows {VERSION}", _ANEW
            )
        read = _Reader(value, where)
        flat, jagged = read.names("fkeys"), read.names("jkeys")
        if both := set(flat) & set(jagged):
            raise read.wrong("jkeys", f"{min(both)!r} is in fkeys too")
        for key, names in (("fkeys", flat), ("jkeys", jagged)):
            if names != sorted(set(names)):
                raise read.wrong(key, "the names aren't sorted, or one is there twice")
        jdim = read.numbers("jdim", int, jagged)
        ranged = [*flat, *(k for k in jagged if jdim[k])]
        minv, maxv = read.numbers("minv", float, ranged), read.numbers("maxv", float, ranged)
        preprocessing = read.preprocessing()
        masked = 2 if preprocessing.mask else 1
        if masked * (len(flat) + sum(jdim.values())) > MAX_COLUMNS:
            raise read.wrong("jdim", f"more than {MAX_COLUMNS} columns")
        for branch in ranged:
            if minv[branch] > maxv[branch]:
                raise read.wrong("minv", f"{branch}: {minv[branch]} exceeds maxv {maxv[branch]}")
        mean, std = dict[str, float](), dict[str, float]()
        if preprocessing.normalisation == "standard":
            mean, std = read.numbers("mean", float, ranged), read.numbers("std", float, ranged)
            if narrow := [branch for branch in ranged if std[branch] < 0]:
                raise read.wrong("std", f"{narrow[0]}: {std[narrow[0]]} is negative")
        return cls(
            tree=read.get("tree", str),
            flat=flat,
            jagged=jagged,
            minv=minv,
            maxv=maxv,
            jdim=jdim,
            missing=read.numbers("missing", int),
            files=read.files(),
            scanned=read.get("scanned", int),
            selection=read.get("selection", dict),
            collections=read.collections([k for k in jagged if jdim[k]]),
            left_out=read.texts("left_out"),
            limited=read.limited(jagged),
            observers=read.names("observers") if "observers" in value else [],
            preprocessing=preprocessing,
            mean=mean,
            std=std,
            derivation=read.derivation(flat, jagged),
            types={k: v for k, v in read.texts("types").items() if v in NARROW},
        )

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read specs from a file; DataError says what is wrong with it."""
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"no such file: {path}", "Give the path of a specs file.") from None
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}", _ANEW) from None
        return cls.from_json(value, str(path))

    def check_fits(self, other_files: Sequence[FileRecord], selection: Mapping[str, Any]) -> None:
        """Raise DataError ("stale specs") naming every file and selection key that differs.

        A file is the same when UUID, tree, entries and size are; it may have been moved.
        """
        differences = []
        if len(other_files) != len(self.files):
            differences.append(
                f"{len(self.files)} files were scanned, {len(other_files)} are given"
            )
        pairs = zip(_with_friends(self.files), _with_friends(other_files), strict=False)
        for was, now in pairs:
            for what in ("uuid", "tree", "entries", "size"):
                old, new = getattr(was, what), getattr(now, what)
                if old != new and None not in (old, new):
                    differences.append(f"{now.name}: {what} was {old}, is {new}")
        ours, theirs = _as_json(self.selection), _as_json(selection)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                differences.append(f"{key} was {ours.get(key)!r}, is {theirs.get(key)!r}")
        if differences:
            remedy = _ANEW
            if ours.get("label_branch") != theirs.get("label_branch"):
                remedy += " For a label branch: mlaas4hep specs --labels NAME."
            raise DataError(f"stale specs: {'; '.join(differences)}", remedy)


def by_reason(left_out: Mapping[str, str]) -> str:
    """All names of branches that can't be used, those of the same reason together."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(each)} ({reason})" for reason, each in names.items())


def _with_friends(files: Sequence[FileRecord]) -> list[FileRecord]:
    return [each for file in files for each in (file, *file.friends)]


def _many(width: int, lengths: Mapping[str, int]) -> str:
    longest = max(lengths, key=lambda k: lengths[k])
    return f"{width} columns; the longest list, of {lengths[longest]} values, is in {longest}"


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it comes back from a file: tuples are lists."""
    result: dict[str, Any] = json.loads(json.dumps(dict(value)))
    return result


def _is_number(value: object, kind: type[int | float]) -> bool:
    """Whether it is a finite float, or for int a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is int:
        return isinstance(value, int) and value >= 0
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class _Reader:
    """Takes values of a known type out of an object of unknown origin."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self._value, self._where = value, where

    def wrong(self, key: str, what: str) -> DataError:
        return DataError(f"{self._where}: {key}: {what}", _ANEW)

    def get(self, key: str, kind: type) -> Any:
        if key not in self._value:
            raise self.wrong(key, "the key is absent")
        found = self._value[key]
        if not isinstance(found, kind) or isinstance(found, bool):
            raise self.wrong(key, f"holds {type(found).__name__}, expected {kind.__name__}")
        return found

    def names(self, key: str) -> list[str]:
        found = self.get(key, list)
        if not all(isinstance(name, str) for name in found):
            raise self.wrong(key, "expected names of branches")
        return list(found)

    def numbers(
        self, key: str, kind: type[int | float], branches: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """A finite number for each of ``branches``, or for whichever are there."""
        found = self.get(key, dict)
        if branches is None:
            branches = found
        result = {}
        for branch in branches:
            number = found.get(branch)
            if not _is_number(number, kind):
                raise self.wrong(key, f"{branch!r} has {number!r}, expected a number")
            result[branch] = kind(number)
        return result

    def texts(self, key: str) -> dict[str, str]:
        """Texts by name; none where the key is absent, as in specs of earlier releases."""
        found = self.get(key, dict) if key in self._value else {}
        if not all(isinstance(text, str) for text in found.values()):
            raise self.wrong(key, "expected texts")
        return dict(found)

    def collections(self, jagged: Sequence[str]) -> list[list[str]]:
        """Groups of jagged branches; none where the key is absent, as in earlier releases."""
        groups = self.get("collections", list) if "collections" in self._value else []
        left = set(jagged)
        for group in groups:
            for name in group if isinstance(group, list) else [None]:
                if not isinstance(name, str) or name not in left:
                    raise self.wrong("collections", "expected lists of jagged branches, each once")
                left.remove(name)
        return [list(group) for group in groups if len(group) > 1]

    def limited(self, jagged: Sequence[str]) -> list[str]:
        """Names of jagged branches; none where the key is absent."""
        found = self.names("limited") if "limited" in self._value else []
        if unknown := set(found) - set(jagged):
            raise self.wrong("limited", f"{min(unknown)!r} is not in jkeys")
        return found

    def preprocessing(self) -> Preprocessing:
        """What is done to values; the defaults where the key is absent."""
        try:
            return Preprocessing.from_json(self._value.get("preprocessing", {}))
        except ValueError as error:
            raise self.wrong("preprocessing", str(error)) from None

    def derivation(self, flat: Sequence[str], jagged: Sequence[str]) -> Derivation | None:
        """What was done to the events; None where the key is absent."""
        if "derivation" not in self._value:
            return None
        try:
            found = Derivation.from_json(self._value["derivation"])
        except (ValueError, MlaasError) as error:
            raise self.wrong("derivation", str(error)) from None
        kinds = {name: each.kind for name, each in found.inputs.items()}
        new = dict.fromkeys(found.flat, "flat") | dict.fromkeys(found.jagged, "jagged")
        for names, kind in ((flat, "flat"), (jagged, "jagged")):
            for name in names:
                if (new | kinds).get(name, kind) != kind:
                    raise self.wrong("derivation", f"{name!r} is {kind} as a feature")
        features = {*flat, *jagged}
        if found.target in features:
            raise self.wrong("derivation", f"{found.target!r} is the target and a feature")
        for name in new:
            if name in kinds or name not in features:
                raise self.wrong("derivation", f"{name!r} can't be a new variable")
        return found

    def friends(self) -> tuple[FileRecord, ...]:
        """The friends of a file; none where the key is absent."""
        return tuple(self.files("friends")) if "friends" in self._value else ()

    def files(self, key: str = "files") -> list[FileRecord]:
        """The files; where they don't say their tree, as in earlier releases, it is the specs'."""
        records = []
        for item in self.get(key, list):
            if not isinstance(item, dict):
                raise self.wrong(key, "expected objects")
            one = _Reader(item, f"{self._where}: {key}")
            size = None if item.get("size") is None else one.get("size", int)
            tree = (one if "tree" in item else self).get("tree", str)
            records.append(
                FileRecord(
                    one.get("name", str),
                    one.get("uuid", str),
                    size,
                    one.get("entries", int),
                    tree,
                    one.friends() if key == "files" else (),
                )
            )
        return records


@dataclass(slots=True)
class BranchRange:
    """What is known of one branch so far; ``longest`` is the longest list of a jagged one."""

    low: float = math.inf
    high: float = -math.inf
    values: int = 0
    missing: int = 0
    longest: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared distances from the mean."""
    dtype: np.dtype[Any] | None = None
    """What holds the values of all files."""

    def add(self, values: NDArray[Any], clean: Cleaner | None = None, spread: bool = False) -> None:
        """Take in more values: a flat branch's, or the content of lists.

        What ``clean`` finds missing counts as such; with ``spread``, mean and squares are found.
        """
        self._widen(values.dtype)
        if not values.size:
            return
        self.values += values.size
        if clean:
            values, missing = clean(values)
            if missing is not None:
                self.missing += int(np.count_nonzero(missing))
                values = values[~missing]
                if not values.size:
                    return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = values[np.isfinite(values)]
            self.missing += values.size - finite.size
            if not finite.size:
                return
            values = finite
            low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if spread:
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(values.mean(dtype=np.float64))
                squares = float(np.square(values - mean, dtype=np.float64).sum())
            self._add_spread(values.size, self.values - self.missing, mean, squares)

    def _widen(self, dtype: np.dtype[Any] | None) -> None:
        if self.dtype != dtype and dtype is not None:
            self.dtype = np.promote_types(self.dtype, dtype) if self.dtype else dtype

    def _add_spread(self, more: int, total: int, mean: float, squares: float) -> None:
        """Chan, Golub, LeVeque, Algorithms for computing the sample variance (1983)."""
        apart = mean - self.mean
        self.mean += apart * more / total
        self.squares += squares + apart * apart * more * (total - more) / total

    @property
    def std(self) -> float:
        """The standard deviation; infinite or NaN where the squares exceed float64."""
        return math.sqrt(self.squares / count) if (count := self.values - self.missing) else 0.0

    def merge(self, other: BranchRange) -> None:
        """Take in what was found in other events."""
        if more := other.values - other.missing:
            total = self.values - self.missing + more
            self._add_spread(more, total, other.mean, other.squares)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.values += other.values
        self.missing += other.missing
        self.longest = max(self.longest, other.longest)
        self._widen(other.dtype)


class SpecsScan:
    """Finds specs in one pass, chunk by chunk; scans of different parts can be merged.

    Ranges are over finite values only: NaN and infinity count as missing. Memory: a few numbers a
    branch, whatever the number of events.
    """

    def __init__(
        self,
        tree: str,
        flat: Iterable[str],
        jagged: Iterable[str],
        files: Sequence[FileRecord] = (),
        selection: Mapping[str, Any] | None = None,
        collections: Iterable[Sequence[str]] = (),
        sizes: Mapping[str, int] | None = None,
        preprocessing: Preprocessing | None = None,
        derivation: Derivation | None = None,
    ) -> None:
        """``collections`` are the jagged branches whose lists may be of the same lengths.

        ``sizes``: the columns of jagged branches, where they aren't those of the longest list.
        Values are looked at after ``preprocessing``, but for normalising. With a ``derivation``,
        events to which it was applied are added.
        """
        self._tree = tree
        self._flat = {k: BranchRange() for k in sorted(flat)}
        self._jagged = {k: BranchRange() for k in sorted(jagged)}
        self._files = list(files)
        self._selection = dict(selection or {})
        self._collections = [list(group) for group in collections]
        self._sizes = dict(sizes or {})
        self._preprocessing = preprocessing or Preprocessing()
        self._spread = self._preprocessing.normalisation == "standard"
        self._clean = {k: self._preprocessing.cleaner(k) for k in (*self._flat, *self._jagged)}
        self._derivation = derivation
        self.scanned: dict[int, int] = {}
        """Events seen so far, by the file's position."""

    def add(self, file_index: int, events: Events) -> None:
        """Take in events of the file at that position; all branches must be there."""
        count = 0
        for branch, found in self._flat.items():
            values = events[branch]
            if isinstance(values, Jagged):
                raise DataError(f"the branch {branch} is jagged, expected one value per event")
            found.add(values, self._clean[branch], self._spread)
            count = len(values)
        longest: dict[int, int] = {}
        for branch, found in self._jagged.items():
            lists = events[branch]
            if not isinstance(lists, Jagged):
                raise DataError(f"the branch {branch} is flat, expected a list per event")
            count = len(lists)
            if not count:
                continue
            offsets = lists.offsets
            if id(offsets) not in longest:
                longest[id(offsets)] = int(lists.counts.max())
            found.longest = max(found.longest, longest[id(offsets)])
            values = lists.content[offsets[0] : offsets[-1]]
            found.add(values, self._clean[branch], self._spread)
        self._collections = [
            part for group in self._collections for part in _same_lengths(group, events)
        ]
        self.scanned[file_index] = self.scanned.get(file_index, 0) + count

    def merge(self, other: SpecsScan) -> None:
        """Take in what a scan of the same branches found in other events."""
        for mine, theirs in ((self._flat, other._flat), (self._jagged, other._jagged)):
            if mine.keys() != theirs.keys():
                raise ValueError("only scans of the same branches can be merged")
            for branch, found in theirs.items():
                mine[branch].merge(found)
        self._collections = [
            part
            for mine in self._collections
            for theirs in map(set, other._collections)
            if len(part := [k for k in mine if k in theirs]) > 1
        ]
        for index, count in other.scanned.items():
            self.scanned[index] = self.scanned.get(index, 0) + count

    def result(self) -> Specs:
        """The specs of all events seen.

        Raises DataError when there were no events, or naming branches without one finite value.
        """
        scanned = sum(self.scanned.values())
        if not scanned:
            names = ", ".join(f.name for f in self._files) or "the files"
            raise DataError(f"no events in the tree {self._tree} of {names}", "Give other files.")
        ranges = self._flat | {k: r for k, r in self._jagged.items() if r.longest}
        if void := [k for k, r in ranges.items() if r.values == r.missing]:
            more = f" and {len(void) - 10} more" if len(void) > 10 else ""
            raise DataError(
                f"every value is missing (NaN or infinite) in {', '.join(void[:10])}{more}",
                "Name them in exclude_branches.",
            )
        if self._spread and (wide := [k for k, r in ranges.items() if not math.isfinite(r.std)]):
            raise DataError(
                f"the standard deviation of {', '.join(wide[:10])} exceeds what a number can hold",
                "Clip these branches, or normalise by minmax.",
            )
        jdim = {
            k: self._sizes.get(k, r.longest) if r.longest else 0 for k, r in self._jagged.items()
        }
        width = len(self._flat) + sum(jdim.values())
        width *= 2 if self._preprocessing.mask else 1
        if width > MAX_COLUMNS:
            raise DataError(
                f"too many: {_many(width, jdim)}",
                "Name such branches in exclude_branches, or in max_vec_sizes.",
            )
        return Specs(
            tree=self._tree,
            flat=list(self._flat),
            jagged=list(self._jagged),
            minv={k: r.low for k, r in ranges.items()},
            maxv={k: r.high for k, r in ranges.items()},
            jdim=jdim,
            missing={k: r.missing for k, r in ranges.items() if r.missing},
            files=self._files,
            scanned=scanned,
            selection=_as_json(self._selection),
            collections=[
                group
                for names in self._collections
                if len(group := [k for k in names if self._jagged[k].longest]) > 1
            ],
            limited=sorted(self._sizes),
            preprocessing=self._preprocessing,
            mean={k: _as_single(r.mean) for k, r in ranges.items()} if self._spread else {},
            std={k: _as_single(r.std) for k, r in ranges.items()} if self._spread else {},
            derivation=self._derivation,
            types={
                k: r.dtype.name
                for k, r in (self._flat | self._jagged).items()
                if r.dtype is not None and r.dtype.name in NARROW
            },
        )


def _as_single(value: float) -> float:
    """The nearest float32, in which rows are computed faster; the number itself beyond these."""
    with np.errstate(over="ignore"):
        single = float(np.float32(value))
    return single if math.isfinite(single) and (single or not value) else value


def _same_lengths(group: Sequence[str], events: Events) -> list[list[str]]:
    """The jagged branches of the group as groups whose lists have the same lengths."""
    parts: dict[bytes, list[str]] = {}
    lengths: dict[int, bytes] = {}
    for branch in group:
        lists = events[branch]
        assert isinstance(lists, Jagged)  # noqa: S101
        if (key := id(lists.offsets)) not in lengths:  # branches of a collection share them
            lengths[key] = lists.counts.tobytes()
        parts.setdefault(lengths[key], []).append(branch)
    return [names for names in parts.values() if len(names) > 1]
