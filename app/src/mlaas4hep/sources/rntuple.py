"""The fields of an RNTuple: from ROOT's pages to numpy arrays."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from uproot.compression import decompress
from uproot.const import RNTupleFieldRole as Role
from uproot.source.cursor import Cursor

from mlaas4hep.sources.columns import BranchInfo, Column, Layout, Piece, Place

_CHECKSUM = 8
"""Bytes of a page's checksum, which follow the page."""
_AT_MOST_ONE = ("std::optional", "std::unique_ptr")
_UNSUPPORTED = Layout("unsupported", np.dtype(object))


@dataclass(frozen=True)
class _Field:
    """A field of numbers or texts, and how it is stored.

    ``levels`` are what its numbers are nested in, from the event inwards: the column with the ends
    of the lists, or minus the length of an array. ``values`` is the column of the numbers, of a
    text's ends (then ``text`` is the column of its characters), or of the lists to be counted.
    """

    info: BranchInfo
    layout: Layout
    levels: tuple[int, ...] = ()
    values: int = -1
    text: int = -1
    is_count: bool = False

    @property
    def columns(self) -> list[int]:
        """All columns of it, in the order in which they are decoded."""
        all_of_them = (*self.levels, self.values, self.text)
        return list(dict.fromkeys(column for column in all_of_them if column >= 0))


class Fields:
    """The fields of an uproot RNTuple."""

    has_index = False

    def __init__(self, ntuple: Any) -> None:
        self._ntuple = ntuple
        clusters = [c for c in ntuple.cluster_summaries if c.num_entries]
        self.entries = int(ntuple.num_entries)
        starts = [*(int(c.num_first_entry) for c in clusters), self.entries]
        lengths = [int(c.num_entries) for c in clusters]
        if starts[0] or [stop - start for start, stop in pairwise(starts)] != lengths:
            raise ValueError("its clusters don't follow one another")
        self._borders = np.array(starts, np.int64)

    @cached_property
    def _fields(self) -> dict[str, _Field]:
        found: dict[str, _Field] = {}
        for field in self._ntuple.all_fields:
            if described := self._describe(field):
                found.setdefault(described.info.name, described)
        return found

    def infos(self) -> dict[str, BranchInfo]:
        """All fields of numbers by name, in the file's order; those of records as record.field.

        Among them are the fields that can't be read, records and collections of such apart.
        """
        return {name: field.info for name, field in self._fields.items()}

    def column(self, name: str) -> Column:
        """The column of a field that isn't "unsupported"."""
        return FieldColumn(self._ntuple, self._fields[name], self._borders)

    def _describe(self, field: Any) -> _Field | None:
        """None for what only holds other fields."""
        ancestors = self._ancestors(field)
        depth = next(i for i, f in enumerate(ancestors) if not f.is_anonymous)
        named, above = ancestors[depth], ancestors[depth + 1 :]
        if named.path is None or any(f.record.struct_role == Role.VARIANT for f in ancestors[1:]):
            return None
        columns = self._columns(field)
        role = field.record.struct_role
        if role in (Role.VARIANT, Role.STREAMER):
            return _unsupported(named, named.typename)
        if role != Role.LEAF or not columns:
            return None
        title = named.typename + "[]" * sum(f.record.struct_role == Role.COLLECTION for f in above)
        if any(f.typename.startswith(_AT_MOST_ONE) for f in ancestors):
            return _unsupported(named, f"{title}, which some events lack")
        is_count = field.typename.startswith("ROOT::RNTupleCardinality")
        levels, layout = self._layout(field, ancestors, is_count)
        if layout.kind == "unsupported":
            return _unsupported(named, title)
        lists = [f for f in ancestors if f.record.struct_role == Role.COLLECTION]
        counter = self._of_record(lists[0]) if len(lists) == 1 and layout.kind == "jagged" else ""
        info = BranchInfo(
            named.path, layout.kind, title, layout.fixed, layout.dtype.kind == "f", counter
        )
        text = columns[1] if layout.kind == "string" else -1
        return _Field(info, layout, levels, columns[0], text, is_count)

    def _ancestors(self, field: Any) -> list[Any]:
        """The field and those that it is a part of, the outermost last."""
        found = [field]
        while not found[-1].top_level:
            found.append(found[-1].parent)
        return found

    def _columns(self, field: Any) -> list[int]:
        """Its columns; those of another field where it is a view of that."""
        source = field.record.source_field_id
        records = self._ntuple._column_records_dict.get(
            field.field_id if source is None else source, ()
        )
        return [record.idx for record in records if record.repr_idx == 0]

    def _of_record(self, collection: Any) -> str:
        """The name of a collection of records, which tells that its parts have one length."""
        column = self._ntuple.column_records[self._columns(collection)[0]]
        origin = self._ntuple.all_fields[column.field_id]
        parts = self._ntuple._related_ids.get(origin.field_id, ())
        roles = [self._ntuple.field_records[part].struct_role for part in parts]
        return str(origin.path or origin.field_id) if roles == [Role.RECORD] else ""

    def _layout(
        self, field: Any, ancestors: list[Any], is_count: bool
    ) -> tuple[tuple[int, ...], Layout]:
        levels: list[int] = []
        for each in reversed(ancestors):
            if each.record.struct_role == Role.COLLECTION:
                levels += self._columns(each)
            elif length := each.record.repetition:
                levels.append(-length)
        columns = self._columns(field)
        if is_count:
            is_short = "32" in field.typename
            return (), Layout("flat", np.dtype(np.uint32 if is_short else np.uint64))
        if len(columns) == 2 and not levels:
            return (), Layout("string", np.dtype(object))
        if len(columns) != 1:
            return (), _UNSUPPORTED
        dtype = np.dtype(self._ntuple.get_field_metadata(columns[0]).dtype_result)
        if field.typename == "char":  # whose sign uproot drops
            dtype = np.dtype(np.int8)
        if dtype.kind not in "biuf":
            return (), _UNSUPPORTED
        if not levels:
            return (), Layout("flat", dtype)
        if all(level < 0 for level in levels):
            return tuple(levels), Layout("jagged", dtype, int(np.prod(np.negative(levels))))
        return tuple(levels), Layout("jagged", dtype) if len(levels) == 1 else _UNSUPPORTED


def _unsupported(field: Any, title: str) -> _Field:
    return _Field(BranchInfo(field.path, "unsupported", title), _UNSUPPORTED)


class FieldColumn(Column):
    """A field of an RNTuple, read cluster by cluster."""

    def __init__(self, ntuple: Any, field: _Field, borders: NDArray[np.int64]) -> None:
        self._ntuple = ntuple
        self._field = field
        self._clusters = [i for i, c in enumerate(ntuple.cluster_summaries) if c.num_entries]
        unpacked = [
            sum(
                page.num_elements * ntuple.get_field_metadata(column).dtype_result.itemsize
                for column in field.columns
                for page in self._pages(column, cluster)
            )
            for cluster in self._clusters
        ]
        super().__init__(field.layout, borders, np.array(unpacked, np.float64))

    def _pages(self, column: int, cluster: int) -> list[Any]:
        """The pages of a column, or of its other representation where a cluster has that."""
        known = self._ntuple.page_link_list[cluster]
        if column < len(known) and known[column].suppressed:
            record = self._ntuple.column_records[column]
            others = self._ntuple._column_records_dict[record.field_id]
            column = next(c.idx for c in others if not known[c.idx].suppressed)
        return known[column].pages if column < len(known) else []

    def places(self, number: int) -> list[Place]:
        """The bytes of the pages of cluster ``number``."""
        return [
            _place(page)
            for column in self._field.columns
            for page in self._pages(column, self._clusters[number])
        ]

    def decode(self, number: int, chunks: list[Any]) -> Piece:
        """The events of cluster ``number``; ``chunks`` hold its ``places``."""
        cluster, field = self._clusters[number], self._field
        ntuple = copy(self._ntuple)
        pages = [page for column in field.columns for page in self._pages(column, cluster)]
        ntuple.read_locator = _Pages(pages, chunks)  # which uproot takes each page from
        events = int(self.entry_offsets[number + 1] - self.entry_offsets[number])

        def read(column: int, count: int) -> NDArray[Any]:
            metadata = ntuple.get_field_metadata(column)
            values = ntuple.read_cluster_pages(cluster, column, metadata)
            lacking = count - len(values)
            # A field that was added while the file was written is 0 before.
            if lacking > 0 and self._ntuple.column_records[column].first_element_index:
                return np.concatenate([np.zeros(lacking, values.dtype), values])
            if lacking:
                raise ValueError(f"a cluster holds {len(values)} values, expected {count}")
            found: NDArray[Any] = values
            return found

        def lists(column: int, count: int) -> NDArray[np.int64]:
            offsets = np.zeros(count + 1, np.int64)
            offsets[1:] = read(column, count)
            if (offsets[1:] < offsets[:-1]).any():  # differences could overflow
                raise ValueError("the ends of lists decrease")
            return offsets

        if field.is_count:
            return Piece(np.diff(lists(field.values, events)).astype(self.layout.dtype))
        if field.text >= 0:
            ends = lists(field.values, events)
            letters = read(field.text, int(ends[-1])).tobytes()
            texts = [letters[a:b].decode(errors="surrogateescape") for a, b in pairwise(ends)]
            return Piece(np.array([*texts, None], object)[:-1])
        offsets, count = None, events
        for level in field.levels:
            if level >= 0:
                offsets = lists(level, count)
                count = int(offsets[-1])
            else:
                count *= -level
        content = read(field.values, count)
        if content.dtype != self.layout.dtype:
            content = content.view(self.layout.dtype)
        if self.layout.fixed:
            return Piece(content.reshape(events, self.layout.fixed))
        return Piece(content, offsets)


def _place(page: Any) -> Place:
    locator = page.locator
    size = int(locator.num_bytes) + _CHECKSUM * page.has_checksum
    return int(locator.offset), int(locator.offset) + size


class _Pages:
    """Unpacks pages whose bytes were fetched; stands for uproot's ``read_locator``."""

    def __init__(self, pages: list[Any], chunks: list[Any]) -> None:
        self._found = {
            page.locator.offset: (page.has_checksum, chunk)
            for page, chunk in zip(pages, chunks, strict=True)
        }

    def __call__(self, locator: Any, unpacked: int) -> tuple[Any, Cursor]:
        """The page's bytes as an uproot Chunk, and a cursor at the first of them."""
        has_checksum, chunk = self._found[locator.offset]
        start, stop = locator.offset, locator.offset + locator.num_bytes
        if has_checksum:
            data = chunk.get(start, stop + _CHECKSUM, Cursor(start), {})
            page, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
            if xxhash.xxh3_64_intdigest(page) != int.from_bytes(checksum.tobytes(), "little"):
                raise ValueError("a page doesn't have its checksum")
        if locator.num_bytes > unpacked:
            raise ValueError(f"a page has {locator.num_bytes} bytes, expected {unpacked}")
        if locator.num_bytes == unpacked:
            return chunk, Cursor(start)
        return decompress(chunk, Cursor(start), {}, locator.num_bytes, unpacked), Cursor(0)
