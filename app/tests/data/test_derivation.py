from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mlaas4hep.core.errors import DataError, EventError, UsageError
from mlaas4hep.data import Cuts, Derivation, Encoder, Jagged, Specs
from mlaas4hep.data.derivation import Input
from mlaas4hep.data.expressions import ExpressionError

INPUTS = {
    "met": Input("flat", "float32"),
    "trigger": Input("flat", "bool"),
    "jet_pt": Input("jagged", "float32"),
    "jet_eta": Input("jagged", "float64"),
}
JETS = ["jet_pt", "jet_eta", "jet_id"]
OBJECTS = {"jet": "jet_pt > 30 and abs(jet_eta) < 2"}
NEW = {"ht": "sum(jet_pt)", "lead": "jet_pt[0] / ht", "high": "jet_pt > 0.5 * ht"}
OFFSETS = np.array([0, 2, 2, 5])


def derivation(
    objects: dict[str, str] = OBJECTS, new: dict[str, str] = NEW, selection: str = ""
) -> Derivation:
    return Derivation(Cuts.parse(objects, new, selection), INPUTS, dict.fromkeys(objects, JETS))


def events() -> dict[str, Any]:
    return {
        "met": np.array([10, 20, 30], np.float32),
        "trigger": np.array([True, False, True]),
        "jet_pt": Jagged(OFFSETS, np.array([40, 35, 20, 100, 60], np.float32)),
        "jet_eta": Jagged(OFFSETS, np.array([0.0, 3, 0, -1, 1])),
        "jet_id": Jagged(OFFSETS, np.array([1, 2, 3, 4, 5], np.int8)),
    }


def lists(jagged: Any) -> list[list[Any]]:
    pairs = zip(jagged.offsets, jagged.offsets[1:], strict=False)
    return [jagged.content[start:stop].tolist() for start, stop in pairs]


def test_objects_then_new_variables_then_the_selection() -> None:
    found = derivation(selection="count(jet_pt) >= 1 and ht > 50 and trigger")
    after = found.derive(events())
    assert lists(after["jet_pt"]) == [[40], [], [100, 60]]
    assert lists(after["jet_id"]) == [[1], [], [4, 5]]
    assert isinstance(after["jet_id"], Jagged)
    assert after["jet_id"].content.dtype == np.int8
    assert after["ht"].tolist() == [40, 0, 160]
    np.testing.assert_array_equal(after["lead"], [1, np.nan, 0.625])
    assert lists(after["high"]) == [[True], [], [True, False]]
    mask, left = found.passes(after)
    assert mask.tolist() == [False, False, True]
    assert left == [2, 1, 1]
    assert (found.flat, found.jagged) == (["ht", "lead"], ["high"])


def ordered(by: str, objects: dict[str, str], **more: Any) -> Derivation:
    cuts = Cuts.parse(objects, {"first": "jet_id[0]"}, "first > 1", {"jet": by})
    inputs = INPUTS | {"jet_id": Input("jagged", "int8")}
    return Derivation(cuts, inputs, {"jet": JETS})


def test_a_target_is_no_feature_and_no_prediction_needs_it() -> None:
    new = {"ht": "sum(jet_pt)", "ratio": "ht / met", "half": "met / 2"}
    cuts = Cuts.parse(OBJECTS, new, "ratio > 2")
    made = Derivation(cuts, INPUTS, {"jet": JETS}, "ratio")
    for found in (made, Derivation.from_json(json.loads(json.dumps(made.to_json())))):
        assert (found.target, found.flat, found.jagged) == ("ratio", ["ht", "half"], [])
        assert set(found.without_selection.cuts.new_variables) == {"ht", "half"}
        assert set(found.for_target.cuts.new_variables) == {"ht", "ratio"}
        needed = {name: events()[name] for name in found.for_target.inputs}
        np.testing.assert_allclose(found.for_target.derive(needed)["ratio"], [4, 0, 160 / 30])
        mask, _ = found.passes(found.derive(events()))
        assert mask.tolist() == [True, False, True]
    with pytest.raises(ExpressionError, match="a target is one number per event"):
        _ = Derivation(Cuts.parse({}, {"high": "jet_pt"}, ""), INPUTS, {}, "high").for_target


def test_lists_are_sorted_after_objects_and_before_new_variables() -> None:
    for objects in ({}, {"jet": "jet_pt != 20"}):
        after = ordered("jet_eta", objects).derive(events())
        last = [5, 3, 4] if not objects else [5, 4]
        assert lists(after["jet_id"]) == [[2, 1], [], last]
        assert after["first"].tolist()[::2] == [2, 5]
        jet_pt, jet_eta = after["jet_pt"], after["jet_eta"]
        assert isinstance(jet_pt, Jagged)
        assert isinstance(jet_eta, Jagged)
        assert jet_pt.content.dtype == np.float32
        assert jet_pt.offsets is jet_eta.offsets
    again = Derivation.from_json(json.loads(json.dumps(ordered("jet_eta", {}).to_json())))
    assert lists(again.derive(events())["jet_id"]) == [[2, 1], [], [5, 3, 4]]
    needed = again.for_selection
    assert set(needed.inputs) == {"jet_id", "jet_eta"}
    assert needed.passes(needed.derive(events()))[0].tolist() == [True, False, True]


@pytest.mark.parametrize("keys", [("jet", "x"), ("x", "jet")])
def test_what_sorts_a_collection_may_be_of_another_that_is_sorted(keys: Sequence[str]) -> None:
    """The lists are sorted by the entries that they had beside them, also for the selection."""
    order = {"jet": "jet_pt", "x": "x_a * 0 + jet_pt"}
    cuts = Cuts.parse({}, {}, "x_a[0] > 4", {key: order[key] for key in keys})
    inputs = {name: Input("jagged", "float32") for name in ("jet_pt", "x_a")}
    found = Derivation(cuts, inputs, {"jet": ["jet_pt"], "x": ["x_a"]})
    given = {
        "jet_pt": Jagged(OFFSETS, np.array([1, 2, 5, 7, 6], np.float32)),
        "x_a": Jagged(OFFSETS, np.array([5, 3, 3, 9, 2], np.float32)),
    }
    whole, needed = found.derive(given), found.for_selection
    assert lists(whole["x_a"]) == [[3, 5], [], [9, 2, 3]]
    passed, _ = needed.passes(needed.derive(given))
    assert passed.tolist() == found.passes(whole)[0].tolist() == [False, False, True]


def test_sorting_keeps_equal_ones_and_puts_nan_last() -> None:
    given = events()
    assert ordered("jet_pt", {}).derive(given)["jet_eta"] is not given["jet_eta"]
    in_order = given | {"jet_pt": Jagged(OFFSETS, np.array([40, 40, 7, 7, 1], np.float32))}
    assert ordered("jet_pt", {}).derive(in_order)["jet_id"] is in_order["jet_id"]
    with_nan = given | {"jet_pt": Jagged(OFFSETS, np.array([np.nan, 1, 7, np.nan, 7], np.float32))}
    assert lists(ordered("jet_pt", {}).derive(with_nan)["jet_id"]) == [[2, 1], [], [3, 5, 4]]
    # A view into more than these events.
    parts = {k: v[1:] for k, v in with_nan.items()}
    assert lists(ordered("jet_pt", {}).derive(parts)["jet_id"]) == [[], [3, 5, 4]]


@pytest.mark.parametrize("by", ["met", "sum(jet_pt)", "jet_pt > 3"])
def test_lists_are_sorted_by_a_number_for_each_entry(by: str) -> None:
    with pytest.raises(ExpressionError, match=r"order: jet, .*sorted by a number for each entry"):
        ordered(by, {})


def test_objects_see_the_lists_as_they_are_stored() -> None:
    cuts = {"jet": "jet_pt > 30", "mu": "mu_pt > count(jet_pt)"}
    inputs = INPUTS | {"mu_pt": Input("jagged", "float32")}
    groups = {"jet": ["jet_pt"], "mu": ["mu_pt"]}
    two = events() | {"mu_pt": Jagged(np.array([0, 1, 1, 3]), np.array([1, 2.5, 3.5]))}
    for order in (cuts, dict(reversed(cuts.items()))):
        found = Derivation(Cuts.parse(order, {}), inputs, groups).derive(two)
        assert lists(found["mu_pt"]) == [[], [], [3.5]]


def test_only_what_is_needed_is_asked_for() -> None:
    found = derivation(selection="met > 3 and lead > 0")
    assert set(found.for_selection.inputs) == {"met", "jet_pt", "jet_eta"}
    assert set(found.without_selection.inputs) == {"jet_pt", "jet_eta"}
    assert set(derivation(selection="met > 3").for_selection.inputs) == {"met"}


def test_what_doesnt_fit_is_named() -> None:
    with pytest.raises(ExpressionError, match=r"one condition per event.*a list") as error:
        derivation(selection="jet_pt > 3")
    assert error.value.remedy.startswith("Reduce the list")
    with pytest.raises(ExpressionError, match=r" this is one number per event") as error:
        derivation(selection="count(jet_pt)")
    assert error.value.remedy == "Compare it with a number, such as count(jet_pt) > 2."
    with pytest.raises(ExpressionError, match="objects: jet, character 1: a cut on objects"):
        derivation({"jet": "count(jet_pt) > 3"})
    with pytest.raises(ExpressionError, match=r"new_variables: a, .*: no branch 'b'"):
        derivation(new={"a": "b + met", "b": "met"})
    with pytest.raises(UsageError, match="can't be the name of a branch"):
        derivation(new={"a`b": "met"})
    with pytest.raises(UsageError, match="at most 200"):
        Cuts.parse({}, {f"v{i}": "met" for i in range(201)})
    broken = events() | {"jet_id": Jagged(np.array([0, 2, 3, 5]), np.zeros(5))}
    with pytest.raises(EventError, match="event 1: jet_id has 1 value, jet_pt > 30"):
        derivation().derive(broken)
    with pytest.raises(DataError, match="the events lack the branch 'jet_eta'"):
        derivation().derive({k: v for k, v in events().items() if k != "jet_eta"})


def specs(**more: Any) -> Specs:
    return Specs(
        tree="events",
        flat=["ht", "lead", "met"],
        jagged=["high", "jet_pt"],
        minv=dict.fromkeys(["ht", "lead", "met", "high", "jet_pt"], 0.0),
        maxv=dict.fromkeys(["ht", "lead", "met", "high", "jet_pt"], 64.0),
        jdim={"high": 2, "jet_pt": 2},
        derivation=derivation(selection="met > 1"),
        **more,
    )


def test_specs_keep_it_and_the_encoder_applies_it() -> None:
    read = Specs.from_json(json.loads(json.dumps(specs().to_json())), "specs.json")
    assert read.derivation
    assert specs().derivation
    assert read.derivation.to_json() == specs().derivation.to_json()
    assert read.inputs == (["met"], ["jet_eta", "jet_pt"])
    rows = 64 * Encoder(read).encode(events())
    expected = [[40, 1, 10, 1, 0, 40, 0], [0, 0, 20, 0, 0, 0, 0], [160, 0.625, 30, 1, 0, 100, 60]]
    np.testing.assert_array_equal(rows, np.array(expected, np.float32))
    assert "derivation" not in Specs("t", ["a"], [], {"a": 0}, {"a": 1}, {}).to_json()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"selection": 3}, "selection: expected a text"),
    ({"objects": ["x"]}, "objects: expected texts by name"),
    ({"selection": "__import__('os')"}, "no function '__import__'"),
    ({"selection": "nothing > 3"}, "no branch 'nothing'"),
    ({"inputs": {"met": ["flat", "object"]}}, "expected a kind and a type"),
    ({"inputs": {"met": ["flat", ["int8"]]}}, "expected a kind and a type"),
    ({"inputs": [3]}, "expected objects"),
    ({"collections": {}}, "collections: expected those of objects"),
    ({"collections": {"jet": [3]}}, "expected names of branches"),
    ({"new_variables": {"more": "met"}}, "'more' can't be a new variable"),
    ({"new_variables": {"met": "1 * met"}}, "'met' can't be a new variable"),
    ({"new_variables": {"ht": "jet_pt"}}, "'ht' is flat as a feature"),
    ({"target": ["ht"]}, "['ht'] is no new variable"),
    ({"target": "met"}, "'met' is no new variable"),
    ({"target": "ht"}, "'ht' is the target and a feature"),
]


@pytest.mark.hostile
@pytest.mark.parametrize(("change", "about"), WRONG)
def test_specs_of_strangers_are_checked(change: dict[str, Any], about: str) -> None:
    """A bundle's specs.json may hold anything; what isn't a derivation is refused by name."""
    value = json.loads(json.dumps(specs().to_json()))
    value["derivation"] |= change
    with pytest.raises(DataError, match=r"specs\.json: derivation: ") as found:
        Specs.from_json(value, "specs.json")
    assert about in found.value.message
