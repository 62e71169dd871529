"""One branch of a tree in memory, whatever it was stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError

Kind = Literal["flat", "jagged", "string", "unsupported"]

_NO_LISTS = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class BranchInfo:
    """A branch: its kind, and its type as C++ names it.

    "flat" is one number per event, "jagged" a list of numbers (a fixed-size array is one whose
    lists all have the same length, ``fixed``), "string" a text; "unsupported" is everything else.
    ``counter`` is the branch that holds the lengths of its lists; "" where there is none.
    ``friend`` is the friend tree that the branch is of, with which its name then begins.
    """

    name: str
    kind: Kind
    type: str
    fixed: int = field(default=0, compare=False)
    is_real: bool = field(default=False, compare=False)
    counter: str = field(default="", compare=False)
    friend: str = ""

    @property
    def own_name(self) -> str:
        """The name in its tree."""
        return self.name.removeprefix(f"{self.friend}.") if self.friend else self.name

    def of_friend(self, friend: str) -> BranchInfo:
        """The branch as one of a friend."""
        counter = self.counter and f"{friend}.{self.counter}"
        return replace(self, name=f"{friend}.{self.name}", counter=counter, friend=friend)


class Table(Protocol):
    """What a file keeps events in: the branches of a TTree or the fields of an RNTuple."""

    entries: int

    @property
    def has_index(self) -> bool:
        """Whether an index (TTree::BuildIndex) says which entry belongs to an event."""

    def infos(self) -> dict[str, BranchInfo]:
        """All branches by name, in the file's order."""

    def column(self, name: str) -> Column:
        """The column of a branch that isn't "unsupported"."""


class NotUnderstoodError(ValueError):
    """Bytes that are whole, but aren't laid out as uproot takes the branch's type to be."""


class UnreadableError(DataError):
    """uproot can't read branches, though the file is whole; ``branches`` says why, by name."""

    def __init__(self, file: str, branches: dict[str, str]) -> None:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in branches.items())
        few = f"the branch {reasons}" if len(branches) == 1 else f"the branches {reasons}"
        super().__init__(
            f"{file}: uproot can't read {few}", "Name what can't be read in exclude_branches."
        )
        self.file, self.branches = file, branches


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive events of one basket: content, in the file's byte order, and offsets of lists.

    It may be valid until the next bytes are fetched only.
    """

    content: NDArray[Any]
    offsets: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.content) if self.offsets is None else len(self.offsets) - 1

    def part(self, start: int, stop: int) -> Piece:
        """Events ``start:stop`` of the piece, of those that it has; no copy."""
        start, stop = max(start, 0), min(stop, len(self))
        if (start, stop) == (0, len(self)):
            return self
        if self.offsets is None:
            return Piece(self.content[start:stop])
        return Piece(self.content, self.offsets[start : stop + 1])


@dataclass(frozen=True, slots=True)
class Layout:
    """How a branch is stored. ``fixed`` is the length of a fixed-size array, else 0."""

    kind: Kind
    dtype: np.dtype[Any]
    fixed: int = 0


Place = tuple[int, int]
"""The first byte in the file, and the one after the last."""
SharedOffsets = dict[tuple[int, ...], list[tuple[list[NDArray[Any]], NDArray[np.int64]]]]
"""Offsets of one window by (identity of the older ones, dropped, values of each piece)."""


class Column(ABC):
    """The events of a branch that are in memory: entries ``first:stop`` of the tree.

    They come from baskets: consecutive events that are unpacked at once, a TTree's TBasket or an
    RNTuple's cluster. ``content`` and ``offsets`` (int64, jagged branches only) are new arrays
    after each ``extend``, so that views of older ones stay valid.
    """

    def __init__(
        self, layout: Layout, entry_offsets: NDArray[np.int64], unpacked: NDArray[np.float64]
    ) -> None:
        self.layout = layout
        self.entry_offsets = entry_offsets
        """The first entry of each basket, and the number of entries."""
        self.unpacked = unpacked
        """About how many bytes each basket unpacks to."""
        self.next = 0
        self.first = 0
        self.stop = 0
        self.content = np.empty(0, self.layout.dtype)
        self.offsets = _NO_LISTS if self.layout.kind == "jagged" else None

    def start_at(self, entry: int) -> None:
        """Drop what is before ``entry``; baskets that end before are never given."""
        basket = max(0, int(np.searchsorted(self.entry_offsets, entry, "right")) - 1)
        if basket < self.next:  # it was given already
            return
        self.next = min(basket, len(self.entry_offsets) - 1)
        self.first = self.stop = entry
        self.content = np.empty(0, self.layout.dtype)
        self.offsets = _NO_LISTS if self.layout.kind == "jagged" else None

    def baskets_before(self, entry: int) -> list[tuple[int, list[Place]]]:
        """The baskets not yet given that start before ``entry``, which are given herewith.

        Each as its number and its places in the file.
        """
        end = int(np.searchsorted(self.entry_offsets[:-1], entry))
        numbers = range(self.next, max(end, self.next))
        self.next = numbers.stop
        return [(number, self.places(number)) for number in numbers]

    @abstractmethod
    def places(self, number: int) -> list[Place]:
        """The bytes in the file that basket ``number`` is decoded from."""

    @abstractmethod
    def decode(self, number: int, chunks: list[Any]) -> Piece:
        """The events of basket ``number``; ``chunks`` hold its ``places``, in their order."""

    def extend(self, pieces: list[Piece], keep_from: int, shared: SharedOffsets) -> None:
        """Drop events before the entry ``keep_from`` and append those of ``pieces``.

        Lists of the same lengths as another branch's get that branch's ``offsets`` object.
        """
        drop = min(max(keep_from, self.first), self.stop) - self.first
        if self.offsets is None:
            self.content = np.concatenate(
                [self.content[drop:], *(p.content for p in pieces)], dtype=self.layout.dtype
            )
            events = len(self.content)
        elif self.layout.fixed:
            kept = self.content[drop * self.layout.fixed :]
            flat = [piece.content.reshape(-1) for piece in pieces]
            self.content = np.concatenate([kept, *flat], dtype=self.layout.dtype)
            events = len(self.content) // self.layout.fixed
            self.offsets = np.arange(events + 1, dtype=np.int64) * self.layout.fixed
        else:
            self._extend_lists(pieces, drop, shared)
            events = len(self.offsets) - 1
        self.first += drop
        self.stop = self.first + events

    def _extend_lists(self, pieces: list[Piece], drop: int, shared: SharedOffsets) -> None:
        older = self.offsets
        assert older is not None  # noqa: S101
        parts = [self.content[older[drop] : older[-1]]]
        news = [piece.offsets for piece in pieces if piece.offsets is not None]
        for piece, new in zip(pieces, news, strict=True):
            low, high = int(new[0]), int(new[-1])
            part = piece.content[low:high]
            if low < 0 or len(part) != high - low:
                raise ValueError("a basket's offsets lie outside of its values")
            parts.append(part)
        self.content = np.concatenate(parts, dtype=self.layout.dtype)

        alike = shared.setdefault((id(older), drop, *map(len, parts)), [])
        for others, offsets in alike:
            if all(np.array_equal(a, b) for a, b in zip(news, others, strict=True)):
                self.offsets = offsets
                return
        self.offsets = _join(older[drop:], news)
        alike.append((news, self.offsets))


def _join(older: NDArray[np.int64], news: list[NDArray[Any]]) -> NDArray[np.int64]:
    """The offsets of several pieces as those of one, from 0."""
    offsets = np.empty(len(older) + sum(len(new) - 1 for new in news), np.int64)
    np.subtract(older, older[0], out=offsets[: len(older)])
    end = len(older)
    for new in news:
        if (new[1:] < new[:-1]).any():
            raise ValueError("a basket's offsets decrease")
        np.add(new[1:], offsets[end - 1] - new[0], out=offsets[end : end + len(new) - 1])
        end += len(new) - 1
    return offsets
