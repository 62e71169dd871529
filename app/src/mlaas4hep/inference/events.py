"""Events as a client sends them, one after the other or branch by branch, to answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import chain, islice
from reprlib import repr
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError, LimitError, UsageError, did_you_mean
from mlaas4hep.data.events import Branch, Events, Jagged
from mlaas4hep.data.specs import Specs
from mlaas4hep.inference.engine import Answers, Model

SLICE = 1024
"""Events that are encoded at once; other requests have their turn between two slices."""
SLICE_CELLS = 4 << 20
"""Numbers that a slice may have at most, if that is more than one event."""
MOST_CELLS = 64 << 20
"""Numbers, events times the model's columns, of one request."""
MOST_ANSWERS = 1 << 20
"""Numbers, events times the model's classes, of one answer."""
MOST_DERIVED = 64 << 20
"""Operations of the model's expressions on the values of one request."""
MOST_DERIVED_AT_ONCE = 4 << 20
"""The same of one slice: numbers in memory, for each request that is encoded at the time."""

_SHOWN = 10
"""Branches that an error names."""
_NUMBERS = {int, float, bool, type(None)}


def example(specs: Specs) -> dict[str, Any]:
    """An event in the middle of every branch's range, as a client would send it."""
    middle = {k: float(f"{(specs.minv[k] + specs.maxv[k]) / 2:.3g}") for k in specs.minv}
    flat, jagged = specs.inputs  # what only expressions read has no range
    return {k: middle.get(k, 0) for k in flat} | {k: [middle.get(k, 0)] for k in jagged}


class EventAnswers(NamedTuple):
    """The answers to events, as they are sent."""

    model: str
    classes: Sequence[str]
    predictions: Answers
    truncated: int
    """Values that were dropped, as the training saw no list that long."""
    outside: int
    """Values below or above all that the training saw in their branch (see Limits)."""


class EventTable:
    """Events as plain lists: ``[{branch: value or list}]`` or ``{branch: [value or list]}``.

    None is a missing value, or no values of a jagged branch. Branches that the model doesn't need
    are ignored. Numbers are rounded to the type that the branch has in the files, so that the same
    event has the same row. UsageError names branch, event and value.
    """

    def __init__(self, content: Any, specs: Specs) -> None:
        self._flat, self._jagged = specs.inputs
        self._types = specs.types
        self._content: list[dict[str, Any]] | dict[str, list[Any]] = content
        if isinstance(content, list):
            self._count = len(content)
        elif isinstance(content, dict):
            self._count = self._check_columns(content)
        else:
            raise UsageError(
                "events must be a list of events or an object of branches",
                'Send [{"met": 51.2, "jet_pt": [88.1, 40.3]}] or '
                '{"met": [51.2], "jet_pt": [[88.1, 40.3]]}.',
            )

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> dict[str, Branch]:
        """Events ``start:stop`` as arrays."""
        events: dict[str, Branch] = {}
        with np.errstate(over="raise"):
            for name in self._flat:
                column, dtype = self._column(name, start, stop), self._types.get(name, "float64")
                events[name] = _flat(column, name, start, dtype)
            for name in self._jagged:
                column, dtype = self._column(name, start, stop), self._types.get(name, "float64")
                events[name] = _jagged(column, name, start, dtype)
        return events

    def _column(self, name: str, start: int, stop: int) -> list[Any]:
        if isinstance(self._content, dict):
            return self._content[name][start:stop]
        part = self._content[start:stop]
        try:
            return [event[name] for event in part]
        except (KeyError, TypeError):
            for i, event in enumerate(part, start):
                if not isinstance(event, dict):
                    raise UsageError(
                        f"event {i} is {repr(event)}, not an object of branches"
                    ) from None
                if name not in event:
                    raise self._lacking(f"event {i} lacks", event) from None
            raise

    def _lacking(self, who: str, known: dict[str, Any]) -> UsageError:
        absent = [name for name in (*self._flat, *self._jagged) if name not in known]
        branches = "branch" if len(absent) == 1 else "branches"
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        shown = ", ".join(map(repr, absent[:_SHOWN]))
        return UsageError(f"{who} the {branches} {shown}{more}", _near(absent[0], known))

    def _check_columns(self, content: dict[str, Any]) -> int:
        first = ""
        for name in [*self._flat, *self._jagged]:
            if name not in content:
                raise self._lacking("the events lack", content)
            if not isinstance(content[name], list):
                raise UsageError(
                    f"the branch {name!r} is {repr(content[name])}, not a list over the events"
                )
            first = first or name
            if len(content[name]) != len(content[first]):
                raise UsageError(
                    f"the branch {name!r} has {len(content[name])} events, "
                    f"{first!r} has {len(content[first])}"
                )
        return len(content[first])


async def predict_events(model: Model, content: Any, pool: Executor | None = None) -> EventAnswers:
    """The answers to events as they are in the tree; ``pool`` or the loop's makes rows of them.

    Raises UsageError, EventError where lists of one collection differ in length, or LimitError
    where the model's expressions would take too long.
    """
    table = EventTable(content, model.specs)
    encoder = model.encoder()
    check_events(len(table), model)
    size = max(1, min(SLICE, SLICE_CELLS // model.width))
    answers = []
    operations = outside = 0
    loop = asyncio.get_running_loop()
    for start in range(0, max(len(table), 1), size):

        def encode(start: int = start, size: int = size) -> NDArray[np.float32]:
            nonlocal operations, outside
            events = table.read(start, start + size)
            some = encoder.operations * longest(events)
            if some > MOST_DERIVED_AT_ONCE and size > 1:
                half = size // 2
                return np.concatenate([encode(start, half), encode(start + half, size - half)])
            operations += some
            if some > MOST_DERIVED_AT_ONCE or operations > MOST_DERIVED:
                raise LimitError(
                    f"the events are too many or too long for the expressions of {model.name}",
                    "Send fewer at once.",
                )
            try:
                rows = encoder.encode(events)
            except EventError as error:
                raise error.after(start) from None
            outside += sum(map(np.count_nonzero, model.limits.beyond(rows)))
            return rows

        answers.append(await model.predict_many(await loop.run_in_executor(pool, encode)))
    predictions = np.concatenate(answers)
    return EventAnswers(model.name, model.classes, predictions, encoder.truncated, outside)


def check_events(count: int, model: Model) -> None:
    """LimitError when the events would take too much memory as rows, or their answers would."""
    most = max(1, min(MOST_CELLS // model.width, MOST_ANSWERS // len(model.labels)))
    if count > most:
        raise LimitError(
            f"{count} events are too many for one request: the model {model.name} has "
            f"{model.width} columns and {len(model.labels)} classes",
            f"Send at most {most} events at once.",
        )


def longest(events: Events) -> int:
    """How many values the branch has that has most."""
    contents = (each.content if isinstance(each, Jagged) else each for each in events.values())
    return max(map(len, contents), default=0)


def _near(name: str, known: dict[str, Any]) -> str:
    """What a client may have meant; of its names, which may be any number, only some are seen."""
    return did_you_mean(name[:100], [key[:100] for key in islice(known, 100)])


def _numbers(values: Sequence[Any], name: str, dtype: str) -> NDArray[np.floating[Any]]:
    try:
        return np.array(values, dtype)
    except FloatingPointError:
        largest = float(np.finfo(dtype).max)
        value = next(v for v in values if v is not None and abs(v) > largest)
        raise UsageError(
            f"the branch {name!r} is {dtype}, which can't hold {value:g}",
            "Send null for a missing value.",
        ) from None


def _flat(values: Sequence[Any], name: str, start: int, dtype: str) -> NDArray[np.floating[Any]]:
    if not set(map(type, values)) <= _NUMBERS:
        i, value = next((i, v) for i, v in enumerate(values, start) if type(v) not in _NUMBERS)
        raise UsageError(
            f"event {i}: the branch {name!r} is flat, its value must be a number or null, "
            f"not {repr(value)}"
        )
    return _numbers(values, name, dtype)


def _jagged(values: Sequence[Any], name: str, start: int, dtype: str) -> Jagged:
    if not set(map(type, values)) <= {list}:
        for i, value in enumerate(values, start):
            if value is not None and not isinstance(value, list):
                raise UsageError(
                    f"event {i}: the branch {name!r} is jagged, its value must be a list of "
                    f"numbers or null, not {repr(value)}"
                )
        values = [value or [] for value in values]
    content = list(chain.from_iterable(values))
    if not set(map(type, content)) <= _NUMBERS:
        for i, event in enumerate(values, start):
            for value in event:
                if type(value) not in _NUMBERS:
                    raise UsageError(
                        f"event {i}: the branch {name!r} holds {repr(value)}, not a number"
                    )
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return Jagged(offsets, _numbers(content, name, dtype))
