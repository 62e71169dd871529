from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import uproot
from matplotlib.figure import Figure

from mlaas4hep.core.errors import UsageError
from mlaas4hep.data import Encoder, Jagged, SpecsScan
from mlaas4hep.data.histograms import Distributions
from mlaas4hep.report import distributions
from mlaas4hep.report.distributions import (
    branch_png,
    file_names,
    legend_line,
    make_folder,
    write_distributions,
)


def pixels(png: bytes) -> Any:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def found(
    events: dict[str, Any],
    classes: Any,
    weights: Any = None,
    names: tuple[str, ...] = ("bkg", "sig"),
    sizes: dict[str, int] | None = None,
) -> Distributions:
    jagged = [name for name, values in events.items() if isinstance(values, Jagged)]
    scan = SpecsScan("t", events.keys() - set(jagged), jagged, sizes=sizes)
    scan.add(0, events)
    made = Distributions(scan.result(), names, weights is not None)
    made.add(events, classes, Encoder(made.specs).encode(events), weights)
    return made


def test_pictures_and_histograms_of_every_branch(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    counts, classes = rng.integers(0, 5, 900), rng.integers(0, 2, 900)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pt = Jagged(offsets, rng.exponential(30, offsets[-1]))
    met, weights = rng.exponential(30, 900), rng.normal(1, 1, 900)
    met[:9] = np.nan
    made = found({"met": met, "jet/pt": pt}, classes, weights)
    (tmp_path / "met.png").write_text("an older one")
    seen: list[Any] = []
    assert write_distributions(made, tmp_path, lambda *what, **_: seen.append(what)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "distributions.root", "jet_pt.png", "met.png",
    ]  # fmt: skip
    assert seen == [("drawing", 1, 2), ("drawing", 2, 2)]
    flat, jagged = (pixels((tmp_path / f"{k}.png").read_bytes()) for k in ("met", "jet_pt"))
    assert jagged.shape[1] * 2 == flat.shape[1] * 3  # three panels, and two
    with uproot.open(tmp_path / "distributions.root") as file:
        assert {"before/met/bkg", "after/met/sig", "length/jet_pt/sig"} <= set(
            file.keys(cycle=False)
        )
        histogram = file["before/met/sig"]
        own = (classes == 1) & np.isfinite(met)
        edges = histogram.axis().edges()
        expected, _ = np.histogram(met[own], edges, weights=weights[own])
        np.testing.assert_allclose(histogram.values(), expected, rtol=1e-9, atol=1e-9)
        squares, _ = np.histogram(met[own], edges, weights=weights[own] ** 2)
        np.testing.assert_allclose(histogram.variances(), squares, rtol=1e-9)
        assert histogram.member("fEntries") == own.sum()
        assert file["length/jet_pt/sig"].values() == pytest.approx(
            np.bincount(counts[classes == 1], weights[classes == 1])
        )


def test_the_legend_says_what_is_not_drawn() -> None:
    x = np.array([1, 2, np.nan, np.inf], np.float32)
    pt = Jagged(np.array([0, 1, 5, 5, 5]), np.arange(5.0))
    made = dict(found({"x": x, "pt": pt}, np.array([0, 0, 0, 1]), sizes={"pt": 2}))
    assert legend_line(0, "bkg", 3, made["x"]) == "bkg: 3 events, missing 33.3 %"
    assert legend_line(1, "sig", 1, made["x"]) == (
        "sig: 1 event, missing 100 %, not drawn, as all is missing"
    )
    assert legend_line(0, "bkg", 3, made["pt"]) == (
        "bkg: 3 events, 5 values, cut off 40 % (more than 2 in 33.3 % of the events)"
    )
    assert legend_line(0, "", 3, made["x"]) == "3 events, missing 33.3 %"
    assert legend_line(1, "sig", 1, made["pt"]) == "sig: 1 event, 0 values"
    negative = dict(found({"x": x}, np.zeros(4, np.int64), np.full(4, -1.0)))
    assert "weights don't add up to a positive number" in legend_line(0, "a", 4, negative["x"])


@pytest.mark.parametrize(("low", "split"), [(362104, False), (227291000, False), (10**15, True)])
def test_the_numbers_on_an_axis_do_not_overlap(
    low: int, split: bool, figures: list[Figure]
) -> None:
    made = found({"run": np.arange(low, low + 20)}, np.zeros(20, np.int64), names=("runs",))
    ((name, histograms),) = made
    branch_png(name, histograms, made.labels, [20])
    axes = figures[0].axes[0]
    boxes = [each.get_window_extent() for each in axes.get_xticklabels() if each.get_text()]
    assert len(boxes) > 2
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert ("+" in axes.xaxis.get_offset_text().get_text()) is split
    assert axes.get_ylabel() == "events, normalised to unit area"
    assert figures[0].legends[0].get_texts()[0].get_text() == "20 events"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        1.7e308 * np.linspace(-1, 1, 60),
        np.arange(60) * 5e-324,
        np.full(60, np.iinfo(np.uint64).max),
        np.array([-3.0, *[np.nan] * 59]),
    ],
)
def test_odd_values_are_drawn(values: Any) -> None:
    made = found({"a$b_{c}" * 30: values}, np.zeros(60, np.int64))
    ((name, histograms),) = made
    assert np.ptp(pixels(branch_png(name, histograms, made.labels, [60, 0]))[..., :3]) > 0.9


def test_of_many_branches_some_are_drawn_and_all_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "MOST_PICTURES", 1)
    made = found({name: np.arange(5.0) for name in ("a", "b", "c")}, np.zeros(5, np.int64))
    (warning,) = write_distributions(made, tmp_path)
    assert "1 of 3 branches" in warning
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "distributions.root"]
    with uproot.open(tmp_path / "distributions.root") as file:
        assert file["before/c/bkg"].values().sum() == 5


def test_names_of_files_are_plain_and_different() -> None:
    names = ["Jet.pt", "jet/pt", "JET_PT", "../../x", ".", "", "é", "a" * 300, "a" * 300 + "b"]
    found = file_names(names)
    assert found["Jet.pt"] == "Jet.pt"
    assert [found[name] for name in ("jet/pt", "JET_PT", ".")] == ["jet_pt", "JET_PT_2", "_"]
    assert len({name.lower() for name in found.values()}) == len(names)
    for name in found.values():
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 130


def test_a_folder_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below", "a\0b"):
        with pytest.raises(UsageError, match="hist: can't write in"):
            make_folder(tmp_path / name, "params.json: hist")
    make_folder(tmp_path / "new/deep", "params.json: hist")
    assert (tmp_path / "new/deep").is_dir()
