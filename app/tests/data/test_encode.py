from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mlaas4hep.core.errors import DataError, EventError
from mlaas4hep.data import Encoder, Events, Jagged, Specs, SpecsScan

DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_])


def lists(*events: list[Any], dtype: type = np.float32) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in events])]).astype(np.int64)
    return Jagged(offsets, np.array([x for e in events for x in e], dtype))


def specs_of(events: Events) -> Specs:
    flat = [k for k, v in events.items() if not isinstance(v, Jagged)]
    scan = SpecsScan("Events", flat, [k for k in events if k not in flat])
    scan.add(0, events)
    return scan.result()


def expected(specs: Specs, events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Rows and mask, value by value, in float64."""
    n = len(next(iter(events.values())))
    rows, mask = np.zeros((n, len(specs.columns))), np.ones((n, len(specs.columns)), np.int8)
    for event in range(n):
        column = 0
        for branch in specs.flat + specs.jagged:
            values = events[branch]
            if isinstance(values, Jagged):
                there = values.content[values.offsets[event] : values.offsets[event + 1]].tolist()
                length = specs.jdim[branch]
            else:
                there, length = [values[event].item()], 1
            for place, x in enumerate(there[:length]):
                if not np.isfinite(x):
                    continue
                mask[event, column + place] = 0
                low, high = specs.minv[branch], specs.maxv[branch]
                if low != high:
                    rows[event, column + place] = (x - low) / (high - low)
            column += length
    return rows, mask


@st.composite
def some_events(draw: st.DrawFn) -> Events:
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = [rng.integers(0, 4, n) for _ in range(2)]
    events: dict[str, np.ndarray | Jagged] = {}
    for name in draw(st.lists(st.sampled_from("abcdefGH"), min_size=1, unique=True)):
        dtype = draw(DTYPES)
        which = draw(st.sampled_from([None, 0, 1]))
        total = n if which is None else int(counts[which].sum())
        values = (rng.normal(size=total) * 50).astype(dtype)
        if values.dtype.kind == "f" and draw(st.booleans()):
            values[rng.random(total) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
        if which is None:
            events[name] = values
        else:
            events[name] = Jagged(np.concatenate([[0], np.cumsum(counts[which])]), values)
    return events


@given(some_events())
@settings(max_examples=200)
def test_each_value_is_in_its_column_normalised(events: Events) -> None:
    try:
        specs = specs_of(events)
        encoder = Encoder(specs)
    except DataError:
        return  # nothing but missing values or empty lists
    mask = np.empty((len(next(iter(events.values()))), encoder.width), np.int8)
    rows = encoder.encode(events, mask=mask)
    wanted, wanted_mask = expected(specs, events)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(mask, wanted_mask)
    assert encoder.truncated == 0
    assert rows.min() >= 0
    assert rows.max() <= 1


@given(some_events(), st.integers(0, 12))
def test_rows_do_not_depend_on_how_events_are_cut(events: Events, cut: int) -> None:
    try:
        specs = specs_of(events)
        encoder = Encoder(specs)
    except DataError:
        reject()  # nothing but missing values or empty lists: no example
    parts = [{k: v[s] for k, v in events.items()} for s in (slice(cut), slice(cut, None))]
    together = np.concatenate([encoder.encode(part) for part in parts])
    np.testing.assert_array_equal(together, encoder.encode(events))
    np.testing.assert_allclose(together, expected(specs, events)[0], rtol=0, atol=2e-7)


def test_doubles_are_exact_in_float64() -> None:
    events = {"x": np.random.default_rng(1).normal(1e6, 1, 1000)}
    specs = specs_of(events)
    rows = Encoder(specs, np.float64).encode(events)
    np.testing.assert_allclose(rows, expected(specs, events)[0], rtol=1e-12)


def test_64_bit_integers_keep_what_float64_can_hold() -> None:
    large = 2**53
    events = {
        "i": np.array([-large, 0, large], np.int64),
        "u": np.array([2**63, 2**63 + 4096, 2**64 - 1], np.uint64),
    }
    rows = Encoder(specs_of(events), np.float64).encode(events)
    assert rows[:, 0].tolist() == [0, 0.5, 1]
    assert rows[:, 1].tolist() == [0, 4096 / 2**63, 1]


def test_a_range_beyond_float64_and_one_below_float32() -> None:
    wide, tiny = 1.7e308, float(np.float32(1e-45))
    events = {"w": np.array([-wide, 0, wide]), "t": np.array([0, tiny, 2 * tiny], np.float32)}
    rows = Encoder(specs_of(events)).encode(events)
    assert rows.tolist() == [[0, 0], [0.5, 0.5], [1, 1]]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_denormals_are_numbers_like_others(kind: Any) -> None:
    """Of a range of denormals alone, and beside ordinary values, which make them the least."""
    tiny = np.finfo(kind).smallest_subnormal
    few = np.array([0, 1, 2, 3, 8]) * tiny
    events = {
        "all": few.astype(kind),
        "below": -few.astype(kind),
        "lists": lists([few[1], few[4]], [], [few[3]], [few[2]], [0], dtype=kind),
        "some": np.array([0, tiny, 1, 2, np.finfo(kind).tiny / 2], kind),
    }
    specs = specs_of(events)
    assert (specs.minv["all"], specs.maxv["all"]) == (0, 8 * float(tiny))
    assert (specs.minv["below"], specs.maxv["below"]) == (-8 * float(tiny), 0)
    assert (specs.minv["lists"], specs.maxv["lists"]) == (0, 8 * float(tiny))
    rows = dict(zip(specs.columns, Encoder(specs).encode(events).T.tolist(), strict=True))
    assert rows["all"] == [0, 0.125, 0.25, 0.375, 1]
    assert rows["below"] == [1, 0.875, 0.75, 0.625, 0]
    assert rows["lists_0"] == [0.125, 0, 0.375, 0.25, 0]
    assert rows["lists_1"] == [1, 0, 0, 0, 0]
    assert rows["some"][2:4] == [0.5, 1]
    assert rows["some"][0] == 0
    assert max(rows["some"][1], rows["some"][4]) < 1e-37


def test_float32_with_a_range_found_in_doubles() -> None:
    specs = Specs("t", ["x"], [], {"x": 1e9 + 0.25}, {"x": 1e9 + 64.25}, {})
    rows = Encoder(specs).encode({"x": np.array([1e9 + 64], np.float32)})
    assert rows[0, 0] == pytest.approx(63.75 / 64, rel=1e-7)


def test_a_constant_branch_is_0_and_nothing_is_clipped() -> None:
    specs = Specs("t", ["c", "x"], [], {"c": 5, "x": 0}, {"c": 5, "x": 2}, {})
    rows = Encoder(specs).encode({"c": np.array([5, 7]), "x": np.array([-1.0, 3.0])})
    assert rows.tolist() == [[0, -0.5], [0, 1.5]]


def test_longer_lists_are_cut_and_counted() -> None:
    train = {"x": lists([1, 2], [3]), "y": lists([0], [1])}
    encoder = Encoder(specs_of(train))
    more = {"x": lists([1, 2, 3], [3]), "y": lists([0, 1, 1], [1])}
    mask = np.empty((2, 3), np.int8)
    rows = encoder.encode(more, mask=mask)
    assert rows.tolist() == [[0, 0.5, 0], [1, 0, 1]]
    assert mask.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert encoder.truncated == 3
    more["x"].content[1] = np.nan
    assert encoder.encode(more, mask=mask).tolist() == [[0, 0, 0], [1, 0, 1]]
    assert mask.tolist() == [[0, 1, 0], [0, 1, 0]]


def test_branches_with_equal_offsets_but_other_arrays() -> None:
    events = {"x": lists([1, 2], [3]), "y": lists([4, 5], [6])}
    shifted = Jagged(events["y"].offsets + 1, np.concatenate([[99], events["y"].content]))
    encoder = Encoder(specs_of(events))
    rows = encoder.encode(events | {"y": shifted})
    np.testing.assert_array_equal(rows, encoder.encode(events))


def test_the_given_matrix_is_filled_whatever_it_held() -> None:
    events = {"x": lists([1, 2], []), "f": np.array([0.0, 1.0])}
    encoder = Encoder(specs_of(events))
    out = np.full((2, 3), np.nan, np.float32)
    assert encoder.encode(events, out) is out
    assert out.tolist() == [[0, 0, 1], [1, 0, 0]]
    for wrong in (out[:1], out.astype(np.float64), np.asfortranarray(out)):
        with pytest.raises(
            ValueError, match=r"out must be C-contiguous, float32, of shape \(2, 3\)"
        ):
            encoder.encode(events, wrong)
    with pytest.raises(ValueError, match="mask must be"):
        encoder.encode(events, out, np.zeros((2, 3), np.int64))  # type: ignore[arg-type]


def test_no_events_give_no_rows() -> None:
    events = {"x": lists([1, 2], []), "f": np.array([0.0, 1.0])}
    encoder = Encoder(specs_of(events))
    assert encoder.encode({k: v[:0] for k, v in events.items()}).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": ...}, "lack the branch 'x'"),
        ({"x": np.zeros(2)}, "x is flat"),
        ({"f": lists([1], [2])}, "f is jagged"),
        ({"f": np.zeros(3)}, "x has 2 events, others have 3"),
        ({"f": np.array(["a", "b"])}, "f holds <U1"),
        ({"f": np.zeros((2, 2))}, "of 2 dimensions"),
    ],
)
def test_events_that_do_not_fit_are_named(change: dict[str, Any], said: str) -> None:
    events: dict[str, Any] = {"x": lists([1, 2], []), "f": np.array([0.0, 1.0])}
    encoder = Encoder(specs_of(events))
    events = {k: v for k, v in (events | change).items() if v is not ...}
    with pytest.raises(DataError, match=said):
        encoder.encode(events)


@pytest.mark.hostile
def test_many_lists_of_lengths_of_their_own_take_linear_time() -> None:
    """Comparing each with all others took 100 s for 40,000; the suite's timeout ends it."""
    lengths = {f"b{i}": [i >> bit & 1 for bit in range(17)] for i in range(100_000)}
    events: Events = {
        name: Jagged(np.cumsum([0, *counts]), np.ones(sum(counts), np.float32))
        for name, counts in lengths.items()
    }
    names = list(events)
    zeros, ones = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    specs = Specs("t", [], names, zeros, ones, dict.fromkeys(names, 1))
    rows = Encoder(specs).encode(events)
    assert rows[:, 77_777].tolist() == lengths["b77777"]


def test_specs_without_a_column_are_refused() -> None:
    with pytest.raises(DataError, match="no column"):
        Encoder(specs_of({"x": lists([], [])}))


def test_lists_of_one_collection_must_have_one_length() -> None:
    def jagged(*lengths: int) -> Jagged:
        return Jagged(np.cumsum([0, *lengths]), np.ones(sum(lengths)))

    names = ["Jet_eta", "Jet_pt", "Muon_pt"]
    specs = Specs(
        "Events", [], names, dict.fromkeys(names, 0.0), dict.fromkeys(names, 2.0),
        dict.fromkeys(names, 3), collections=[["Jet_eta", "Jet_pt"]],
    )  # fmt: skip
    good = {"Jet_eta": jagged(2, 0, 3), "Jet_pt": jagged(2, 0, 3), "Muon_pt": jagged(1, 1, 1)}
    assert Encoder(specs).encode(good).sum() == (5 + 5 + 3) / 2
    with pytest.raises(EventError, match="event 2: Jet_eta has 3 values, Jet_pt has 2") as error:
        Encoder(specs).encode(good | {"Jet_pt": jagged(2, 0, 2)})
    assert error.value.after(10, "a.root").message.startswith("a.root: event 12: Jet_eta has 3")
