"""Which branches are features: names and wildcards, the same in every file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from mlaas4hep.core.errors import DataError, UsageError, did_you_mean
from mlaas4hep.data.preprocess import Cleaner, Preprocessing
from mlaas4hep.data.specs import by_reason
from mlaas4hep.sources.columns import BranchInfo, UnreadableError
from mlaas4hep.sources.root import RootFile

IDENTIFIER = ("run", "event", "luminosityBlock")
"""Branches that identify an event, by CMS's names."""
REGULAR = "re:"
"""What a regular expression begins with."""

_SHOWN = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """What of a tree is used; the keys of params.json have the same names (``branch`` = tree).

    Names may be wildcards (``Jet_*``). ``identifier``, ``observers``, ``label_branch``,
    ``weight_branch`` and ``target``, a branch or a new variable, are never features.
    ``exclude_branches`` leaves out of what the wildcards of ``selected_branches`` name; a branch
    that is selected by its exact name stays. ``branches`` says what to do where files differ:
    "same" is an error, "common" uses the branches that all files have. ``max_vec_sizes`` are the
    columns of a list, ``missing`` the values that stand for a missing one, ``clip`` the bounds, by
    branch, wildcard or the name that a collection's branches begin with; ``normalisation`` and
    ``mask`` are those of Preprocessing. A wildcard that begins with ``re:`` is a regular expression
    for the whole name. ``friends`` says where the files' friends are; what has there the name of
    identifier, label or weight isn't a feature either, unless it is selected by its exact name.
    """

    tree: str = "Events"
    identifier: tuple[str, ...] = IDENTIFIER
    selected_branches: tuple[str, ...] = ()
    exclude_branches: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    branches: Literal["same", "common"] = "same"
    label_branch: str | None = None
    weight_branch: str | None = None
    target: str | None = None
    max_vec_sizes: Mapping[str, int] | None = None
    missing: Mapping[str, float | Sequence[float]] | None = None
    clip: Mapping[str, Sequence[float | None]] | None = None
    normalisation: str = "minmax"
    mask: bool = False
    friends: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON and ``Specs.selection`` hold it, without nevts."""
        plain: dict[str, Any] = {
            "observers": [],
            "target": None,
            "missing": None,
            "clip": None,
            "normalisation": "minmax",
            "mask": False,
            "friends": None,
        }
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in found.items() if k not in plain or v != plain[k]}

    def preprocessing(
        self, branches: Sequence[str], observers: Sequence[str] = ()
    ) -> Preprocessing:
        """What is done to the values of the branches; UsageError as ``by_branch`` raises.

        ``missing`` may name target and observers, too.
        """
        others = [*observers, *([self.target] if self.target else [])]
        found = by_branch("missing", self.missing or {}, [*branches, *others], "branch")
        missing = {name: values for name, values in found.items() if name not in others}
        clip = by_branch("clip", self.clip or {}, branches, "branch")
        return Preprocessing(
            self.normalisation,
            {name: (bounds[0], bounds[1]) for name, bounds in clip.items()},
            {k: v if isinstance(v, Sequence) else [v] for k, v in missing.items()},
            self.mask,
        )

    def sizes(self, jagged: Sequence[str]) -> dict[str, int]:
        """The columns of those jagged branches of which they are given; errors as by_branch's."""
        return by_branch("max_vec_sizes", self.max_vec_sizes or {}, jagged, "jagged branch")


@dataclass(frozen=True)
class Selected:
    """Names of the features, sorted by ASCII; ``left_out`` says why others can't be used.

    ``counted`` are jagged branches with the same counter in the file, ``alike`` those without one
    whose names begin alike (``Jet_pt``, ``Jet_eta``): collections, if their lists have one length.
    ``warnings`` say what is odd, but allowed. ``observers`` are the branches that predictions keep
    and the report draws.
    """

    flat: list[str]
    jagged: list[str]
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    counted: list[list[str]] = field(default_factory=list)
    alike: list[list[str]] = field(default_factory=list)
    observers: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[str]]:
        """Flat and jagged names, as in ``flat, jagged = select(...)``."""
        return iter((self.flat, self.jagged))

    def without(self, error: UnreadableError, selection: Selection) -> Selected:
        """The selection without what can't be read; raises the error if it was named exactly."""
        lost = error.branches
        if any(name in selection.selected_branches for name in lost):
            raise error
        flat, jagged = ([k for k in names if k not in lost] for names in self)
        left_out = self.left_out | {k: f"uproot can't read it: {lost[k]}" for k in lost}
        if not flat and not jagged:
            raise _nothing_left(f"the tree {selection.tree} of {error.file}", left_out)
        counted, alike = (
            [[k for k in group if k not in lost] for group in groups]
            for groups in (self.counted, self.alike)
        )
        return replace(
            self, flat=flat, jagged=jagged, left_out=left_out, counted=counted, alike=alike
        )


def select(files: Sequence[RootFile], selection: Selection) -> Selected:
    """The branches to read from all files.

    Raises UsageError naming: a name or wildcard that no file has, with the nearest ones; a branch
    both selected and excluded by its exact name, or selected so that holds neither numbers nor
    lists of them; a label branch that can't be one. Raises DataError naming branches that differ
    from file to file, or on a selection of nothing.
    """
    known = list(dict.fromkeys(name for file in files for name in file.branches))
    where = files[0].name if len(files) == 1 else f"the {len(files)} files"
    for key in ("selected_branches", "exclude_branches", "identifier", "observers"):
        for pattern in getattr(selection, key):
            if key == "identifier" and pattern in IDENTIFIER:
                continue  # the default suits many files, not all
            if not any(_matches(name, pattern) for name in known):
                raise UsageError(
                    f"{key}: no branch {pattern!r} in the tree {selection.tree} of {where}",
                    did_you_mean(pattern, known),
                )
    if both := sorted({*selection.selected_branches} & {*selection.exclude_branches}):
        raise UsageError(
            f"{', '.join(both)}: in selected_branches and in exclude_branches",
            "Remove it from one of them.",
        )
    if selection.label_branch is not None:
        check_role(files, selection.label_branch, "label", ("flat", "string"))
    if selection.weight_branch is not None:
        check_role(files, selection.weight_branch, "weight", ("flat",))

    observers = [k for k in known if any(_matches(k, p) for p in selection.observers)]
    for name in observers:
        check_role(files, name, "observer", ("flat",))
    infos_by_name = {k: info for file in reversed(files) for k, info in file.branches.items()}
    wanted = [name for name in known if _is_wanted(infos_by_name[name], selection)]
    left_out: dict[str, str] = {}
    kinds: dict[str, str] = {}
    warnings = [*_idle(selection, known), *_no_features(selection)]
    differing: dict[str, str] = {}
    for name in wanted:
        infos = [file.branches.get(name) for file in files]
        usable = [info for info in infos if info and info.kind in ("flat", "jagged")]
        found = [info for info in infos if info]
        if not usable:
            reason = f"of type {found[0].type}: neither numbers nor lists of numbers"
            if name in selection.selected_branches:
                raise UsageError(
                    f"selected_branches: the branch {name} of {where} is {reason}",
                    _flatten(found[0].type) + "Remove it from selected_branches.",
                )
            left_out[name] = reason
        elif reason := _difference(name, files):
            differing[name] = reason
        else:
            kinds[name] = usable[0].kind
            warnings += _mixed(name, files)
    if differing and selection.branches == "same":
        shown = "; ".join(f"{k} {v}" for k, v in list(differing.items())[:_SHOWN])
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        few = 2 * len(kinds) < len(wanted)
        raise DataError(
            f"the files' branches differ: {shown}{more}. They share {len(kinds)} of {len(wanted)}"
            + (": are they the right files?" if few else ""),
            'Set "branches": "common" in params.json to use those that all files have.',
        )
    left_out |= differing
    if not kinds:
        raise _nothing_left(f"the tree {selection.tree} of {where}", left_out)
    jagged = sorted(k for k, kind in kinds.items() if kind == "jagged")
    infos_of = [next(f.branches[k] for f in files if k in f.branches) for k in jagged]
    shared = shared_counters(files[0].branches.values())
    return Selected(
        sorted(k for k, kind in kinds.items() if kind == "flat"),
        jagged,
        left_out,
        warnings,
        _groups(infos_of, lambda info: info.counter),
        _groups(infos_of, lambda info: "" if info.counter in shared else _stem(info)),
        observers,
    )


def by_branch(key: str, given: Mapping[str, T], branches: Sequence[str], what: str) -> dict[str, T]:
    """What the ``key`` of params.json gives each branch, of those that it gives something.

    An exact name comes before wildcards and collections. Raises UsageError naming a branch that is
    given several things, or what fits no branch.
    """
    found: dict[str, T] = {}
    for name in branches:
        fitting = {pattern: value for pattern, value in given.items() if _is_of(name, pattern)}
        values = [given[name]] if name in given else list(fitting.values())
        if any(value != values[0] for value in values):
            raise UsageError(
                f"{key}: several fit the branch {name}: {', '.join(map(repr, fitting))}",
                f"Name {name} itself, or take one of them away.",
            )
        if values:
            found[name] = values[0]
    for pattern in given:
        if not any(_is_of(name, pattern) for name in branches):
            raise UsageError(
                f"{key}: {pattern!r} is neither a {what} in use nor a collection of them",
                did_you_mean(pattern, [*branches, *collections_of(branches)]),
            )
    return found


def cleaner_of(branch: str, missing: Mapping[str, float | Sequence[float]] | None) -> Cleaner:
    """What finds the missing values of a target or observer; UsageError as ``by_branch`` raises."""
    given = {key: value for key, value in (missing or {}).items() if _is_of(branch, key)}
    found = by_branch("missing", given, [branch], "branch").get(branch, ())
    return Cleaner(found if isinstance(found, Sequence) else [found], (None, None))


def collections_of(branches: Sequence[str]) -> list[str]:
    """What the branches' names begin with, before the first separator, each once."""
    stems = (re.split(r"[_./]", name, maxsplit=1) for name in branches)
    return list(dict.fromkeys(stem for stem, *rest in stems if stem and rest))


def _is_of(name: str, key: str) -> bool:
    """Whether the branch matches, or is ``key_...``, ``key....`` or ``key/...``."""
    return _matches(name, key) or name.startswith(tuple(key + mark for mark in "_./"))


def _flatten(title: str) -> str:
    """What to do about lists of lists, or of bitsets; empty for anything else."""
    if re.search(r"bitset<.*>(>|\[\])", title):
        return (
            "Write lists of bitsets as lists of whole numbers, each by its to_ulong(): expressions"
            " know their bits (x & 4). "
        )
    if not re.search(r"vector<\s*(std::)?vector<|RVec<.*RVec<|\[\]\[\]$", title):
        return ""
    return (
        "Lists of lists must be flattened before the file is written, such as by"
        " ak.flatten(events.x, axis=2) or RDataFrame's Concatenate. "
    )


def _nothing_left(where: str, left_out: dict[str, str]) -> DataError:
    message = f"no branch is left to use in {where}"
    if not left_out:
        return DataError(message, "Loosen selected_branches, exclude_branches or identifier.")
    return DataError(
        f"{message}: {by_reason(left_out)}",
        "Select branches of numbers or lists of numbers, or write files that have some.",
    )


def _groups(infos: Sequence[BranchInfo], key: Callable[[BranchInfo], str]) -> list[list[str]]:
    """Names of the branches that have the same key, where it isn't empty, and others have it."""
    found: dict[str, list[str]] = {}
    for info in infos:
        if name := key(info):
            found.setdefault(name, []).append(info.name)
    return [names for names in found.values() if len(names) > 1]


def shared_counters(infos: Iterable[BranchInfo]) -> set[str]:
    """Counters of several branches; uproot writes one for each branch, which tells nothing."""
    uses = Counter(info.counter for info in infos if info.counter)
    return {counter for counter, number in uses.items() if number > 1}


def _no_features(selection: Selection) -> list[str]:
    """A warning for each selected branch that is something else, and so not a feature."""
    roles = {selection.label_branch: "the label", selection.weight_branch: "the weight"}
    warnings = []
    for name in selection.selected_branches:
        role = roles.get(name)
        for key in ("identifier", "observers"):
            if any(_matches(name, pattern) for pattern in getattr(selection, key)):
                role = role or f"in {key}"
        if role:
            warnings.append(f"selected_branches: {name!r} is {role}, so it is not a feature")
    return warnings


def _stem(info: BranchInfo) -> str:
    """``Jet`` of ``Jet_pt``; empty for lists of a fixed length."""
    if info.fixed:
        return ""
    start, *rest = re.split(r"[_./:]", info.own_name, maxsplit=1)
    return start if rest else ""


def _idle(selection: Selection, known: Sequence[str]) -> list[str]:
    """A warning for each of exclude_branches that leaves nothing out."""
    warnings = []
    kept = selection.selected_branches
    for pattern in selection.exclude_branches:
        names = [name for name in known if _matches(name, pattern)]
        roles = (selection.label_branch, selection.weight_branch, selection.target)
        never = (*roles, *selection.identifier, *selection.observers)
        if kept and not any(
            name not in kept and any(_matches(name, p) for p in (*kept, *never) if p)
            for name in names
        ):
            warnings.append(
                f"exclude_branches: {pattern!r} leaves nothing out of selected_branches"
            )
    return warnings


def _mixed(name: str, files: Sequence[RootFile]) -> list[str]:
    """A warning if the branch holds whole numbers in one file, real ones in another."""
    first = files[0].branches[name]
    for file in files[1:]:
        if (other := file.branches[name]).is_real != first.is_real:
            return [
                f"the branch {name} is {first.type} in {files[0].name},"
                f" {other.type} in {file.name}: both are used as numbers"
            ]
    return []


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith(REGULAR):
        return re.fullmatch(pattern.removeprefix(REGULAR), name) is not None
    return name == pattern or fnmatchcase(name, pattern)


def _is_wanted(info: BranchInfo, selection: Selection) -> bool:
    name = info.name
    if name in (selection.label_branch, selection.weight_branch, selection.target):
        return False
    if any(_matches(name, p) for p in (*selection.identifier, *selection.observers)):
        return False
    if name in selection.selected_branches:
        return True
    if info.own_name in (selection.label_branch, selection.weight_branch) or any(
        _matches(info.own_name, p) for p in selection.identifier
    ):
        return False
    if selection.selected_branches and not any(
        _matches(name, p) for p in selection.selected_branches
    ):
        return False
    return not any(_matches(name, p) for p in selection.exclude_branches)


def _difference(name: str, files: Sequence[RootFile]) -> str:
    """How the branch differs from file to file; empty where it doesn't."""
    if absent := [file.name for file in files if name not in file.branches]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        return f"is not in {absent[0]}{more}"
    first = files[0].branches[name]
    for file in files[1:]:
        if (other := file.branches[name]).kind != first.kind:
            return (
                f"is {first.kind} ({first.type}) in {files[0].name},"
                f" {other.kind} ({other.type}) in {file.name}"
            )
        if other.fixed != first.fixed:
            lengths = [f"{i.fixed or 'any number of'} values" for i in (first, other)]
            return (
                f"holds {lengths[0]} ({first.type}) in {files[0].name},"
                f" {lengths[1]} ({other.type}) in {file.name}"
            )
    return ""


def check_role(files: Sequence[RootFile], name: str, role: str, kinds: Sequence[str]) -> None:
    """UsageError unless the branch of that role is in each file, with one value per event."""
    what = "one number or text" if "string" in kinds else "one number"
    for file in files:
        info = file.branches.get(name)
        if info is None:
            raise UsageError(
                f"{file.name}: no branch {name!r} to take {role}s from",
                did_you_mean(name, file.branches),
            )
        if info.kind not in kinds:
            raise UsageError(
                f"{file.name}: {role}s can't be taken from {name}, which is {info.kind}"
                f" ({info.type})",
                f"Name a branch with {what} per event.",
            )
