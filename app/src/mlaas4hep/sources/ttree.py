"""The branches of a TTree: from ROOT's baskets to numpy arrays."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from uproot.containers import AsBitSet
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.library import NumPy
from uproot.interpretation.numerical import AsDtype, AsSTLBits, Numerical
from uproot.interpretation.objects import AsObjects, AsStridedObjects
from uproot.interpretation.strings import AsStrings
from uproot.models.TBasket import Model_TBasket
from uproot.source.cursor import Cursor

from mlaas4hep.core.errors import first_line
from mlaas4hep.sources.columns import (
    BranchInfo,
    Column,
    Kind,
    Layout,
    NotUnderstoodError,
    Piece,
    Place,
)

_NUMPY = NumPy()
_STATUS_BITS = 15
"""The streamer type of TObject::fBits (kBits): 4 bytes, or 6 of an object that is referenced."""
_IS_REFERENCED = 1 << 4
_HAS_COUNT = 0x40000000
"""ROOT's kByteCountMask."""
_HEADER = ("@instance_version", "@num_bytes")
"""What uproot calls the first bytes of an object: ROOT writes their number, then the version."""
_OF_BITS = 6
"""Bytes of a std::bitset before the number of its bits: those of an object's header."""


class Branches:
    """The branches of an uproot TTree."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.entries = int(tree.num_entries)

    @property
    def has_index(self) -> bool:
        """Whether there is an index; the file must be open with all of uproot's metadata."""
        return self._tree.member("fTreeIndex") is not None

    @cached_property
    def _branches(self) -> dict[str, tuple[Any, str]]:
        """Each branch, and the member of its object that is meant, if it is one of those."""
        found: dict[str, tuple[Any, str]] = {}
        for name, branch in self._tree.iteritems(recursive=True):
            try:
                parts = [*members(branch)]
            except Exception:  # which _describe tells
                parts = []
            for member in parts:
                found.setdefault(f"{name}.{member.replace('/', '.')}", (branch, member))
            if not parts:
                found.setdefault(name, (branch, ""))
        return found

    def infos(self) -> dict[str, BranchInfo]:
        """All branches by name, in the tree's order; parts of an object as ``object/part``.

        Of objects that aren't split, such as a TLorentzVector, the numbers as ``object.member``.
        """
        return {name: self._describe(name, *one) for name, one in self._branches.items()}

    def _describe(self, name: str, branch: Any, member: str) -> BranchInfo:
        try:
            found, title = layout(branch, member), str(branch.typename)
        except Exception as error:
            return BranchInfo(name, "unsupported", f"unknown type ({first_line(error)})")
        if branch.num_entries != self.entries:
            title += f", filled in {branch.num_entries} events"
            return BranchInfo(name, "unsupported", title)
        if found.kind == "unsupported" and len(branch.branches):
            of = branch.member("fClassName", none_if_missing=True) or "object"
            title = f"{of}, whose parts are branches of their own"
        return BranchInfo(
            name, found.kind, title, found.fixed, found.dtype.kind == "f", _counter(branch, found)
        )

    def column(self, name: str) -> Column:
        """The column of a branch that isn't "unsupported"."""
        return BranchColumn(*self._branches[name])


def _counter(branch: Any, found: Layout) -> str:
    """The name of the leaf with the lengths of a branch's lists, if these vary."""
    leaves = branch.member("fLeaves")
    if found.kind != "jagged" or found.fixed or len(leaves) != 1:
        return ""
    leaf = leaves[0].member("fLeafCount")
    return "" if leaf is None else str(leaf.member("fName"))


def members(branch: Any) -> dict[str, Layout]:
    """The numbers of the branch's objects, or of the objects in its lists, by member.

    None of what isn't stored object by object, each of the same size.
    """
    if len(branch.branches):
        return {}
    interpretation = branch.interpretation
    is_list = isinstance(interpretation, AsJagged)
    element = interpretation.content if is_list else interpretation
    if not isinstance(element, AsStridedObjects) or element.inner_shape:
        return {}
    dtype = np.dtype(element.from_dtype)
    if dtype.names is None or dtype.names[:2] != _HEADER:
        return {}
    kind: Kind = "jagged" if is_list else "flat"
    return {
        name: Layout(kind, dtype[name].newbyteorder("="))
        for name in dtype.names
        if "@" not in name and dtype[name].kind in "biuf"
    }


def layout(branch: Any, member: str = "") -> Layout:
    """The layout of an uproot TBranch; "unsupported" is what isn't numbers, lists or strings."""
    unsupported = Layout("unsupported", np.dtype(object))
    if member:
        return members(branch)[member]
    if len(branch.branches):
        return unsupported
    interpretation = branch.interpretation
    if isinstance(interpretation, AsStrings):
        return Layout("string", np.dtype(object))
    if bits := _bits(interpretation):
        return Layout("jagged", np.dtype(bool), bits)
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


def _bits(interpretation: Any) -> int:
    """How many bits a std::bitset has; 0 for what isn't one."""
    model = getattr(interpretation, "model", None)
    if not isinstance(interpretation, AsObjects) or not isinstance(model, AsBitSet):
        return 0
    return int(model.num_bits or 0)


class BranchColumn(Column):
    """A branch of a TTree, or a member of its objects, read basket by basket."""

    def __init__(self, branch: Any, member: str = "") -> None:
        self.branch = branch
        self._member = member
        entry_offsets = np.asarray(branch.entry_offsets, np.int64)
        on_disk = branch.num_baskets - len(branch.embedded_baskets)
        self.sizes = np.asarray(branch.member("fBasketBytes")[:on_disk])
        """Bytes on disk of each basket, without those embedded in the tree."""
        ratio = max(branch.uncompressed_bytes, branch.compressed_bytes) / max(
            branch.compressed_bytes, 1
        )
        unpacked = np.zeros(len(entry_offsets) - 1)
        unpacked[:on_disk] = self.sizes[: len(unpacked)] * ratio
        super().__init__(layout(branch, member), entry_offsets, unpacked)
        self._seeks = branch.member("fBasketSeek")
        self._interpretation = branch.interpretation
        self._bits = _bits(self._interpretation)
        if self._bits:
            stored = [("@header", "u1", _OF_BITS), ("@bits", ">u4"), ("bits", "u1", self._bits)]
            self._interpretation = AsDtype(np.dtype(stored))
        self._is_status = branch.has_member("fStreamerType") and (
            branch.member("fStreamerType") == _STATUS_BITS
        )
        self._context = dict(branch.context)

    def places(self, number: int) -> list[Place]:
        """The bytes of basket ``number``; none where it is embedded in the tree."""
        if number >= len(self.sizes):
            return []
        start = int(self._seeks[number])
        return [(start, start + int(self.sizes[number]))]

    def decode(self, number: int, chunks: list[Any]) -> Piece:
        """The events of basket ``number``; ``chunks`` hold its ``places``."""
        branch = self.branch
        if not chunks:
            return self._unpack(number, branch.basket(number))
        context = {"basket_num": number}
        cursor = Cursor(int(self._seeks[number]))
        basket = Model_TBasket.read(chunks[0], cursor, context, branch.file, branch.file, branch)
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
        if self._bits:
            return Piece(self._bits_of(piece))
        if self._member:
            values = self._members_of(piece.content if is_list else piece)
            return Piece(values, piece.offsets if is_list else None)
        if self.layout.kind == "string":
            piece = self._interpretation.final_array(
                {0: piece}, 0, expected, [0, expected], _NUMPY, self.branch, {}
            )
        return Piece(piece.content, piece.offsets) if is_list else Piece(piece)

    def _members_of(self, objects: NDArray[Any]) -> NDArray[Any]:
        """The member of each object; NotUnderstoodError unless all have the size that uproot takes.

        An object begins with the number of the bytes that follow; one that is referenced has more.
        """
        size = objects.dtype.itemsize
        raw = np.ascontiguousarray(objects).view(np.uint8).reshape(len(objects), size)
        counts = np.ascontiguousarray(raw[:, :4]).view(">u4").reshape(-1) & ~np.uint32(_HAS_COUNT)
        if (counts != size - 4).any():
            raise self._not_understood("objects of different sizes, as some are referenced")
        values: NDArray[Any] = objects[self._member]
        return values

    def _bits_of(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """The bits of each event, the lowest first, a byte each in the file."""
        bits = stored["bits"]
        if (stored["@bits"] != self._bits).any() or (bits > 1).any():
            raise self._not_understood(f"other than {self._bits} bits, a byte each")
        values: NDArray[np.bool_] = bits.astype(bool)
        return values

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
