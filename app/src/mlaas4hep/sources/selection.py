"""Which branches are features: names and wildcards, the same in every file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from mlaas4hep.core.errors import DataError, did_you_mean
from mlaas4hep.sources.root import RootFile

IDENTIFIER = ("run", "event", "luminosityBlock")
"""Branches that identify an event, by CMS's names."""

_SHOWN = 10


@dataclass(frozen=True)
class Selection:
    """What of a tree is used; the keys of params.json have the same names (``branch`` = tree).

    Names may be wildcards (``Jet_*``). ``identifier`` and ``label_branch`` are never features;
    a branch both selected and excluded is used. ``branches`` says what to do where files differ:
    "same" is an error, "common" uses the branches that all files have.
    """

    tree: str = "Events"
    identifier: tuple[str, ...] = IDENTIFIER
    selected_branches: tuple[str, ...] = ()
    exclude_branches: tuple[str, ...] = ()
    branches: Literal["same", "common"] = "same"
    label_branch: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON and ``Specs.selection`` hold it, without nevts."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Selected:
    """Names of the features, sorted by ASCII; ``left_out`` says why others can't be used."""

    flat: list[str]
    jagged: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[list[str]]:
        """Flat and jagged names, as in ``flat, jagged = select(...)``."""
        return iter((self.flat, self.jagged))


def select(files: Sequence[RootFile], selection: Selection) -> Selected:
    """The branches to read from all files.

    Raises DataError naming: a name or wildcard that no file has, with the nearest ones; a branch
    selected by its exact name that holds neither numbers nor lists of them; branches that differ
    from file to file; a label branch that can't be one; a selection of nothing.
    """
    known = list(dict.fromkeys(name for file in files for name in file.branches))
    where = files[0].name if len(files) == 1 else f"the {len(files)} files"
    for key in ("selected_branches", "exclude_branches"):
        for pattern in getattr(selection, key):
            if not any(_matches(name, pattern) for name in known):
                raise DataError(
                    f"{key}: no branch {pattern!r} in the tree {selection.tree} of {where}",
                    did_you_mean(pattern, known),
                )
    if selection.label_branch is not None:
        _check_label(files, selection.label_branch)

    wanted = [name for name in known if _is_wanted(name, selection)]
    left_out: dict[str, str] = {}
    kinds: dict[str, str] = {}
    differing: dict[str, str] = {}
    for name in wanted:
        infos = [file.branches.get(name) for file in files]
        usable = [info for info in infos if info and info.kind in ("flat", "jagged")]
        found = [info for info in infos if info]
        if not usable:
            reason = f"of type {found[0].type}: neither numbers nor lists of numbers"
            if name in selection.selected_branches:
                raise DataError(
                    f"selected_branches: the branch {name} of {where} is {reason}",
                    "Take it off selected_branches.",
                )
            left_out[name] = reason
        elif reason := _difference(name, files):
            differing[name] = reason
        else:
            kinds[name] = usable[0].kind
    if differing and selection.branches == "same":
        shown = "; ".join(f"{k} {v}" for k, v in list(differing.items())[:_SHOWN])
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise DataError(
            f"the files' branches differ: {shown}{more}",
            'Set "branches": "common" in params.json to use those that all files have.',
        )
    left_out |= differing
    if not kinds:
        raise DataError(
            f"no branch is left to use in the tree {selection.tree} of {where}",
            "Loosen selected_branches, exclude_branches or identifier.",
        )
    return Selected(
        sorted(k for k, kind in kinds.items() if kind == "flat"),
        sorted(k for k, kind in kinds.items() if kind == "jagged"),
        left_out,
    )


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _is_wanted(name: str, selection: Selection) -> bool:
    if name == selection.label_branch or any(_matches(name, p) for p in selection.identifier):
        return False
    if selection.selected_branches:
        return any(_matches(name, p) for p in selection.selected_branches)
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
    return ""


def _check_label(files: Sequence[RootFile], label: str) -> None:
    for file in files:
        info = file.branches.get(label)
        if info is None:
            raise DataError(
                f"{file.name}: no branch {label!r} to take labels from",
                did_you_mean(label, file.branches),
            )
        if info.kind not in ("flat", "string"):
            raise DataError(
                f"{file.name}: labels can't be taken from {label}, which is {info.kind}"
                f" ({info.type})",
                "Name a branch with one number or text per event.",
            )
