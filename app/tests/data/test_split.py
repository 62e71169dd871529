from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.core.errors import EventError, UsageError
from mlaas4hep.data import (
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    file_key,
    fingerprint,
    membership,
    membership_by,
)
from mlaas4hep.data.split import folds, folds_by

KEY = "0:d48060b2-6a57-11ed-8e14-0600a8c0beef"


def test_what_split_means() -> None:
    assert Split.parse(None) == Split(0.64, 0.16, 0.20)
    half = Split.parse(0.5)
    assert (half.train, half.validation, half.test) == pytest.approx((0.4, 0.1, 0.5))
    named = {"train": 0.7, "validation": 0.1, "test": 0.2}
    assert Split.parse(named) == Split(0.7, 0.1, 0.2)
    assert Split.parse({"by": ["run", "event"]}) == Split(by=("run", "event"))
    assert Split.parse(named | {"by": ["event"]}) == Split(0.7, 0.1, 0.2, ("event",))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, "1.5"),
        (-0.1, "-0.1"),
        (1, "leaves no events to train on"),
        (float("nan"), "nan"),
        ("0.3", "'0.3'"),
        (True, "True"),
        ({"train": 0.5, "test": 0.5}, "lacks 'validation'"),
        ({"train": 0.5, "validation": 0.1, "tset": 0.4}, "'tset'"),
        ({"train": 0.5, "validation": 0.1, "test": 0.1}, "sum to 0.7"),
        ({"by": [3]}, "not a list of branches"),
        ({"by": "event"}, "'event', not a list of branches"),
        ({"by": ["event"], "test": 0.5}, "lacks 'train' and 'validation'"),
        ({}, "lacks 'train'"),
        ({"by": []}, "names no branch"),
    ],
)
def test_what_split_can_not_be(value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        Split.parse(value)  # type: ignore[arg-type]
    assert error.value.remedy


@given(st.integers(0, 2**63), st.lists(st.integers(0, 3000), min_size=1, max_size=8))
def test_membership_does_not_depend_on_chunking(seed: int, cuts: list[int]) -> None:
    whole = membership(seed, KEY, 0, 3000)
    assert whole.dtype == np.uint8
    edges = [0, *sorted(cuts), 3000]
    pieces = [membership(seed, KEY, a, b) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(membership(seed, KEY, 0, 3000), whole)


@pytest.mark.parametrize("split", [Split(), Split(0.8, 0.2, 0.0), Split(0.1, 0.0, 0.9)])
def test_parts_have_their_share_and_no_pattern(split: Split) -> None:
    n = 200_000
    parts = membership(7, KEY, 0, n, split)
    for part, share in ((TRAIN, split.train), (VALIDATION, split.validation), (TEST, split.test)):
        found = parts == part
        sigma = np.sqrt(share * (1 - share) / n)
        assert abs(found.mean() - share) <= 5 * sigma
        together = (found[1:] & found[:-1]).mean()
        assert abs(together - share**2) <= 5 * np.sqrt(share**2 * (1 - share**2) / n) + 1e-12


def test_seed_file_and_position_each_matter() -> None:
    base = membership(1, KEY, 0, 10_000)
    for other in (
        membership(2, KEY, 0, 10_000),
        membership(1, KEY.replace("0:", "1:", 1), 0, 10_000),
        membership(1, KEY.replace("beef", "beee"), 0, 10_000),
        membership(1, KEY, 1, 10_001),
    ):
        same = float((base == other).mean())
        assert abs(same - (0.64**2 + 0.16**2 + 0.2**2)) < 0.03


EVENTS = np.random.default_rng(3).integers(0, 2**52, 20_000)
RUNS = EVENTS % 7


def test_identified_events_keep_their_part() -> None:
    whole = membership_by(5, [RUNS, EVENTS])
    shuffled = np.random.default_rng(4).permutation(len(EVENTS))[:900]
    np.testing.assert_array_equal(
        membership_by(5, [RUNS[shuffled], EVENTS[shuffled]]), whole[shuffled]
    )
    for dtype in (np.uint64, np.int64, np.float64):
        same = membership_by(5, [RUNS.astype(np.uint8), EVENTS.astype(dtype)])
        np.testing.assert_array_equal(same, whole)
    for seed, values in ((6, [RUNS, EVENTS]), (5, [EVENTS, RUNS]), (5, [EVENTS])):
        other = membership_by(seed, values)
        assert abs(float((whole == other).mean()) - (0.64**2 + 0.16**2 + 0.2**2)) < 0.03
    assert abs(float((whole == TEST).mean()) - 0.2) < 0.015
    halves = membership_by(5, [np.array([0.5, -0.5, 1e300, -3.0, 2**63]), np.zeros(5, bool)])
    assert halves.shape == (5,)


def test_numbers_that_identify_nothing_are_named() -> None:
    with pytest.raises(EventError, match="event 1: nan can't identify it"):
        membership_by(5, [np.array([1.0, np.nan])])


def test_the_split_of_a_seed_never_changes() -> None:
    # Written down once: bundles name their test events by seed, so this must hold for ever.
    key = file_key(0, "abc")
    assert membership(21, key, 0, 24).tolist() == PINNED
    assert membership_by(21, [np.ones(24), np.arange(24)]).tolist() == PINNED_BY


PINNED = [0, 0, 2, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 2, 1, 0, 1]
PINNED_BY = [2, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 2, 2, 0, 0, 2, 1, 0, 0, 0]


@pytest.mark.parametrize("number", [2, 5])
def test_each_event_is_in_one_fold_which_tests_one_model(number: int) -> None:
    split = Split.parse({"folds": number})
    own = folds(9, KEY, 0, 50_000, number)
    assert np.abs(np.bincount(own, minlength=number) / 50_000 - 1 / number).max() < 0.01
    for fold in range(number):
        parts = membership(9, KEY, 0, 50_000, split, fold)
        np.testing.assert_array_equal(parts == TEST, own == fold)
        outside = parts[own != fold]
        assert abs((outside == VALIDATION).mean() - 0.2) < 0.01
    by = Split.parse({"folds": number, "by": ["x"]})
    assert by.by == ("x",)
    np.testing.assert_array_equal(
        membership_by(9, [EVENTS], by, 1) == TEST, folds_by(9, [EVENTS], number) == 1
    )


@pytest.mark.parametrize("value", [1, 21, 2.0, True, "5", None])
def test_what_folds_can_not_be(value: object) -> None:
    with pytest.raises(UsageError, match="split: folds is"):
        Split.parse({"folds": value})
    with pytest.raises(UsageError, match="split has folds and test"):
        Split.parse({"folds": 5, "test": 0.2})


def test_a_fingerprint_tells_sets_of_events_apart() -> None:
    """In blocks of any size and order; not of events that add up to the same, or swap parts."""

    def of(events: list[int], parts: list[int]) -> int:
        return (
            sum(
                fingerprint(event, np.array([part], np.uint8))
                for event, part in zip(events, parts, strict=True)
            )
            % 2**64
        )

    whole = fingerprint(0, np.array([TRAIN, TEST, TRAIN, VALIDATION], np.uint8))
    assert whole == of([3, 1, 0, 2], [VALIDATION, TEST, TRAIN, TRAIN])
    assert whole != of([0, 1, 2, 3], [TEST, TRAIN, TRAIN, VALIDATION])
    # As many, with the same sum and (of the squares that they enclose) differences.
    assert of([0, 0, 3, 3], [0] * 4) != of([0, 1, 2, 3], [0] * 4)
