from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Encoder, Events, Jagged, Preprocessing, Specs, SpecsScan
from mlaas4hep.data.preprocess import Cleaner

COUNTS = np.array([2, 0, 3, 1])
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])


def events() -> dict[str, Any]:
    return {
        "met": np.array([10, -999, np.nan, 30], np.float32),
        "n": np.array([1, 2, -1, 4], np.int32),
        "pt": Jagged(OFFSETS, np.array([5, 2000, -99.9, 20, 40, np.inf], np.float32)),
    }


def specs_of(preprocessing: Preprocessing, *parts: Events) -> Specs:
    """Of each part by itself, then merged."""
    scans = []
    for part in parts or [events()]:
        flat = [k for k, v in part.items() if not isinstance(v, Jagged)]
        scan = SpecsScan(
            "Events", flat, [k for k in part if k not in flat], preprocessing=preprocessing
        )
        scan.add(0, part)
        scans.append(scan)
    for other in scans[1:]:
        scans[0].merge(other)
    return scans[0].result()


ALL = Preprocessing(
    "standard",
    {"pt": (None, 1000), "n": (2, None)},
    {"met": [-999], "n": [-1, 0.5], "pt": [-99.9]},
    mask=True,
)


def test_sentinels_are_missing_and_bounds_are_reached() -> None:
    specs = specs_of(Preprocessing("minmax", ALL.clip, ALL.sentinels))
    assert specs.minv == {"met": 10, "n": 2, "pt": 5}
    assert specs.maxv == {"met": 30, "n": 4, "pt": 1000}
    assert specs.missing == {"met": 2, "n": 1, "pt": 2}
    mask = np.empty((4, specs.width), np.int8)
    rows = Encoder(specs).encode(events(), mask=mask)
    pt = [[0, 1, 0], [0, 0, 0], [0, 15 / 995, 35 / 995], [0, 0, 0]]
    expected = [[0, 0, *pt[0]], [0, 0, *pt[1]], [0, 0, *pt[2]], [1, 1, *pt[3]]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    missing = [[0, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(mask, missing)


def test_a_client_s_decimals_are_the_sentinel_of_a_float32_branch() -> None:
    """As it prints float32, short or as the double that it is."""
    specs = specs_of(ALL)
    encoder = Encoder(specs)
    stored = encoder.encode(events())
    for number in (-99.9, float(np.float32(-99.9))):
        content = np.array([5, 2000, number, 20, 40, np.inf])
        sent = events() | {"pt": Jagged(OFFSETS, content)}
        np.testing.assert_allclose(encoder.encode(sent), stored, rtol=1e-6)


def test_a_large_whole_sentinel_is_not_its_neighbours() -> None:
    """Whole numbers of a client are doubles; as float32 all of these would be 2147483648."""
    numbers = np.array([2147483600, 2147483646, 2147483647])
    clean = Cleaner([2147483647], (None, None))
    for values in (numbers.astype(np.int32), numbers.astype(np.float64)):
        _, missing = clean(values)
        assert missing is not None
        assert missing.tolist() == [False, False, True]
    _, missing = clean(numbers.astype(np.float32))
    assert missing is not None
    assert missing.all()


def test_the_mask_is_more_columns() -> None:
    specs = specs_of(ALL)
    values = ["met", "n", "pt_0", "pt_1", "pt_2"]
    assert specs.columns == [*values, *(f"{name}_missing" for name in values)]
    assert (specs.n_values, specs.width) == (5, 10)
    mask = np.empty((4, 10), np.int8)
    rows = Encoder(specs).encode(events(), mask=mask)
    np.testing.assert_array_equal(rows[:, 5:], mask[:, :5])
    assert not mask[:, 5:].any()
    plain = specs_of(Preprocessing(ALL.normalisation, ALL.clip, ALL.sentinels))
    np.testing.assert_array_equal(rows[:, :5], Encoder(plain).encode(events()))


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40),
    st.integers(0, 40),
    st.sampled_from([np.float32, np.float64, np.int32]),
)
def test_standard_is_scikit_learns(values: list[float], cut: int, dtype: type) -> None:
    column = np.array(values).astype(dtype)
    parts = [{"x": part} for part in (column[:cut], column[cut:]) if len(part)]
    specs = specs_of(Preprocessing("standard"), *parts)
    exact = column.astype(np.float64)
    scaler = StandardScaler().fit(exact[:, None])
    size = max(1.0, float(np.abs(exact).max()))
    assert specs.mean["x"] == pytest.approx(scaler.mean_[0], abs=1e-6 * size)
    assert specs.std["x"] == pytest.approx(np.std(exact), rel=1e-5, abs=1e-6 * size)
    if np.std(exact) > 1e-3 * size:
        rows = Encoder(specs, np.float64).encode({"x": column})
        np.testing.assert_allclose(rows, scaler.transform(exact[:, None]), atol=1e-2)
    elif specs.std["x"] == 0:
        assert not Encoder(specs).encode({"x": column}).any()


def test_a_spread_beyond_all_numbers_is_named() -> None:
    with pytest.raises(DataError, match="the standard deviation of x exceeds"):
        specs_of(Preprocessing("standard"), {"x": np.array([-1e300, 1e300])})


def test_specs_come_back_from_json() -> None:
    specs = specs_of(ALL)
    assert Specs.from_json(json.loads(json.dumps(specs.to_json())), "here") == specs
    assert "preprocessing" not in specs_of(Preprocessing()).to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preprocessing", []),
        ("preprocessing", {"normalisation": "robust"}),
        ("preprocessing", {"mask": 1}),
        ("preprocessing", {"clip": {"pt": [3, 2]}}),
        ("preprocessing", {"clip": {"pt": [3]}}),
        ("preprocessing", {"sentinels": {"pt": [None]}}),
        ("preprocessing", {"sentinels": {"pt": [10**400]}}),
        ("preprocessing", {"sentinels": {"pt": [1] * 21}}),
        ("std", {"met": -1, "n": 1, "pt": 1}),
        ("mean", {"met": 1}),
    ],
)
def test_what_is_wrong_is_named(key: str, value: object) -> None:
    with pytest.raises(DataError, match=f"here: {key}: "):
        Specs.from_json(specs_of(ALL).to_json() | {key: value}, "here")
