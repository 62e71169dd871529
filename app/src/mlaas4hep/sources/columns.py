"""One branch of a tree in memory: from ROOT's baskets to numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.library import NumPy
from uproot.interpretation.numerical import AsSTLBits, Numerical
from uproot.interpretation.strings import AsStrings
from uproot.models.TBasket import Model_TBasket
from uproot.source.cursor import Cursor

from mlaas4hep.core.errors import DataError

Kind = Literal["flat", "jagged", "string", "unsupported"]

_NUMPY = NumPy()
_STATUS_BITS = 15
"""The streamer type of TObject::fBits (kBits): 4 bytes, or 6 of an object that is referenced."""
_IS_REFERENCED = 1 << 4
_NO_LISTS = np.zeros(1, np.int64)


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
    """Consecutive events of one basket: content, big-endian as on disk, and offsets of lists.

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


def layout(branch: Any) -> Layout:
    """The layout of an uproot TBranch; "unsupported" is what isn't numbers, lists or strings."""
    unsupported = Layout("unsupported", np.dtype(object))
    if len(branch.branches):
        return unsupported
    interpretation = branch.interpretation
    if isinstance(interpretation, AsStrings):
        return Layout("string", np.dtype(object))
    is_list = isinstance(interpretation, AsJagged)
    element = interpretation.content if is_list else interpretation
    if not isinstance(element, Numerical) or isinstance(element, AsSTLBits):
        return unsupported
    dtype = np.dtype(element.to_dtype).newbyteorder("=")
    base, shape = dtype.subdtype or (dtype, ())
    if base.kind not in "biuf" or (is_list and shape):
        return unsupported
    if is_list:
        return Layout("jagged", base)
    return Layout("jagged", base, int(np.prod(shape))) if shape else Layout("flat", base)


SharedOffsets = dict[tuple[int, ...], list[tuple[list[NDArray[np.int32]], NDArray[np.int64]]]]
"""Offsets of one window by (identity of the older ones, dropped, values of each piece)."""


class Column:
    """The events of a branch that are in memory: entries ``first:stop`` of the tree.

    ``content`` and ``offsets`` (int64, jagged branches only) are new arrays after each ``extend``,
    so that views of older ones stay valid.
    """

    def __init__(self, branch: Any) -> None:
        self.branch = branch
        self.layout = layout(branch)
        self.entry_offsets = np.asarray(branch.entry_offsets, np.int64)
        on_disk = branch.num_baskets - len(branch.embedded_baskets)
        self.sizes = np.asarray(branch.member("fBasketBytes")[:on_disk])
        """Bytes on disk of each basket, without those embedded in the tree."""
        ratio = max(branch.uncompressed_bytes, branch.compressed_bytes) / max(
            branch.compressed_bytes, 1
        )
        self.unpacked = np.zeros(len(self.entry_offsets) - 1)
        """About how many bytes each basket unpacks to, from the branch's ratio."""
        self.unpacked[:on_disk] = self.sizes[: len(self.unpacked)] * ratio
        self._seeks = branch.member("fBasketSeek")
        self.next = 0
        self.first = 0
        self.stop = 0
        self.content = np.empty(0, self.layout.dtype)
        self.offsets = _NO_LISTS if self.layout.kind == "jagged" else None
        self._interpretation = branch.interpretation
        self._is_status = branch.has_member("fStreamerType") and (
            branch.member("fStreamerType") == _STATUS_BITS
        )
        self._context = dict(branch.context)

    def start_at(self, entry: int) -> None:
        """Drop what is before ``entry``; baskets that end before are never given."""
        basket = max(0, int(np.searchsorted(self.entry_offsets, entry, "right")) - 1)
        if basket < self.next:  # it was given already
            return
        self.next = min(basket, len(self.entry_offsets) - 1)
        self.first = self.stop = entry
        self.content = np.empty(0, self.layout.dtype)
        self.offsets = _NO_LISTS if self.layout.kind == "jagged" else None

    def baskets_before(self, entry: int) -> list[tuple[int, tuple[int, int] | None]]:
        """The baskets not yet given that start before ``entry``, which are given herewith.

        Each as its number and its bytes in the file, None where it is embedded in the tree.
        """
        end = int(np.searchsorted(self.entry_offsets[:-1], entry))
        numbers = range(self.next, max(end, self.next))
        self.next = numbers.stop
        return [(number, self._bytes(number)) for number in numbers]

    def _bytes(self, number: int) -> tuple[int, int] | None:
        if number >= len(self.sizes):
            return None
        start = int(self._seeks[number])
        return start, start + int(self.sizes[number])

    def decode(self, number: int, place: tuple[int, int] | None, chunk: Any) -> Piece:
        """The events of basket ``number``; ``chunk`` holds its bytes unless it is embedded."""
        branch = self.branch
        if place is None:
            return self._unpack(number, branch.basket(number))
        context = {"basket_num": number}
        cursor = Cursor(place[0])
        basket = Model_TBasket.read(chunk, cursor, context, branch.file, branch.file, branch)
        return self._unpack(number, basket)

    def _unpack(self, number: int, basket: Any) -> Piece:
        expected = int(self.entry_offsets[number + 1] - self.entry_offsets[number])
        byte_offsets = basket.byte_offsets
        is_list = isinstance(self._interpretation, AsJagged)
        if byte_offsets is None and is_list:
            byte_offsets = self._counted_offsets(number)
        try:
            piece = self._interpretation.basket_array(
                basket.data,
                byte_offsets,
                basket,
                self.branch,
                self._context,
                basket.member("fKeylen"),
                _NUMPY,
                {},
            )
            if len(piece) != expected:
                raise ValueError(f"a basket holds {len(piece)} events, expected {expected}")
        except Exception as error:
            # What was compressed has been unpacked to its full size, so these bytes are whole.
            if basket.compressed_bytes < basket.uncompressed_bytes or self._is_status:
                raise self._not_understood(str(error).strip().partition("\n")[0]) from error
            raise
        if self._is_status:
            self._check_status(piece)
        if self.layout.kind == "string":
            piece = self._interpretation.final_array(
                {0: piece}, 0, expected, [0, expected], _NUMPY, self.branch, {}
            )
        return Piece(piece.content, piece.offsets) if is_list else Piece(piece)

    def _check_status(self, piece: Piece) -> None:
        """Up to the first referenced object each has 4 bytes, and its bits say that it is one."""
        bits = piece.content if isinstance(self._interpretation, AsJagged) else piece
        if (np.asarray(bits) & _IS_REFERENCED).any():
            raise self._not_understood("bits of referenced objects, 4 bytes for some, 6 for others")

    def _not_understood(self, reason: str) -> NotUnderstoodError:
        return NotUnderstoodError(f"of type {self.branch.typename}: {reason}")

    def _counted_offsets(self, number: int) -> NDArray[np.int32]:
        """Byte offsets of a basket that was written without them, from the counter branch."""
        start, stop = (int(entry) for entry in self.entry_offsets[number : number + 2])
        counter = self.branch.count_branch
        if counter is None:
            raise ValueError("lists without offsets and without a counter branch")
        offsets = np.zeros(stop - start + 1, np.int32)
        np.cumsum(counter.array(entry_start=start, entry_stop=stop, library="np"), out=offsets[1:])
        return offsets * np.int32(self.layout.dtype.itemsize)

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


def _join(older: NDArray[np.int64], news: list[NDArray[np.int32]]) -> NDArray[np.int64]:
    """The offsets of several pieces as those of one, from 0."""
    offsets = np.empty(len(older) + sum(len(new) - 1 for new in news), np.int64)
    np.subtract(older, older[0], out=offsets[: len(older)])
    end = len(older)
    for new in news:
        if len(new) > 1 and int(np.diff(new).min()) < 0:
            raise ValueError("a basket's offsets decrease")
        np.add(new[1:], offsets[end - 1] - new[0], out=offsets[end : end + len(new) - 1])
        end += len(new) - 1
    return offsets
