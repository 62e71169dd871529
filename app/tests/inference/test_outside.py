from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data.test_encode import lists
from data.test_limits import specs_of
from mlaas4hep.data import Cuts, Derivation, Encoder, Events, Jagged, Specs
from mlaas4hep.data.derivation import Input
from mlaas4hep.inference.outside import Outside

ASKED = "Is the file in the same units?"


def simulated(events: int, seed: int, **more: np.ndarray) -> Events:
    random = np.random.default_rng(seed)
    counts = random.poisson(2, events)
    content = random.exponential(30, counts.sum())
    jets = Jagged(np.concatenate([[0], np.cumsum(counts)]), content)
    return {"met": random.exponential(30, events), "jet_pt": jets} | more


def in_mev(events: Events) -> Events:
    return {
        name: Jagged(each.offsets, each.content * 1000) if isinstance(each, Jagged) else each * 1000
        for name, each in events.items()
    }


def warned(specs: Specs, *parts: Events, passing: Any = None) -> list[str]:
    encoder, outside = Encoder(specs), Outside(specs)
    for events in parts:
        mask = np.empty((len(next(iter(events.values()))), encoder.width), np.int8)
        rows = encoder.encode(events, mask=mask)
        outside.add(events, rows, mask, passing)
    return outside.warnings()


@pytest.mark.parametrize("how", ["minmax", "standard"])
@pytest.mark.parametrize("mask", [False, True])
def test_other_units_are_told_and_the_same_source_is_not(how: str, mask: bool) -> None:
    train = simulated(2000, 1)
    specs = specs_of(train, normalisation=how, mask=mask)
    assert warned(specs, train) == []
    assert warned(specs, *(simulated(500, seed) for seed in range(2, 6))) == []
    events = simulated(1000, 9)
    found = {"jet_pt": in_mev(events)["jet_pt"].content, "met": events["met"] * 1000}
    # Of each list, as many as have a column.
    places = np.concatenate([np.arange(n) for n in events["jet_pt"].counts])
    found["jet_pt"] = found["jet_pt"][places < specs.jdim["jet_pt"]]
    shares = {name: np.mean(values > specs.maxv[name]) for name, values in found.items()}
    assert sorted(warned(specs, in_mev(events))) == [
        f"{k}: {100 * shares[k]:.3g} % of the values are above {specs.maxv[k]:.6g}, the highest in"
        f" the training. {ASKED}"
        for k in ("jet_pt", "met")
    ]


def test_values_below_are_told_and_missing_ones_are_not() -> None:
    specs = specs_of({"pt": np.linspace(20, 500, 1000), "x": lists(*[[1, 2]] * 1000)})
    pt = np.full(1000, np.nan)
    pt[:300] = 0.2
    events = {"pt": pt, "x": lists(*[[np.inf]] * 1000)}
    assert warned(specs, events) == [
        f"pt: 100 % of the values are below 20, the lowest in the training. {ASKED}"
    ]


@pytest.mark.parametrize(("many", "told"), [(10, 0), (11, 1)])
def test_a_share_of_one_in_a_hundred_is_not_told(many: int, told: int) -> None:
    specs = specs_of({"f": np.linspace(0, 1, 100_000)})
    values = np.full(1000, 0.5)
    values[:many] = 2
    assert len(warned(specs, {"f": values})) == told


def test_few_values_after_a_small_training_are_no_warning() -> None:
    specs = specs_of({"f": np.linspace(0, 1, 100)})
    assert warned(specs, {"f": np.array([0.5] * 8 + [2, 2])}) == []  # 1 in 120 by chance
    assert len(warned(specs, {"f": np.full(10, 2.0)})) == 1


def test_ten_branches_are_named_the_worst_first() -> None:
    names = [f"b{i:02d}" for i in range(15)]
    specs = specs_of({name: np.linspace(0, 1, 1000) for name in names})
    shares = {name: 0.3 + 0.04 * i for i, name in enumerate(names)}
    lines = warned(specs, {k: np.where(np.arange(100) < 100 * shares[k], 2, 0.5) for k in names})
    assert [line.split(":")[0] for line in lines[:-1]] == names[:4:-1]
    assert lines[-1] == "... and 5 more branches have values beyond those of the training"


def test_clipped_values_are_told_only_if_they_are_nearly_all() -> None:
    train = simulated(2000, 1)
    clip = {"met": (None, 80.0), "jet_pt": (5.0, 50.0)}
    specs = specs_of(train, clip=clip, sentinels={"met": [-1.0]})
    assert warned(specs, train) == []
    others = simulated(1000, 2)
    assert warned(specs, others | {"met": others["met"] + 60}) == []
    events = in_mev(others)
    events["met"][::2] = -1
    assert [line.split(": ", 1)[1] for line in sorted(warned(specs, events))] == [
        f"{share:.3g} % of the values are above {bound}, to which they are clipped. {ASKED}"
        for share, bound in (
            (100 * np.mean(events["jet_pt"].content > 50), 50),
            (100 * np.mean(events["met"][1::2] > 80), 80),
        )
    ]
    lower = specs_of({"f": np.linspace(-5, 5, 1000)}, clip={"f": (0.0, None)})
    (line,) = warned(lower, {"f": np.full(100, -3)})
    assert line.startswith("f: 100 % of the values are below 0, to which they are clipped")
    assert warned(lower, {"f": np.full(99, -3)}) == []


def test_only_events_that_pass_the_selection_are_counted() -> None:
    derivation = Derivation(Cuts.parse({}, {}, "met > 30"), {"met": Input("flat", "f8")}, {})
    train = {"met": np.linspace(30, 100, 1000)}
    specs = replace(specs_of(train), derivation=derivation)
    events = {"met": np.linspace(0, 100, 1000)}
    assert warned(specs, events, passing=events["met"] > 30) == []
    (line,) = warned(specs, events)
    assert line.startswith("met: 30 % of the values are below 30, the lowest")
    assert line.endswith("(Events that the training's selection drops are counted, too.)")
    none = np.zeros(1000, np.bool_)
    assert warned(specs, events, passing=none) == [
        f"none of the 1000 events passes the training's selection. {ASKED}"
    ]
    assert warned(specs) == []
