"""Which class each event has: its file's label, or the value of a branch (else: targets.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, UsageError, did_you_mean
from mlaas4hep.core.units import many
from mlaas4hep.data import Events, EventsToUse, Jagged
from mlaas4hep.sources.filelist import FileList, Listed
from mlaas4hep.sources.names import fits
from mlaas4hep.sources.root import RootFile

MAX_CLASSES = 1000
_STEP = 1 << 20  # entries of a label branch that are read at once


@dataclass(frozen=True)
class Labels:
    """Classes 0..k-1, by ``names``, and where each event's comes from: its file, or a branch."""

    names: list[str]
    per_file: list[int]
    """The class of each file; empty with a label branch."""
    branch: str | None = None
    values: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.int64))
    """The branch's sorted values, one a class; empty without a branch."""
    is_reversed: bool = False
    """Whether the classes of a branch are in the reverse order of its values."""

    dtype: ClassVar[type] = np.int64
    scale: ClassVar[None] = None

    @property
    def groups(self) -> list[str]:
        """What is counted apart, in words."""
        return [f"the class {name!r}" for name in self.names]

    @property
    def shown(self) -> list[str]:
        """The names of the groups."""
        return self.names

    @property
    def branches(self) -> list[str]:
        """Those that are read for them."""
        return [self.branch] if self.branch else []

    def groups_of(self, truth: NDArray[Any]) -> NDArray[np.int64]:
        """The group of each event, which is its class."""
        return truth

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        branch: str | None,
        files: Sequence[RootFile],
        use: EventsToUse,
        signal: str = "",
    ) -> Labels:
        """Those of ``branch``, as ``label_branch`` finds it, else those of the files.

        Of two classes, ``signal`` is the second.
        """
        found = cls.in_branch(branch, files, use) if branch else cls.per_files(labels, files)
        return found._with(signal) if signal else found

    def _with(self, signal: str) -> Labels:
        if len(self.names) > 2:
            raise UsageError(
                f"signal is {signal!r}, but there are {len(self.names)} classes",
                "Leave it out: with more than two classes each has a score.",
            )
        if signal not in self.names:
            raise UsageError(f"signal: no class {signal!r}", did_you_mean(signal, self.names))
        if signal == self.names[1]:
            return self
        per_file = [1 - index for index in self.per_file]
        return replace(self, names=self.names[::-1], per_file=per_file, is_reversed=True)

    @classmethod
    def per_files(cls, labels: Sequence[str], files: Sequence[RootFile]) -> Labels:
        """One label per file: whole numbers, sorted as such, or names.

        Raises UsageError on another number of labels than files, or one class only.
        """
        check_number(labels, len(files))
        labels = as_named(labels)
        names = sorted(set(labels), key=int if all(map(_is_int, labels)) else None)
        if len(names) == 1:
            raise UsageError(
                f"all files have the label {names[0]!r}: there is only one class",
                "Give files of at least two classes, or the name of a label branch.",
            )
        return cls(names, [names.index(label) for label in labels])

    @classmethod
    def in_branch(cls, name: str, files: Sequence[RootFile], use: EventsToUse) -> Labels:
        """The different values of a flat or string branch, sorted, among the events in use.

        Raises DataError on values that are no labels, on one only, or on more than MAX_CLASSES.
        """
        found: NDArray[Any] | None = None
        for file, ranges, passing in zip(files, use.ranges, use.passing, strict=True):
            for _, _, events in file.blocks([name], ranges, _STEP, passing):
                values = np.unique(_label_values(events, name))
                found = values if found is None else np.unique(np.concatenate([found, values]))
                if len(found) > MAX_CLASSES:
                    raise DataError(
                        f"the label branch {name} has more than {MAX_CLASSES} different values",
                        "Name a branch that holds a class.",
                    )
        if found is None or len(found) < 2:
            value = "no value" if found is None or not len(found) else f"the value {found[0]!s}"
            raise DataError(
                f"the label branch {name} holds {value} only", "At least two classes are needed."
            )
        names = [str(value) for value in found]
        if any(not value.isprintable() for value in names):
            raise DataError(f"the label branch {name} holds control characters")
        return cls(names, [], name, found)

    def of_events(self, events: Events, file: int) -> NDArray[np.int64] | np.int64:
        """The classes of events of the file at that position; one for all where it is the file's.

        Raises DataError where the branch holds no label.
        """
        if self.branch is None:
            return np.int64(self.per_file[file])
        found = np.searchsorted(self.values, _label_values(events, self.branch))
        return len(self.names) - 1 - found if self.is_reversed else found


def by_dataset(files: FileList) -> list[str]:
    """The datasets of the files as their labels; none if the list has none.

    Raises UsageError where there is one only.
    """
    if len(names := set(files.labels)) == 1:
        raise UsageError(
            f"all files are of the dataset {names.pop()!r}: there is only one class",
            "Give --labels: PATTERN=LABEL by file or dataset, or the name of a label branch.",
        )
    return files.labels


def by_pattern(labels: Sequence[str], files: FileList) -> list[str]:
    """A label per file where they are given as PATTERN=LABEL; others as they are.

    A pattern is a file's name, with its folder or without, its dataset, or a wildcard (``*ttbar*``)
    for one of these. Raises UsageError naming a file that none or several fit, or a pattern that
    matches no file, and where there is but one file.
    """
    if not labels or not all("=" in label for label in labels):
        return list(labels)
    if len(files) == 1:
        raise UsageError(
            f"--labels: {', '.join(labels)} gives the only file one class", "Give more files."
        )
    patterns = [tuple(label.rsplit("=", 1)) for label in labels]

    def fit(pattern: str, file: Listed) -> bool:
        return fits(pattern, file.name) or bool(file.dataset and fits(pattern, file.dataset))

    for pattern, _ in patterns:
        if not any(fit(pattern, file) for file in files.files):
            known = [*filter(None, dict.fromkeys(files.datasets)), *files.names]
            raise UsageError(f"--labels: {pattern!r} matches no file", did_you_mean(pattern, known))
    found = []
    for file in files.files:
        name = f"{file.name} of the dataset {file.dataset!r}" if file.dataset else file.name
        own = list(dict.fromkeys(label for pattern, label in patterns if fit(pattern, file)))
        if len(own) != 1:
            what = f"gets the labels {' and '.join(map(repr, own))}" if own else "gets no label"
            raise UsageError(f"--labels: the file {name} {what}", "Each file needs exactly one.")
        found.append(own[0])
    return found


def as_named(labels: Sequence[str]) -> list[str]:
    """The labels as their classes are named: where all are whole numbers, 01 is 1.

    Raises UsageError if a number is written in two ways.
    """
    if not all(_is_int(label) for label in labels):
        return list(labels)
    written: dict[int, str] = {}
    for label in labels:
        if (first := written.setdefault(int(label), label)) != label:
            raise UsageError(
                f"the labels {first!r} and {label!r} are the same number, {int(label)}",
                "Write a class in one way, or give its files names that are no numbers.",
            )
    return [str(int(label)) for label in labels]


def label_branch(labels: Sequence[str], files: Sequence[RootFile]) -> str | None:
    """The only label, if it is a branch and no number; None when labels are per file.

    Raises UsageError naming the nearest branches where it is neither.
    """
    if len(labels) != 1 or _is_int(labels[0]):
        return None
    name = labels[0]
    if any(name in file.branches for file in files):
        return name
    if len(files) == 1:
        raise UsageError(
            f"--labels {name!r} is not a branch of the tree {files[0].tree} in {files[0].name}, "
            "and a single label would give only one class",
            did_you_mean(name, files[0].branches),
        )
    return None


def _is_int(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]{1,1000}", text))


def _label_values(events: Events, name: str) -> NDArray[Any]:
    """The label of each event as int64 or text."""
    values = events[name]
    if isinstance(values, Jagged):
        raise DataError(f"the label branch {name} is jagged", "A label is one value per event.")
    if values.dtype.kind == "O":
        return values.astype(str)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.rint(values))
        if not whole.all():
            raise DataError(
                f"the label branch {name} holds {values[~whole][0]!s}, which is not a whole number",
                "A label is one whole number, bool or text per event.",
            )
    if values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise DataError(
            f"the label branch {name} holds {values.max()}, which is more than 2^63 - 1",
            "Number the classes from 0.",
        )
    return values if values.dtype.kind in "US" else values.astype(np.int64)


def check_number(labels: Sequence[str], files: int) -> None:
    """UsageError unless there is a label for each file."""
    if len(labels) != files:
        about = f"{many(len(labels), 'label')} for {many(files, 'file')}"
        if len(labels) == 1 and not _is_int(labels[0]):
            about += f": none of them has a branch {labels[0]!r}"
        raise UsageError(
            about, "Give one label per file, in the same order, or the name of a label branch."
        )
