from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlaas4hep.data import Encoder, Jagged, Preprocessing, SpecsScan
from mlaas4hep.data.histograms import BINS, MOST_CLASSES, BranchHistograms, Distributions


def filled(
    events: dict[str, Any],
    classes: Any,
    weights: Any = None,
    names: int = 2,
    sizes: dict[str, int] | None = None,
    step: int = 1000,
) -> tuple[Distributions, dict[str, BranchHistograms]]:
    """All events, added in chunks."""
    jagged = [name for name, values in events.items() if isinstance(values, Jagged)]
    scan = SpecsScan("t", events.keys() - set(jagged), jagged, sizes=sizes)
    scan.add(0, events)
    specs = scan.result()
    encoder = Encoder(specs)
    found = Distributions(specs, [str(i) for i in range(names)], weights is not None)
    for start in range(0, len(classes), step):
        piece = slice(start, start + step)
        chunk = {name: values[piece] for name, values in events.items()}
        of = None if weights is None else weights[piece]
        found.add(chunk, classes[piece], encoder.encode(chunk), of)
    return found, dict(found)


def lists(counts: Any, content: Any) -> Jagged:
    return Jagged(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.asarray(content))


@pytest.mark.parametrize("weighted", [False, True])
def test_counts_are_those_of_numpy(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    x, classes = rng.normal(size=5000).astype(np.float32), rng.integers(0, 2, 5000)
    x[::50] = np.nan
    weights = rng.normal(1, 1, 5000) if weighted else None
    found, of = filled({"x": x}, classes, weights, step=1700)
    finite = np.isfinite(x)
    for k in (0, 1):
        own = finite & (classes == k)
        w = None if weights is None else weights[own]
        values = x[own].astype(np.float64)
        low, high = float(x[finite].min()), float(x[finite].max())
        expected, edges = np.histogram(values, BINS, (low, high), weights=w)
        before = of["x"].before
        np.testing.assert_allclose(before.binning.edges, edges)
        np.testing.assert_allclose(before.contents[k, 1:-1], expected)
        squares = np.histogram(values, BINS, (low, high), weights=None if w is None else w * w)[0]
        np.testing.assert_allclose(before.variances[k, 1:-1], squares)
        assert before.missing[k] == ((classes == k) & ~finite).sum()
        assert found.events[k] == (classes == k).sum()


def test_after_normalising_missing_values_are_zero() -> None:
    x = np.array([10, 20, np.nan, np.nan, 30], np.float32)
    _, of = filled({"x": x}, np.zeros(5, np.int64))
    after = of["x"].after
    assert after is not None
    np.testing.assert_allclose(after.binning.edges, np.linspace(0, 1, BINS + 1), atol=1e-12)
    counts = after.entries[0, 1:-1]
    assert (counts[0], counts[BINS // 2], counts[-1], counts.sum()) == (3, 1, 1, 5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.bool_])
def test_whole_numbers_have_a_bin_each(dtype: Any) -> None:
    x = np.array([0, 1, 1, 3, 3, 3]).astype(dtype)
    _, of = filled({"x": x}, np.zeros(6, np.int64))
    histogram = of["x"].before
    values, counts = np.unique(x.astype(int), return_counts=True)
    centres = (histogram.binning.edges[1:] + histogram.binning.edges[:-1]) / 2
    assert centres.tolist() == list(range(values[-1] + 1))
    assert histogram.entries[0, 1:-1][values].tolist() == counts.tolist()
    after = of["x"].after
    assert after is not None
    assert after.entries.tolist() == histogram.entries.tolist()


def test_many_whole_numbers_share_bins_evenly() -> None:
    _, of = filled({"x": np.arange(1, 1001)}, np.zeros(1000, np.int64))
    assert of["x"].before.entries[0].tolist() == [0, *[20] * 50, 0]


@pytest.mark.parametrize(
    "values",
    [
        np.full(40, 7, np.int32),
        np.full(40, 0.1),
        np.full(40, -1.7e308),
        np.full(40, 2**64 - 1, np.uint64),
        np.where(np.arange(40) % 2, 1.0, np.nextafter(1.0, 2)),
    ],
)
def test_what_hardly_varies_is_one_bar(values: Any) -> None:
    _, of = filled({"x": values}, np.zeros(40, np.int64))
    assert of["x"].before.entries.tolist() == [[0, 40, 0], [0, 0, 0]]
    after = of["x"].after
    assert after is not None
    assert after.entries.tolist() == [[0, 40, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "values",
    [1.7e308 * np.linspace(-1, 1, 500), np.arange(500) * 5e-324, np.linspace(-1e-6, 1e-6, 500)],
)
def test_all_of_float64_is_in_the_bins(values: Any) -> None:
    _, of = filled({"x": values}, np.zeros(500, np.int64))
    assert of["x"].before.entries[0, 1:-1].tolist() == [10] * 50
    assert np.isfinite(of["x"].before.binning.real).all()


def test_values_beyond_the_specs_are_counted_beside_the_bins() -> None:
    scan = SpecsScan("t", ["x"], [])
    scan.add(0, {"x": np.array([0.0, 10.0])})
    found = Distributions(scan.result(), ["a", "b"])
    x = np.array([-5.0, -1e308, 0.0, 10.0, 10.1, np.inf])
    found.add({"x": x}, np.ones(6, np.int64), Encoder(found.specs).encode({"x": x}))
    ((_, histograms),) = found
    before = histograms.before
    assert (before.entries[1, 0], before.entries[1, -1], before.missing[1]) == (2, 1, 1)
    assert before.entries[1, 1:-1].sum() == 2
    assert before.values.tolist() == [0, 6]


def test_lists_without_their_padding_and_their_lengths() -> None:
    counts = np.array([0, 2, 5, 1])
    content = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32)
    classes, weights = np.array([0, 0, 1, 1]), np.array([1, 2, 4, -1.0])
    _, of = filled({"pt": lists(counts, content)}, classes, weights, sizes={"pt": 3}, step=3)
    pt = of["pt"]
    assert pt.after is not None
    assert pt.lengths is not None
    assert pt.before.values.tolist() == [2, 6]
    assert pt.after.values.tolist() == [2, 4]  # the first three of five, and one
    assert pt.before.sums.sum(axis=1).tolist() == [4, 19]
    assert pt.after.sums.sum(axis=1).tolist() == [4, 11]
    assert pt.lengths.entries.tolist() == [[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]]
    assert pt.lengths.sums.tolist() == [[0, 1, 0, 2, 0, 0], [0, 0, -1, 0, 0, 4]]
    kept = (np.array([3, 4, 5, 8]) - 1) / 7
    np.testing.assert_array_equal(pt.after.entries[1, 1:-1], np.histogram(kept, BINS, (0, 1))[0])


def test_lists_that_are_always_empty_have_no_histogram() -> None:
    events = {"x": np.arange(2.0), "pt": lists([0, 0], np.empty(0, np.float32))}
    assert list(filled(events, np.zeros(2, np.int64))[1]) == ["x"]


def test_memory_does_not_grow_with_the_classes() -> None:
    classes = np.arange(1000)
    found, of = filled({"x": np.arange(1000.0)}, classes, names=1000)
    assert found.labels[MOST_CLASSES:] == ["990 other classes"]
    assert found.events.tolist() == [*[1] * 10, 990]
    assert of["x"].before.entries.sum(axis=1).tolist() == [*[1] * 10, 990]


def test_standard_normalising_fills_the_same_bins() -> None:
    random = np.random.default_rng(2)
    events = {"x": random.normal(5, 3, 400), "n": random.integers(0, 9, 400)}
    scan = SpecsScan("t", list(events), [], preprocessing=Preprocessing("standard"))
    scan.add(0, events)
    specs = scan.result()
    found = Distributions(specs, ["a", "b"])
    classes = random.integers(0, 2, 400)
    found.add(events, classes, Encoder(specs, np.float64).encode(events))
    for name, each in found:
        assert each.after is not None
        apart = np.abs(each.after.entries - each.before.entries).sum()
        assert apart <= 4, name  # values on an edge
        assert each.after.entries[:, 1:-1].sum() >= 398
        edges = each.after.binning.edges
        assert edges[0] == pytest.approx(
            (each.before.binning.edges[0] - specs.mean[name]) / specs.std[name]
        )
