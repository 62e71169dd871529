"""What plain uproot writes and reads, to compare with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas4hep.data import Branch, Jagged


def write_tree(path: Path, tree: str, branches: dict[str, Any]) -> Path:
    """Write a TTree (what ``file[tree] = ...`` writes may be an RNTuple)."""
    with uproot.recreate(path) as file:
        file.mktree(tree, {name: ak.Array(values).type for name, values in branches.items()})
        if len(next(iter(branches.values()))):
            file[tree].extend(branches)
    return path


@cache
def plain_tree(file: Path, tree: str) -> Any:
    """The tree as uproot opens it."""
    return uproot.open({str(file): tree})


@cache
def plain_branches(file: Path, tree: str) -> dict[str, Any]:
    """Its branches by name; of several with one name (Delphes has such) the first."""
    found: dict[str, Any] = {}
    for name, branch in plain_tree(file, tree).iteritems(recursive=True):
        paths = MEMBERS.get(branch.typename.removesuffix("[]"), ())
        for path in paths:
            found.setdefault(f"{name}.{path}", Member(branch, path))
        if not paths:
            found.setdefault(name, branch)
    return found


MEMBERS = {
    "TLorentzVector": ("fP.fX", "fP.fY", "fP.fZ", "fE"),
    "TVector3": ("fX", "fY", "fZ"),
}


class Member:
    """The numbers of one member of a branch's objects, as of a branch."""

    def __init__(self, branch: Any, path: str) -> None:
        self._branch, self._path = branch, path

    def array(self, **which: Any) -> Any:
        values = self._branch.array(**which)
        for member in self._path.split("."):
            values = values[member]
        return values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._branch, name)


def one_list(values: ak.Array) -> ak.Array:
    """The numbers of each event as one list: x[3][3] is a list of nine."""
    while values.ndim > 2:
        values = ak.flatten(values, axis=2)
    return values


def assert_same(found: Branch, file: Path, tree: str, branch: str, start: int, stop: int) -> None:
    """Assert that ``found`` is what uproot reads: values, lengths of lists and dtype."""
    read = plain_branches(file, tree)[branch]
    wanted = one_list(read.array(entry_start=start, entry_stop=stop))
    assert len(found) == stop - start
    if isinstance(found, Jagged):
        assert found.counts.tolist() == ak.num(wanted).tolist(), branch
        found = found.content[found.offsets[0] : found.offsets[-1]]
        wanted = ak.flatten(wanted)
    if found.dtype == object:
        assert found.tolist() == wanted.tolist()
        return
    values = ak.to_numpy(wanted)
    assert found.dtype == values.dtype, branch
    np.testing.assert_array_equal(found, values, err_msg=branch)


def join(parts: list[Branch]) -> Branch:
    """Consecutive pieces of a branch as one."""
    first = parts[0]
    if not isinstance(first, Jagged):
        return np.concatenate(parts)  # type: ignore[arg-type]
    lists = [part for part in parts if isinstance(part, Jagged)]
    counts = np.concatenate([[0], *(part.counts for part in lists)])
    values = [part.content[part.offsets[0] : part.offsets[-1]] for part in lists]
    return Jagged(np.cumsum(counts), np.concatenate(values))
