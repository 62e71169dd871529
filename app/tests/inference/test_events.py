from __future__ import annotations

import numpy as np
import orjson
import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.data import Encoder, SpecsScan
from mlaas4hep.data.events import Jagged
from mlaas4hep.inference.events import EventTable
from support.bundles import make_specs

SPECS = make_specs(("met", "flag"), {"jet_pt": 3, "never": 0})
ROWS = [
    {"met": 1.5, "flag": True, "jet_pt": [1, 2.5], "never": [7], "other": "x"},
    {"met": None, "flag": False, "jet_pt": None},
    {"met": 2**60, "flag": 0, "jet_pt": []},
    {"met": -1, "flag": 1, "jet_pt": [None, 3]},
]


@pytest.mark.parametrize("by_branch", [False, True])
def test_both_forms_give_the_same_arrays(by_branch: bool) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ("met", "flag", "jet_pt")}
    table = EventTable(columns if by_branch else ROWS, SPECS)
    assert len(table) == 4
    events = table.read(0, 10)
    assert set(events) == {"met", "flag", "jet_pt"}
    np.testing.assert_array_equal(events["met"], [1.5, np.nan, 2.0**60, -1])
    np.testing.assert_array_equal(events["flag"], [1, 0, 0, 1])
    jets = events["jet_pt"]
    assert isinstance(jets, Jagged)
    assert jets.offsets.tolist() == [0, 2, 2, 2, 4]
    np.testing.assert_array_equal(jets.content, [1, 2.5, np.nan, 3])

    part = table.read(3, 4)
    np.testing.assert_array_equal(part["met"], [-1])
    assert isinstance(part["jet_pt"], Jagged)
    np.testing.assert_array_equal(part["jet_pt"].content, [np.nan, 3])


def test_the_event_is_named_by_its_place_in_the_request() -> None:
    table = EventTable([*ROWS, {**ROWS[0], "met": "high"}], SPECS)
    table.read(0, 4)
    with pytest.raises(UsageError, match=r"event 4: the branch 'met' .*'high'"):
        table.read(3, 5)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(UsageError) as caught:
        EventTable([{**ROWS[0], "met": "x" * 10**6}], SPECS).read(0, 1)
    assert len(str(caught.value)) < 300


def test_any_decimal_text_of_a_number_gives_the_row_of_the_file() -> None:
    """A float32 of 1.7e9 seconds, in the fewest digits that tell it, is another double."""
    random = np.random.default_rng(1)
    offsets = np.arange(0, 401, 2)
    events = {
        "time": (1.7e9 + random.uniform(0, 3600, 200)).astype(np.float32),
        "narrow": (125 + random.uniform(0, 0.01, 200)).astype(np.float32),
        "wide": random.uniform(0, 1, 200),
        "number": random.integers(0, 9, 200).astype(np.int32),
        "list": Jagged(offsets, (1e6 + random.uniform(0, 1, 400)).astype(np.float32)),
    }
    scan = SpecsScan("t", ["narrow", "number", "time", "wide"], ["list"])
    scan.add(0, events)
    specs = scan.result()
    assert specs.types == dict.fromkeys(("narrow", "time", "list"), "float32")
    assert type(specs).from_json(specs.to_json(), "specs.json").types == specs.types
    sent = {
        name: values.content.reshape(-1, 2) if isinstance(values, Jagged) else values
        for name, values in events.items()
    }
    text = orjson.dumps(sent, option=orjson.OPT_SERIALIZE_NUMPY)  # the fewest digits
    table = EventTable(orjson.loads(text), specs)
    rows = Encoder(specs).encode(table.read(0, 200))
    np.testing.assert_array_equal(rows, Encoder(specs).encode(events))


def test_a_number_that_the_branch_can_t_hold_is_named() -> None:
    scan = SpecsScan("t", ["met"], [])
    scan.add(0, {"met": np.array([1, 2], np.float32)})
    table = EventTable([{"met": 1}, {"met": None}, {"met": 1e39}], scan.result())
    with pytest.raises(UsageError, match="'met' is float32, which can't hold 1e"):
        table.read(0, 3)
