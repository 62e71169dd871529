"""What is done to events before they become rows: objects, new variables, selection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError, UsageError, did_you_mean
from mlaas4hep.data.events import Branch, Events, Jagged
from mlaas4hep.data.expressions import (
    Bound,
    Expression,
    Kind,
    kept,
    kept_offsets,
    numbers,
    refuse_lengths,
)

MOST_EXPRESSIONS = 200
MOST_NODES_IN_ALL = 5000
_KINDS = ("flat", "jagged")


@dataclass(frozen=True)
class Cuts:
    """The keys ``objects``, ``order``, ``new_variables`` and ``selection`` of params.json, parsed.

    Raises ExpressionError on what is not of the language, UsageError on too many.
    """

    objects: Mapping[str, Expression]
    new_variables: Mapping[str, Expression]
    selection: Expression | None
    order: Mapping[str, Expression] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        objects: Mapping[str, str],
        new_variables: Mapping[str, str],
        selection: str = "",
        order: Mapping[str, str] | None = None,
    ) -> Self:
        """The keys' texts, of which each may be empty."""
        for name in new_variables:
            if not name.strip() or "`" in name or not name.isprintable() or len(name) > 200:
                raise UsageError(
                    f"new_variables: {name[:200]!r} can't be the name of a branch",
                    "Use letters, digits and _, such as HT.",
                )
        cuts = cls(
            {k: Expression(text, f"objects: {k[:200]}") for k, text in objects.items()},
            {k: Expression(text, f"new_variables: {k}") for k, text in new_variables.items()},
            Expression(selection, "selection") if selection else None,
            {k: Expression(text, f"order: {k[:200]}") for k, text in (order or {}).items()},
        )
        nodes = [each.nodes for each in cuts.expressions]
        if len(nodes) > MOST_EXPRESSIONS or sum(nodes) > MOST_NODES_IN_ALL:
            raise UsageError(
                f"{len(nodes)} expressions with {sum(nodes)} names, numbers and operations; at most"
                f" {MOST_EXPRESSIONS} with {MOST_NODES_IN_ALL} are possible",
                "Write the variables into the files.",
            )
        return cuts

    @property
    def expressions(self) -> list[Expression]:
        """All of them."""
        last = [self.selection] if self.selection else []
        return [*self.of_lists, *self.new_variables.values(), *last]

    @property
    def of_lists(self) -> list[Expression]:
        """Those of objects and order."""
        return [*self.objects.values(), *self.order.values()]

    @property
    def names(self) -> list[str]:
        """The branches of the files that they read, in order of appearance."""
        found = dict.fromkeys(name for each in self.expressions for name in each.names)
        return [name for name in found if name not in self.new_variables]

    def as_dict(self) -> dict[str, Any]:
        """The keys that aren't empty, as in params.json."""
        found: dict[str, Any] = {
            "objects": {k: each.text for k, each in self.objects.items()},
            "order": {k: each.text for k, each in self.order.items()},
            "new_variables": {k: each.text for k, each in self.new_variables.items()},
            "selection": self.selection.text if self.selection else "",
        }
        return {key: value for key, value in found.items() if value}


class Input(NamedTuple):
    """A branch that expressions read: "flat" or "jagged", and its numpy type in the files."""

    kind: str
    dtype: str


class Derivation:
    """Applies objects, order, new variables and selection to events as they are in the tree.

    In this order. ``inputs`` are the branches that the expressions read; ``collections`` the
    branches of which each of ``objects`` keeps entries, and which each of ``order`` sorts; the new
    variable ``target``, if any, is what a regression predicts and no feature.
    Expressions of objects see the lists as they are stored, all others what is left of them.
    Raises ExpressionError on what doesn't fit the branches' kinds.
    """

    def __init__(
        self,
        cuts: Cuts,
        inputs: Mapping[str, Input],
        collections: Mapping[str, Sequence[str]],
        target: str = "",
    ) -> None:
        self.target = target
        self.cuts, self.inputs, self.collections = cuts, dict(inputs), dict(collections)
        kinds = {
            name: Kind(each.kind == "jagged", each.dtype == "bool") for name, each in inputs.items()
        }

        def bound(
            expression: Expression, wanted: Kind, about: str, remedy: str, of_list: str = ""
        ) -> Bound:
            found = expression.bind(kinds)
            if found.kind != wanted:
                remedy = of_list if of_list and found.kind.is_list else remedy
                raise expression.error(None, f"{about}, this is {found.kind}", remedy)
            return found

        self._objects = {
            name: bound(
                expression,
                Kind(True, True),
                "a cut on objects is a condition on each entry of lists",
                "Cut on events by selection.",
            )
            for name, expression in cuts.objects.items()
        }
        self._order = {
            name: bound(
                expression,
                Kind(True, False),
                "lists are sorted by a number for each entry",
                "Name a branch of the collection, such as its pt.",
            )
            for name, expression in cuts.order.items()
        }
        self._new: dict[str, Bound] = {}
        for name, expression in cuts.new_variables.items():
            self._new[name] = expression.bind(kinds)
            kinds[name] = self._new[name].kind
        self._selection = cuts.selection and bound(
            cuts.selection,
            Kind(False, True),
            "a selection is one condition per event",
            f"Compare it with a number, such as {cuts.selection.text[:50]} > 2.",
            "Reduce the list to one: any(Jet_pt > 30), all(...) or count(...) > 2.",
        )

    @property
    def flat(self) -> list[str]:
        """New features with one value per event."""
        return [name for name in self._features if not self._new[name].kind.is_list]

    @property
    def jagged(self) -> list[str]:
        """New features with a list per event."""
        return [name for name in self._features if self._new[name].kind.is_list]

    @property
    def _features(self) -> list[str]:
        return [name for name in self._new if name != self.target]

    @cached_property
    def nodes(self) -> int:
        """How many operations an event, or each entry of its lists, costs in a prediction."""
        return sum(each.nodes for each in self.without_selection.cuts.expressions)

    @property
    def terms(self) -> list[str]:
        """The conditions that ``and`` joins to the selection."""
        return [text for text, _ in self._selection.terms] if self._selection else []

    @cached_property
    def without_selection(self) -> Derivation:
        """What a prediction needs: objects and new features."""
        return self._part(None, self._features, rows=True)

    @property
    def for_target(self) -> Derivation:
        """What the target needs, and the expressions that this in turn needs.

        Raises ExpressionError where it is a list per event.
        """
        expression, bound = self.cuts.new_variables[self.target], self._new[self.target]
        if bound.kind.is_list:
            raise expression.error(
                None, f"a target is one number per event, this is {bound.kind}", "Take one of it."
            )
        return self._part(None, [self.target])

    @property
    def for_selection(self) -> Derivation:
        """What the selection needs, and the expressions that this in turn needs."""
        selection = self.cuts.selection
        return self._part(selection, selection.names if selection else [])

    def derive(self, events: Events) -> dict[str, Branch]:
        """The events with fewer entries in the lists of objects, and with new variables.

        Raises EventError naming lists that differ in length.
        """
        result = dict(events)
        stored = _Numbers(events, self.inputs)
        for name, cut in self._objects.items():
            mask = cut(stored)
            assert isinstance(mask, Jagged)  # noqa: S101
            wanted = mask.content.astype(bool)
            offsets = kept_offsets(mask, wanted)
            for branch in self.collections[name]:
                if branch not in events:
                    continue
                lists = events[branch]
                if not isinstance(lists, Jagged):
                    raise DataError(f"the branch {branch} is flat, expected a list per event")
                refuse_lengths(branch, lists, cut.source.text, mask)
                result[branch] = kept(lists, wanted, offsets)
        self._sort(result)
        left = _Numbers(result, self.inputs)
        for name, bound in self._new.items():
            result[name] = left.known[name] = bound(left)
        return result

    def _sort(self, events: dict[str, Branch]) -> None:
        """Put the entries of the lists of each of ``order`` into their order.

        Each number is that of the lists before any is sorted, whatever the sequence of the keys.
        """
        unsorted = _Numbers(dict(events), self.inputs)
        for name, by in self._order.items():
            keys = by(unsorted)
            assert isinstance(keys, Jagged)  # noqa: S101
            if (places := _descending(keys)) is None:
                continue
            offsets = keys.offsets - keys.offsets[0]
            for branch in self.collections[name]:
                if branch not in events:
                    continue
                lists = events[branch]
                if not isinstance(lists, Jagged):
                    raise DataError(f"the branch {branch} is flat, expected a list per event")
                refuse_lengths(branch, lists, by.source.text, keys)
                content = lists.content[lists.offsets[0] : lists.offsets[-1]]
                events[branch] = Jagged(offsets, content[places])

    def passes(self, events: Events) -> tuple[NDArray[np.bool_], list[int]]:
        """Which of the derived events pass, and how many are left after each term."""
        assert self._selection  # noqa: S101
        values = _Numbers(events, self.inputs)
        values.known |= {name: events[name] for name in self._new}
        mask: Any = True
        left = []
        with np.errstate(all="ignore"):
            for _, term in self._selection.terms:
                mask = np.logical_and(mask, term(values))
                left.append(int(np.count_nonzero(mask)))
        return mask, left

    def _part(
        self, selection: Expression | None, wanted: Sequence[str], rows: bool = False
    ) -> Derivation:
        """With these new variables, whatever they need, and no more.

        For ``rows``, with all cuts on objects: they hold other branches of the collections too.
        """
        names = dict.fromkeys(wanted)
        for name in reversed(self._new):
            if name in names:
                names |= dict.fromkeys(self.cuts.new_variables[name].names)
        new = {k: each for k, each in self.cuts.new_variables.items() if k in names}
        objects, order = dict(self.cuts.objects), dict(self.cuts.order)
        if not rows:
            objects, order = (
                {k: v for k, v in each.items() if names.keys() & set(self.collections[k])}
                for each in (objects, order)
            )
            # What sorts a collection may be of another one that is cut.
            objects |= {
                k: v
                for k, v in self.cuts.objects.items()
                if any(set(by.names) & set(self.collections[k]) for by in order.values())
            }
        for expression in (*objects.values(), *order.values()):
            names |= dict.fromkeys(expression.names)
        inputs = {k: each for k, each in self.inputs.items() if k in names}
        collections = {k: self.collections[k] for k in (*objects, *order)}
        return Derivation(Cuts(objects, new, selection, order), inputs, collections)

    def to_json(self) -> dict[str, Any]:
        """As specs.json holds it."""
        return self.cuts.as_dict() | {
            "inputs": {name: list(each) for name, each in self.inputs.items()},
            "collections": {name: list(each) for name, each in self.collections.items()},
            **({"target": self.target} if self.target else {}),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """From ``to_json``, of unknown origin; ValueError or MlaasError says what is wrong."""
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        objects, order, new = (
            _texts(value.get(key, {}), key) for key in ("objects", "order", "new_variables")
        )
        selection = value.get("selection", "")
        if not isinstance(selection, str):
            raise ValueError("selection: expected a text")
        inputs, groups = value.get("inputs", {}), value.get("collections", {})
        if not isinstance(inputs, dict) or not isinstance(groups, dict):
            raise ValueError("inputs, collections: expected objects")
        for name, each in inputs.items():
            if (
                not isinstance(each, list)
                or len(each) != 2
                or each[0] not in _KINDS
                or each[1] not in _DTYPES
            ):
                raise ValueError(f"inputs: {name!r} has {each!r}, expected a kind and a type")
        if groups.keys() != objects.keys() | order.keys():
            raise ValueError("collections: expected those of objects and order")
        for name, each in groups.items():
            if not isinstance(each, list) or not all(isinstance(k, str) for k in each):
                raise ValueError(f"collections: {name!r}: expected names of branches")
            if len(set(each)) < len(each) or len(each) > MOST_MEMBERS:
                raise ValueError(
                    f"collections: {name!r} names a branch twice, or more than {MOST_MEMBERS}"
                )
        target = value.get("target", "")
        if not isinstance(target, str) or (target and target not in new):
            raise ValueError(f"target: {target!r} is no new variable")
        cuts = Cuts.parse(objects, new, selection, order)
        return cls(cuts, {k: Input(*each) for k, each in inputs.items()}, groups, target)


MOST_MEMBERS = 10_000
"""Branches of one collection, in a derivation of unknown origin: each takes time in each event."""
_DTYPES = tuple(
    np.dtype(code).name for code in ("?", *"bBhHiIqQ", np.float16, np.float32, np.float64)
)


def _descending(keys: Jagged) -> NDArray[np.intp] | None:
    """Where the entries of each list, the greatest first and NaN last, are in the content.

    Equal ones stay as they are; None where all do.
    """
    values = keys.content[keys.offsets[0] : keys.offsets[-1]].astype(np.float64)
    event = np.repeat(np.arange(len(keys)), keys.counts)
    with np.errstate(invalid="ignore"):
        in_order = (values[1:] <= values[:-1]) | (event[1:] != event[:-1])
    if in_order.all():
        return None
    return np.lexsort((-values, event))


class _Numbers(Mapping[str, Branch]):
    """Branches as expressions take them, converted when they are asked for."""

    def __init__(self, events: Events, inputs: Mapping[str, Input]) -> None:
        self._events, self._inputs = events, inputs
        self.known: dict[str, Branch] = {}

    def __getitem__(self, name: str) -> Branch:
        if name not in self.known:
            if name not in self._events:
                raise DataError(
                    f"the events lack the branch {name!r}", did_you_mean(name, self._events)
                )
            values = self._events[name]
            kind, dtype = self._inputs[name]
            if isinstance(values, Jagged) != (kind == "jagged"):
                raise DataError(f"the branch {name} is not {kind}, as it was in the training")
            self.known[name] = numbers(values, dtype)
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


def _texts(value: Any, key: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{key}: expected texts by name")
    return dict(value)
