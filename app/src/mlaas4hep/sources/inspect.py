"""What is in a ROOT file: trees, branches, their ranges and multiplicities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlaas4hep.core.errors import DataError
from mlaas4hep.data.events import Jagged
from mlaas4hep.data.histograms import Distributions
from mlaas4hep.data.specs import BranchRange, Specs
from mlaas4hep.sources.columns import UnreadableError
from mlaas4hep.sources.names import local, split_tree
from mlaas4hep.sources.root import RootFile, known_trees

_STEP = 10_000


@dataclass(frozen=True)
class BranchReport:
    """One branch. ``low`` and ``high`` are over finite values, None where there is none.

    ``multiplicity`` is the least, mean and greatest number of values per event of a jagged branch;
    ``missing`` counts NaN and infinite values.
    """

    name: str
    kind: str
    type: str
    low: float | None = None
    high: float | None = None
    multiplicity: tuple[int, float, int] | None = None
    missing: int = 0

    def cells(self) -> tuple[str, str, str, str, str, str, str]:
        """Name, kind, type, min, max, values per event, missing: as a table shows them."""
        low, high = ("" if x is None else _number(x) for x in (self.low, self.high))
        lists = ""
        if self.multiplicity:
            least, mean, greatest = self.multiplicity
            lists = f"{least} / {mean:.3g} / {greatest}"
        missing = str(self.missing) if self.missing else ""
        return self.name, self.kind, self.type, low, high, lists, missing


def _number(value: float) -> str:
    """A whole one with all its digits, as far as float64 has them."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"


@dataclass(frozen=True)
class TreeReport:
    """One tree and its branches, in the file's order."""

    name: str
    entries: int
    branches: list[BranchReport]


def describe(name: str, tree: str | None = None) -> list[TreeReport]:
    """All trees of a file (path or URL), or one of them, each read once from start to end.

    ``name`` may be FILE:TREE.

    Raises DataError where the file, or that tree in it, can't be read, or it holds no tree.
    """
    name, named = split_tree(local(name))
    tree = named or tree
    trees = [tree] if tree else known_trees(name)
    if not trees:
        raise DataError(f"{name} holds no tree", "Give a file with a TTree or an RNTuple.")
    return [_describe_tree(name, each) for each in trees]


def distributions(name: str, tree: TreeReport) -> Distributions:
    """The values of all branches that have a range, in a second pass over that tree of the file.

    There is one class, named as the tree. Raises DataError where the file can't be read.
    """
    name, _ = split_tree(local(name))
    ranged = {b.name: b for b in tree.branches if b.low is not None and b.high is not None}
    jdim = {k: b.multiplicity[2] for k, b in ranged.items() if b.multiplicity}
    specs = Specs(
        tree=tree.name,
        flat=sorted(ranged.keys() - jdim.keys()),
        jagged=sorted(jdim),
        minv={k: b.low for k, b in ranged.items() if b.low is not None},
        maxv={k: b.high for k, b in ranged.items() if b.high is not None},
        jdim=jdim,
    )
    found = Distributions(specs, [tree.name], normalised=False)
    with RootFile(name, tree.name) as file:
        reader = file.reader(list(ranged))
        while ranged and reader.position < file.entries:
            start = reader.position
            events = reader.take(_STEP)
            found.add(events, np.zeros(reader.position - start, np.int64))
    return found


def _describe_tree(name: str, tree: str) -> TreeReport:
    with RootFile(name, tree) as file:
        numeric = [b.name for b in file.branches.values() if b.kind in ("flat", "jagged")]
        unreadable: dict[str, str] = {}
        while True:
            try:
                ranges, least = _ranges(file, [k for k in numeric if k not in unreadable])
                break
            except UnreadableError as error:
                unreadable |= error.branches
        reports = []
        for info in file.branches.values():
            if info.name not in ranges:
                kind, title = str(info.kind), info.type
                if info.name in unreadable:
                    kind, title = "unreadable", f"can't be read: {unreadable[info.name]}"
                reports.append(BranchReport(info.name, kind, title))
                continue
            found = ranges[info.name]
            some = math.isfinite(found.low)
            mean = found.values / max(file.entries, 1)
            reports.append(
                BranchReport(
                    info.name,
                    info.kind,
                    info.type,
                    found.low if some else None,
                    found.high if some else None,
                    (least[info.name], mean, found.longest) if info.kind == "jagged" else None,
                    found.missing,
                )
            )
        return TreeReport(tree, file.entries, reports)


def _ranges(file: RootFile, branches: list[str]) -> tuple[dict[str, BranchRange], dict[str, int]]:
    """What one pass finds of each branch: its range, and the length of its shortest list."""
    ranges = {branch: BranchRange() for branch in branches}
    least = dict.fromkeys(branches, file.entries and 2**63)
    reader = file.reader(branches)
    while reader.position < file.entries:
        for branch, values in reader.take(_STEP).items():
            found = ranges[branch]
            if isinstance(values, Jagged):
                counts = values.counts
                least[branch] = min(least[branch], int(counts.min()))
                found.longest = max(found.longest, int(counts.max()))
                values = np.asarray(values.content[values.offsets[0] : values.offsets[-1]])
            found.add(values)
    return ranges, least
