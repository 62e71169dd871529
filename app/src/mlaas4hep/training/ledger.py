"""The ledger of a training: where each event of each file went. It adds up, or nothing is written.

Of each file, ``entries`` = used + cut + lost, exactly. Used are the events that train, validate or
test; cut those that the user's parameters leave out: each condition of the selection, a regression
without a target, ``nevts``; lost those of a file that was left out, as it can't be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import LedgerError
from mlaas4hep.core.secrets import without_secrets
from mlaas4hep.core.units import many
from mlaas4hep.data import TEST, fingerprint
from mlaas4hep.sources.remote import Traffic
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training.prepare import Task
from mlaas4hep.training.skipping import BadFile

PARTS = ("train", "validation", "test")
BEYOND = "beyond nevts"
"""What of a cut are the events that were not asked for; no condition reads like this."""


class Tally:
    """What one pass over the events delivers, to be compared with what was planned."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.parts: NDArray[np.int64] = np.zeros((len(task.files), 3), np.int64)
        """Events of each file in each part."""
        self._fingerprints = [0] * len(task.files)

    def add(self, file: int, start: int, parts: NDArray[np.uint8]) -> None:
        """Take in events of a file, the first of which is the next that passes from ``start``."""
        self.parts[file] += np.bincount(parts, minlength=3)
        found = fingerprint(self._task.use.passing[file].count(0, start), parts)
        self._fingerprints[file] = (self._fingerprints[file] + found) % 2**64

    def check(self) -> None:
        """LedgerError unless each event that is used came once, in its part.

        Compared are the numbers, and the sum of a hash of each event's position and part, which
        differs where as many events came twice as are missing, or two are in each other's part.
        """
        task = self._task
        for index, file in enumerate(task.files):
            planned = task.totals.events[index].sum(axis=0)
            if (self.parts[index] != planned).any():
                raise LedgerError(
                    f"{file.name} gave {_told(self.parts[index])} events to train, validate and"
                    f" test, expected {_told(planned)}"
                )
            if self._fingerprints[index] != task.totals.fingerprints[index]:
                raise LedgerError(
                    f"{file.name} gave events twice, and others not at all, or in another part"
                )


def _told(counts: NDArray[np.int64]) -> str:
    return ", ".join(map(str, counts.tolist()))


@dataclass(frozen=True)
class Account:
    """One file of the ledger.

    ``entries`` is None of a file that was never opened. ``read`` are the events that became rows
    in the first pass. ``used`` is by part, or by the fold that tests; ``cut`` by condition.
    ``skipped`` is the reason why it was left out.
    """

    file: str
    uuid: str
    label: str | None
    entries: int | None
    read: int = 0
    used: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    lost: int | None = 0
    skipped: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    friends: dict[str, Traffic] = field(default_factory=dict)

    @property
    def selected(self) -> int:
        """The entries that no condition cuts; those beyond ``nevts`` are among them."""
        by_condition = sum(n for name, n in self.cut.items() if name != BEYOND)
        return 0 if self.skipped else (self.entries or 0) - by_condition

    def check(self) -> None:
        """LedgerError unless it adds up."""
        used, cut = sum(self.used.values()), sum(self.cut.values())
        if self.read != used or (
            None not in (self.entries, self.lost) and self.entries != used + cut + (self.lost or 0)
        ):
            raise LedgerError(
                f"{self.file} has {self.entries} entries: {self.read} read, {used} used,"
                f" {cut} cut, {self.lost} lost"
            )

    def as_dict(self) -> dict[str, Any]:
        """As ledger.json holds it."""
        return {
            "file": without_secrets(self.file),
            "uuid": self.uuid,
            "label": self.label,
            "entries": self.entries,
            "selected": self.selected,
            "read": self.read,
            "used": self.used,
            "cut": self.cut,
            "lost": self.lost,
            "skipped": self.skipped or None,
            **_shown(self.traffic),
            "friends": {name: _shown(traffic) for name, traffic in self.friends.items()},
        }


@dataclass(frozen=True)
class Ledger:
    """The accounts of all files, in the order of the list."""

    accounts: list[Account]

    @classmethod
    def of(cls, tasks: Sequence[Task], read: NDArray[np.int64]) -> Ledger:
        """That of a training, or of its folds; ``read`` are the parts of a Tally.

        Raises LedgerError unless it adds up.
        """
        task = tasks[0]
        skipped = task.skipped
        kept = iter(range(len(task.files)))
        accounts = [
            _lost(skipped[at], _label(task, at))
            if at in skipped
            else _account(tasks, next(kept), _label(task, at), read)
            for at in range(len(task.files) + len(skipped))
        ]
        for account in accounts:
            account.check()
        return cls(accounts)

    @property
    def sums(self) -> dict[str, int]:
        """Over all files; ``uncounted`` are those whose entries nobody knows."""
        known = [account for account in self.accounts if account.entries is not None]
        return {
            "files": len(self.accounts),
            "skipped": sum(bool(account.skipped) for account in self.accounts),
            "uncounted": len(self.accounts) - len(known),
            "entries": sum(account.entries or 0 for account in known),
            "used": sum(sum(account.used.values()) for account in known),
            "cut": sum(sum(account.cut.values()) for account in known),
            "lost": sum(account.lost or 0 for account in known),
            "bytes": sum(account.traffic.bytes for account in self.accounts),
            "retries": sum(account.traffic.retries for account in self.accounts),
        }

    @property
    def parts(self) -> list[str]:
        """Train, validation and test, or the folds."""
        return next((list(account.used) for account in self.accounts if account.used), [])

    def used_in(self, part: str) -> int:
        """Events of all files in that part."""
        return sum(account.used.get(part, 0) for account in self.accounts)

    @property
    def line(self) -> str:
        """The sums in words."""
        sums = self.sums
        text = (
            f"{sums['entries']} in {many(sums['files'], 'file')}: {sums['used']} used,"
            f" {sums['cut']} cut, {sums['lost']} lost"
        )
        if sums["uncounted"]:
            text += f" and those of {many(sums['uncounted'], 'file')} that could not be opened"
        return text

    def as_dict(self) -> dict[str, Any]:
        """As ledger.json holds it."""
        return {"sum": self.sums, "files": [account.as_dict() for account in self.accounts]}


def _shown(traffic: Traffic) -> dict[str, Any]:
    return asdict(traffic) | {"replica": without_secrets(traffic.replica)}


def _label(task: Task, position: int) -> str | None:
    return task.labels_of_list[position] if task.labels_of_list else None


def _lost(bad: BadFile, label: str | None) -> Account:
    return Account(
        bad.name,
        bad.uuid,
        label,
        bad.entries,
        lost=bad.entries,
        skipped=bad.reason,
        traffic=bad.traffic,
    )


def _account(
    tasks: Sequence[Task], index: int, label: str | None, read: NDArray[np.int64]
) -> Account:
    task, file = tasks[0], tasks[0].files[index]
    by_part = [one.totals.events[index].sum(axis=0).tolist() for one in tasks]
    used = dict(zip(PARTS, by_part[0], strict=True))
    if task.params.parts.folds:
        used = {
            f"fold {one.fold + 1}": parts[TEST] for one, parts in zip(tasks, by_part, strict=True)
        }
    return Account(
        file.name,
        file.uuid,
        label,
        file.entries,
        int(read[index].sum()),
        used,
        _cut(task, index, file),
        traffic=file.traffic,
        friends={name: friend.traffic for name, friend in file.friends.items()},
    )


def _cut(task: Task, index: int, file: RootFile) -> dict[str, int]:
    """How many events each condition left out, then ``nevts``."""
    left, cut = file.entries, dict[str, int]()
    if flow := task.cut_flow:
        for condition, after in zip(flow.cuts, flow.events[1:, index].tolist(), strict=True):
            cut[condition] = cut.get(condition, 0) + left - after
            left = after
    if beyond := left - task.use.counts[index]:
        cut[BEYOND] = beyond
    return cut
