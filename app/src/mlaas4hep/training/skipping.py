"""Leaving out files that can't be read, each as a whole: skip_bad_files and allow_missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mlaas4hep.core.errors import DataError, FileError, UsageError
from mlaas4hep.core.units import many
from mlaas4hep.sources.filelist import Listed
from mlaas4hep.sources.friends import raise_all
from mlaas4hep.sources.names import local, resolve, split_tree
from mlaas4hep.sources.remote import Traffic
from mlaas4hep.sources.root import RootFile

_SHOWN = 10  # files that an error names
T = TypeVar("T")


@dataclass(frozen=True)
class BadFile:
    """A file that was left out, and why; ``entries`` is None where nobody says how many."""

    name: str
    reason: str
    uuid: str = ""
    entries: int | None = None
    traffic: Traffic = field(default_factory=Traffic)


class Skipping:
    """The files of a list that a training does without, by their positions in it.

    ``allowed`` is the share of all events that may be missing; None: any bad file is an error.
    """

    def __init__(
        self,
        allowed: float | None = None,
        tell: Callable[[str], None] = lambda warning: None,
    ) -> None:
        self.bad: dict[int, BadFile] = {}
        self.warnings: list[str] = []
        self._allowed = allowed
        self._tell = tell
        self._positions: dict[str, int] = {}
        self._listed: Sequence[Listed] = ()

    @property
    def is_on(self) -> bool:
        """Whether bad files are left out."""
        return self._allowed is not None

    def run(self, action: Callable[[], T]) -> T:
        """What ``action`` gives, which begins anew without each file that turns out to be bad.

        So nothing is left of such a file. Raises what ``action`` raises, also a FileError if bad
        files are errors.
        """
        while True:
            try:
                return action()
            except FileError as error:
                if not self.is_on or not self._leave_out(error):
                    raise

    def _leave_out(self, error: FileError) -> bool:
        """Note the file of the error, and those found with it; False if none is of the list."""
        known = len(self.bad)
        for each in (error, *error.others):
            path = split_tree(each.file)[0]
            for name, position in self._positions.items():
                if split_tree(name)[0] != path or position in self.bad:
                    continue  # all trees of a file are left out with it
                source: RootFile | None = each.source if name == each.file else None
                said = self._listed[position]
                bad = BadFile(name, each.message, said.uuid or "", said.entries)
                if source:  # which may be short of what the list says
                    entries = source.entries if said.entries is None else said.entries
                    bad = BadFile(name, each.message, source.uuid, entries, source.traffic)
                self.bad[position] = bad
                self.warnings.append(f"left out as a whole: {each.message}")
                self._tell(self.warnings[-1])
        return len(self.bad) > known

    def left(self, of_files: Sequence[T]) -> list[T]:
        """Those of the files that aren't left out."""
        return [each for position, each in enumerate(of_files) if position not in self.bad]

    def resolved(self, files: Sequence[Listed], redirector: str, cwd: Path) -> list[str]:
        """Paths or URLs of the files that are left of the list; DataError if none is.

        An error says where in the list the file stood.
        """
        self._listed = files
        paths: list[str] = []
        failed: list[FileError] = []
        for position, file in enumerate(files):
            if position in self.bad:
                continue
            path, where = file.name, f"{file.where}: " if file.where else ""
            try:
                path = resolve(file.name, redirector, cwd)
                paths.append(path)
            except FileError as error:
                failed.append(FileError(f"{where}{error.message}", error.remedy, local(path)))
                if not self.is_on:
                    break
            except DataError as error:
                raise DataError(f"{where}{error.message}", error.remedy) from None
            self._positions[local(path)] = position
        raise_all(failed)
        if not paths:
            raise DataError(f"none of {many(len(files), 'file')} can be read: {self._reasons()}")
        return paths

    def check(self, files: Sequence[RootFile], labels: Sequence[str]) -> None:
        """DataError where too much is missing: of the events, or all of a label's.

        ``labels`` are of all files of the list, in its order; none if a branch holds them.
        """
        if lost := set(labels) - set(self.left(labels)):
            mine = [bad for at, bad in self.bad.items() if labels[at] == min(lost)]
            raise DataError(
                f"no file of the class {min(lost)!r} can be read: {self._reasons(mine)}",
                "Give files that can be read, or leave out the class.",
            )
        counts = [file.entries for file in files]
        known = [bad.entries for bad in self.bad.values() if bad.entries is not None]
        largest = max([*counts, *known], default=0)
        missing = sum(known) + largest * (len(self.bad) - len(known))
        expected = missing + sum(counts)
        if self._allowed is None or missing <= (self._allowed + 1e-12) * expected:
            return
        share = 100 * missing / expected
        raise DataError(
            f"{share:.3g} % of the events are missing, allowed are {100 * self._allowed:.3g} %"
            f" (allow_missing): {self._reasons()}",
            "Copy the files again, or allow more. A file that was never opened counts as the"
            " largest of the others.",
        )

    def _reasons(self, of: Sequence[BadFile] | None = None) -> str:
        found = list(self.bad.values()) if of is None else of
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return "; ".join(bad.reason for bad in found[:_SHOWN]) + more


def share(text: str | float) -> float:
    """The fraction that "1%" or 0.01 means; ValueError unless it is from 0 to 1.

    A 1 without % is refused: 1 % may be meant.
    """
    number, percent, rest = str(text).partition("%")
    value = float(number) / (100 if percent else 1)
    if rest.strip() or not 0 <= value <= 1 or (value == 1 and not percent):
        raise ValueError(text)
    return value


def allowed_missing(skip: bool, allowed: str | float | None) -> float | None:
    """What Skipping takes, of skip_bad_files and allow_missing.

    Raises UsageError on a share that is none, or without skip_bad_files.
    """
    if allowed is None:
        return 1.0 if skip else None
    try:
        found = share(allowed)
    except ValueError:
        raise UsageError(
            f"allow_missing is {allowed!r}, not a share of the events", 'Give one such as "1%".'
        ) from None
    if not skip:
        raise UsageError(
            f"allow_missing is {allowed!r} without skip_bad_files: nothing may be missing then",
            "Give both (--skip-bad-files --allow-missing 1%), or none.",
        )
    return found
