"""Which events of which file make a chunk: a sample of the whole in every chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def events_to_use(entries: Sequence[int], nevts: int = -1) -> list[int]:
    """How many events of each file are used: all, or ``nevts`` in proportion to its entries.

    A file that has events contributes at least one, and never more than it has.
    """
    if nevts == 0 or nevts < -1:
        raise ValueError(f"nevts is {nevts}; expected -1 (all) or at least 1")
    total = sum(entries)
    if nevts == -1 or nevts >= total:
        return list(entries)
    return [min(rows, max(1, round(rows * nevts / total))) for rows in entries]


def plan_chunks(
    entries: Sequence[int], chunk_size: int, nevts: int = -1
) -> Iterator[list[tuple[int, int]]]:
    """Each chunk as one (start, stop) per file, in the order of the files.

    The files' pieces are contiguous and in proportion to the files' events, so a chunk has about
    ``chunk_size`` events (each file rounds by half an event at most). Every event is in exactly
    one chunk: nothing is lost at a file's end, and no chunk is empty.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    used = events_to_use(entries, nevts)
    total = sum(used)
    starts = [0] * len(used)
    for done in range(chunk_size, total + chunk_size, chunk_size):
        stops = [round(events * min(done, total) / total) for events in used]
        if stops != starts:
            yield list(zip(starts, stops, strict=True))
        starts = stops
