from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from data.test_encode import lists, some_events
from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Encoder, Events, Jagged, Limits, Preprocessing, Specs, SpecsScan

NORMALISATIONS = ["minmax", "standard"]


def specs_of(events: Events, **preprocessing: Any) -> Specs:
    flat = [k for k, v in events.items() if not isinstance(v, Jagged)]
    jagged = [k for k in events if k not in flat]
    scan = SpecsScan("t", flat, jagged, preprocessing=Preprocessing(**preprocessing))
    scan.add(0, events)
    return scan.result()


def beyond(specs: Specs, events: Events) -> list[list[int]]:
    """-1 for each column that is below, 1 for each above, else 0."""
    below, above = Limits(specs).beyond(Encoder(specs).encode(events))
    return (above.astype(int) - below).tolist()


def as_single(branch: Any) -> Any:
    if isinstance(branch, Jagged):
        return replace(branch, content=branch.content.astype(np.float32))
    return branch.astype(np.float32)


def as_printed(branch: Any) -> Any:
    """Through the shortest decimal text of a float32, as clients send it."""
    if isinstance(branch, Jagged):
        return replace(branch, content=as_printed(branch.content))
    return np.array([float(str(x)) for x in branch.astype(np.float32)])


@given(some_events(), st.sampled_from(NORMALISATIONS), st.booleans())
def test_nothing_of_the_training_is_beyond(events: Events, how: str, mask: bool) -> None:
    try:
        specs = specs_of(events, normalisation=how, mask=mask)
        Encoder(specs)
    except DataError:
        reject()  # nothing but missing values or empty lists: no example
    for changed in (
        events,
        {name: as_single(each) for name, each in events.items()},
        {name: as_printed(each) for name, each in events.items()},
    ):
        assert not np.any(beyond(specs, changed))


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("mask", [False, True])
def test_values_beyond_are_found_and_nothing_else(how: str, mask: bool) -> None:
    train = {"f": np.array([10.0, 60.0, 35.0]), "x": lists([20, 30], [50], [])}
    specs = specs_of(train, normalisation=how, mask=mask, sentinels={"f": [-999.0]})
    events = {
        "f": np.array([60.1, 9.9, np.nan, -999, np.inf, 10]),
        "x": lists([50.1, 20], [], [19.9, 50.1, 77], [np.nan], [-np.inf, 1e30], [50]),
    }
    found = [[1, 1, 0], [-1, 0, 0], [0, -1, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert beyond(specs, events) == found


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_clipped_value_counts_as_the_bound(how: str) -> None:
    reached = specs_of({"f": np.array([0.0, 5, 9])}, normalisation=how, clip={"f": (None, 8.0)})
    assert beyond(reached, {"f": np.array([100.0])}) == [[0]]
    below = specs_of({"f": np.array([0.0, 5, 7])}, normalisation=how, clip={"f": (None, 8.0)})
    assert beyond(below, {"f": np.array([100.0])}) == [[1]]


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_constant_branch_has_no_limits_as_its_column_is_0(how: str) -> None:
    specs = specs_of({"c": np.array([5, 5]), "f": np.array([0.0, 1.0])}, normalisation=how)
    assert beyond(specs, {"c": np.array([7]), "f": np.array([1.5])}) == [[0, 1]]


def test_ranges_beyond_float64_and_of_large_numbers() -> None:
    wide = specs_of({"f": np.array([-1.7e308, 1.7e308])})
    assert beyond(wide, {"f": np.array([-1.7e308, 0, 1.75e308])}) == [[0], [0], [1]]
    large = specs_of({"t": np.array([1_600_000_000, 1_600_086_400])})
    times = np.array([1_600_000_000, 1_600_086_400, 1_600_090_000, 1_500_000_000])
    assert beyond(large, {"t": times}) == [[0], [0], [1], [-1]]
