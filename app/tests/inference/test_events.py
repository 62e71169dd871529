from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.core.errors import UsageError
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
