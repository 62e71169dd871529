"""The derivation of a training: its expressions, for the branches that the files have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError, UsageError, did_you_mean
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Cuts, Derivation, Events, Jagged, Passing
from mlaas4hep.data.derivation import Input
from mlaas4hep.data.expressions import Expression
from mlaas4hep.sources.columns import BranchInfo
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selected, collections_of, shared_counters

_STEP = 8192  # entries that are looked at at once; a multiple of 8
_SEPARATORS = ("_", ".", "/")


@dataclass(frozen=True)
class CutFlow:
    """How many events of each file are left: of all, and after each condition of the selection.

    ``events`` has the shape (conditions + 1, files).
    """

    cuts: list[str]
    events: NDArray[np.int64]

    @property
    def emptied_by(self) -> str:
        """The first condition behind which no event is left."""
        return self.cuts[int(np.argmin(self.events[1:].any(axis=1)))]

    def as_list(self) -> list[dict[str, object]]:
        """As run.json holds it."""
        rows = zip(["all", *self.cuts], self.events.tolist(), strict=True)
        return [{"cut": cut, "events": sum(row), "by_file": row} for cut, row in rows]


def derivation_of(
    files: Sequence[RootFile],
    cuts: Cuts,
    selected: Selected,
    roles: Mapping[str, str],
    target: str = "",
) -> tuple[Derivation | None, list[str]]:
    """The derivation that the expressions make of these files' branches, and warnings.

    None without expressions; ``roles`` are those of the branches that are the label, the weight or
    the target, ``target`` is the latter's name, which may be that of a new variable.
    Raises an error that names the expression and the branch: one that a file lacks, or that holds
    no numbers; a new variable that has a branch's name, or is made of label or weight; objects that
    no list belongs to.
    """
    if not cuts.expressions:
        return None, []
    for name in cuts.new_variables:
        if file := next((file for file in files if name in file.branches), None):
            raise UsageError(
                f"new_variables: {name!r} is a branch of {file.name} already",
                "Give the new variable another name.",
            )
    for expression in (*cuts.of_lists, *cuts.new_variables.values()):
        if taken := next((name for name in expression.names if name in roles), None):
            raise expression.error_about(
                taken,
                f"{taken} is the {roles[taken]}: what the model is given can't be made of it",
                "Use it in the selection only.",
            )
    inputs = {name: _input(files, cuts, name) for name in cuts.names}
    collections: dict[str, list[str]] = {}
    jagged = [*selected.jagged, *(k for k, each in inputs.items() if each.kind == "jagged")]
    known = files[0].branches
    warnings = []
    for name, expression in (*cuts.objects.items(), *cuts.order.items()):
        members = _collection(name, expression, known, list(dict.fromkeys(jagged)))
        if collections.get(name) == members:
            continue
        for other, theirs in collections.items():
            if both := set(members) & set(theirs):
                raise UsageError(
                    f"objects: {min(both)} belongs to {other} and to {name}",
                    "Join the two conditions by and.",
                )
        collections[name] = members
        counters = {known[k].counter for k in members} - {""}
        for counter in sorted(counters & set(cuts.names)):
            warnings.append(
                f"{counter} is the number of {name} before the cut on objects;"
                f" count({members[0]}) is the number after it"
            )
    computed = target if target in cuts.new_variables else ""
    return Derivation(cuts, inputs, collections, computed), warnings


@dataclass(frozen=True)
class Condition:
    """What events must meet besides the selection; ``text`` stands in the cut flow."""

    text: str
    branches: Sequence[str]
    holds: Callable[[Events], NDArray[np.bool_]]


def find_passing(
    files: Sequence[RootFile],
    derivation: Derivation | None,
    progress: Progress = silent,
    last: Condition | None = None,
) -> tuple[list[Passing], CutFlow]:
    """Which entries of each file pass the selection, if any, and then the ``last`` condition.

    One pass over the branches that they need.
    """
    needed = derivation.for_selection if derivation and derivation.cuts.selection else None
    cuts = [*(needed.terms if needed else ()), *([last.text] if last else ())]
    branches = [*(needed.inputs if needed else ()), *(last.branches if last else ())]
    flow = np.zeros((len(cuts) + 1, len(files)), np.int64)
    flow[0] = [file.entries for file in files]
    passing = []
    total = int(flow[0].sum())
    for position, file in enumerate(files):
        masks = []
        once = list(dict.fromkeys(branches))
        for start, stop, events in file.blocks(once, [(0, file.entries)], _STEP):
            mask, left = np.ones(stop - start, bool), list[int]()
            try:
                if needed:
                    mask, left = needed.passes(needed.derive(events))
                if last:
                    mask = mask & last.holds(events)
                    left.append(int(np.count_nonzero(mask)))
            except EventError as error:
                raise error.after(start, file.name) from None
            masks.append(np.packbits(mask))
            flow[1:, position] += left
            progress("selection", int(flow[0, :position].sum()) + stop, total)
        passing.append(Passing(masks))
    return passing, CutFlow(cuts, flow)


def _input(files: Sequence[RootFile], cuts: Cuts, name: str) -> Input:
    """Kind and type of a branch that expressions read, the same in all files."""
    expression = next(each for each in cuts.expressions if name in each.names)
    dtypes, kinds = [], []
    for file in files:
        if name not in file.branches:
            known = [*cuts.new_variables, *file.branches]
            raise expression.error_about(
                name, f"no branch {name[:100]!r} in {file.name}", did_you_mean(name[:100], known)
            )
        info = file.branches[name]
        if info.kind not in ("flat", "jagged"):
            raise expression.error_about(
                name, f"the branch {name} of {file.name} ({info.type}) holds no numbers"
            )
        values = file.read([name], 0, 0)[name]
        kinds.append(info.kind)
        dtypes.append(values.content.dtype if isinstance(values, Jagged) else values.dtype)
    if len(set(kinds)) > 1:
        raise expression.error_about(name, f"{name} is flat in some files, jagged in others")
    return Input(kinds[0], reduce(np.promote_types, dtypes).name)


def _collection(
    name: str, cut: Expression, known: dict[str, BranchInfo], jagged: Sequence[str]
) -> list[str]:
    """The jagged branches that describe the objects ``name``, with those that the cut reads.

    They have one counter in the tree; without it, names that begin alike. Those of another tree,
    a friend or what it is a friend of, are known by their names.
    """
    shared = shared_counters(known.values())

    def group(branch: str) -> tuple[str, int]:
        info = known[branch]
        return (info.counter if info.counter in shared else ""), info.fixed

    def is_named(branch: str, *names: str) -> bool:
        begins = tuple(each + separator for each in names for separator in _SEPARATORS)
        return known[branch].name.startswith(begins) or known[branch].own_name.startswith(begins)

    there = [k for k in jagged if k in known]
    is_counter = {k: known[k].counter == name for k in there}
    used = next((k for k in cut.names if k in there and (is_counter[k] or is_named(k, name))), None)
    if used is None:
        known_names = collections_of(there)
        if name in known_names:
            about, remedy = f"it reads no branch of {name}", "Use one of its branches."
        else:
            about = f"there is no collection {name[:100]} (no list such as {name[:100]}_pt)"
            remedy = did_you_mean(name[:100], known_names)
        raise cut.error(None, about, remedy)
    (counter, fixed), friend = group(used), known[used].friend
    members = {
        k
        for k in there
        if known[k].friend == friend
        and group(k) == (counter, fixed)
        and (counter or is_counter[k] or is_named(k, name))
    }
    stems = {k[: min(at)] for k in members if is_counter[k] and (at := _ends(k))}
    members |= {
        k
        for k in there
        if known[k].friend != friend and known[k].fixed == fixed and is_named(k, name, *stems)
    }
    return [k for k in there if k in members]


def _ends(branch: str) -> list[int]:
    """Where a name that the collection could have ends in the branch's name."""
    return [at for separator in _SEPARATORS if (at := branch.find(separator)) > 0]
