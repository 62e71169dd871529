from __future__ import annotations

from typing import Any

import numpy as np

from mlaas4hep.data import Jagged, Preprocessing, SpecsScan
from mlaas4hep.data.distributions import BINS, Distributions


def test_counts_are_numpys_whatever_the_blocks() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(0, 4, 500)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pt = random.exponential(20, offsets[-1]).astype(np.float32)
    pt[::50], pt[1::50] = np.nan, 500
    events: dict[str, Any] = {
        "met": random.normal(0, 1, 500),
        "n": random.integers(-2, 5, 500).astype(np.int16),
        "same": np.full(500, 7.0),
        "wide": np.where(np.arange(500) % 2, -1.5e308, 1.5e308),
        "pt": Jagged(offsets, pt),
        "none": Jagged(np.zeros(501, np.int64), np.empty(0)),
    }
    events["n"][::9] = -9
    treated = Preprocessing("minmax", {"pt": (None, 60)}, {"n": [-9]})
    scan = SpecsScan("t", ["met", "n", "same", "wide"], ["none", "pt"], preprocessing=treated)
    scan.add(0, events)
    specs = scan.result()
    classes, weights = random.integers(0, 2, 500), random.normal(1, 1, 500)
    found = Distributions(specs, ["a", "b"], True)
    for part in (slice(0, 100), slice(100, 500)):
        found.add({k: v[part] for k, v in events.items()}, classes[part], weights[part])
    np.testing.assert_allclose(found.events, np.bincount(classes, weights))
    assert "none" not in found.of_branches
    flat = {"n": np.where(events["n"] == -9, np.nan, events["n"]), "pt": np.minimum(pt, 60)}
    for name, each in found.of_branches.items():
        of_events = np.repeat(np.arange(500), counts if name == "pt" else 1)
        values = flat.get(name, events[name])
        for k in (0, 1):
            mine = classes[of_events] == k
            own = weights[of_events][mine]
            there = np.isfinite(values[mine])
            expected, _ = np.histogram(values[mine][there], each.edges, weights=own[there])
            np.testing.assert_allclose(each.counts[k], expected, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(each.missing[k], own[~there].sum(), atol=1e-9)
            np.testing.assert_allclose(each.values[k], own.sum())
    assert found.of_branches["n"].edges.tolist() == [x - 0.5 for x in range(-2, 6)]
    assert len(found.of_branches["met"].edges) == BINS + 1
    assert found.of_branches["same"].counts.shape == (2, 1)
    lengths = found.of_branches["pt"].lengths
    assert lengths is not None
    for k in (0, 1):
        np.testing.assert_allclose(
            lengths[k], np.bincount(counts[classes == k], weights[classes == k])
        )
