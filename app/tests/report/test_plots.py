from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mlaas4hep.report.metrics import measure
from mlaas4hep.report.plots import loss_png, roc_png, scores_png


def pixels(png: bytes) -> Any:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def metrics(shift: float, classes: int = 2) -> dict[str, Any]:
    random = np.random.default_rng(1)
    truth = random.integers(0, classes, 600)
    scores = random.uniform(0, 1, (600, 1 if classes == 2 else classes)).astype(np.float32)
    scores[:, -1] += shift * (truth == classes - 1)
    return measure(np.clip(scores, 0, 1), truth, [f"{i}" for i in range(classes)])


def test_a_picture_shows_the_curve() -> None:
    good, bad = pixels(roc_png(metrics(0.8), "m")), pixels(roc_png(metrics(0), "m"))
    assert good.shape == bad.shape == (720, 720, 4)
    assert np.ptp(good[..., :3]) > 0.9
    assert (good != bad).any()


@pytest.mark.parametrize("classes", [3, 30])
def test_many_classes_and_odd_titles(classes: int) -> None:
    assert pixels(roc_png(metrics(0.5, classes), "a$b_{c}$ <é>")).shape == (720, 720, 4)


def test_a_class_whose_name_begins_with_an_underscore_has_its_legend() -> None:
    named, hidden = (
        pixels(scores_png({**metrics(0.8), "scores": {name: [1, 2], "b": [2, 1]}}, "m"))
        for name in ("_aaaa", "_")
    )
    assert (named != hidden).any()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_distribution_of_scores_depends_on_them(classes: int) -> None:
    good, bad = (pixels(scores_png(metrics(shift, classes), "m")) for shift in (0.8, 0))
    assert good.shape == (720, 720, 4)
    assert (good != bad).any()


def test_scores_of_no_events() -> None:
    empty = measure(np.empty((0, 1), np.float32), np.empty(0, np.int64), ["a", "b"])
    assert pixels(scores_png(empty, "m")).shape == (720, 720, 4)


def test_loss_with_one_epoch_and_with_none() -> None:
    one = pixels(loss_png({"loss": [0.5], "val_loss": [0.6]}, 0, "m"))
    many = pixels(loss_png({"loss": [0.5, 0.4], "val_loss": [0.6, 0.7]}, 0, "m"))
    none = pixels(loss_png({}, 0, "m"))
    assert one.shape == many.shape == none.shape
    assert (one != many).any()


@pytest.mark.parametrize("epochs", [1, 2, 7, 100])
def test_epochs_are_whole_numbers(figures: list[Figure], epochs: int) -> None:
    loss_png({"loss": [0.5] * epochs, "val_loss": [0.6] * epochs}, 0, "m")
    (axes,) = figures[0].axes
    shown = [x for x in axes.get_xticks() if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]]
    assert shown == [1] if epochs == 1 else all(x == int(x) for x in shown)
    assert not len(axes.xaxis.get_minorticklocs())


@pytest.mark.parametrize("names", ["ab", "abc", "0123456789", ["TTTo2L2Nu_TuneCP5_13TeV", *"abc"]])
def test_the_legend_of_scores_lies_above_the_curves(names: Any, figures: list[Figure]) -> None:
    scores = {name: [1, 3, 5, 5, 3, 1] for name in names}
    scores_png({"scores": scores, "score": "score = probability of class b"}, "m")
    (axes,) = figures[0].axes
    curves = axes.dataLim.transformed(axes.transData)
    legend = axes.get_legend().get_window_extent()
    assert curves.y1 < legend.y0
    assert axes.bbox.x0 < legend.x0 < legend.x1 < axes.bbox.x1
    assert axes.bbox.y1 > legend.y1


def test_long_names_of_classes_leave_the_axis_of_the_roc_readable(figures: list[Figure]) -> None:
    curve = {"auc": 0.9, "background": [0, 1], "signal": [0, 1]}
    names = ["DYJetsToLL_M-50_TuneCP5_13TeV-madgraphMLM-pythia8", "QCD", "WJets"]
    roc_png({"roc": dict.fromkeys(names, curve)}, "m")
    (axes,) = figures[0].axes
    assert axes.bbox.x0 < axes.get_legend().get_window_extent().x0


def test_a_long_title_is_shown_whole() -> None:
    title = f"{'a_long_name_of_a_model_' * 3}17, 20000 test events"
    shown = pixels(roc_png(metrics(0.5), title))
    assert (shown[:, -3:, :3] == 1).all()  # nothing reaches the edge


def test_ten_classes_have_ten_colours(figures: list[Figure]) -> None:
    scores_png(metrics(0.5, 30), "m")
    (axes,) = figures[0].axes
    drawn = {to_hex(patch.get_edgecolor()) for patch in axes.patches}
    assert len(drawn) == len(axes.get_legend().get_texts()) == 10


def test_global_settings_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    loss_png({"loss": [0.5]}, 0, "m")
    assert dict(mpl.rcParams) == before
