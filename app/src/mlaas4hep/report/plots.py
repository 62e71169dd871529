"""Pictures of a training, in the style of the field (mplhep)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

_CURVES = 10  # of as many classes a curve is drawn


def roc_png(metrics: dict[str, Any], title: str) -> bytes:
    """Signal efficiency over background efficiency of the test part, as PNG."""
    with _axes(title) as (axes, buffer):
        known = [
            (name, curve) for name, curve in metrics["roc"].items() if curve["auc"] is not None
        ]
        for name, curve in known[:_CURVES]:
            versus = "" if len(metrics["roc"]) == 1 else f"{plain(name)} vs rest, "
            label = f"{versus}AUC = {curve['auc']:.3f}"
            axes.plot(curve["background"], curve["signal"], label=label)
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="guessing")
        axes.set_xlabel("background efficiency")
        axes.set_ylabel("signal efficiency")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.005)
        axes.set_aspect("equal")
        axes.legend(loc="lower right")
    return buffer.getvalue()


def scores_png(metrics: dict[str, Any], title: str) -> bytes:
    """How the scores of the test part are distributed, class by class, each to the area 1; PNG."""
    import mplhep
    import numpy as np

    classes = {name: counts for name, counts in metrics["scores"].items() if sum(counts) > 0}
    with _axes(title) as (axes, buffer):
        for name, counts in list(classes.items())[:_CURVES]:
            edges = np.linspace(0, 1, len(counts) + 1)
            mplhep.histplot(counts, edges, density=True, yerr=False, ax=axes, label=plain(name))
        names = list(metrics["scores"])
        meaning = metrics["score"] if len(names) == 2 else "score = probability of the true class"
        axes.set_xlabel(plain(meaning))
        axes.set_ylabel("events, normalised to unit area")
        axes.set_xlim(0, 1)
        if classes:
            axes.legend(title="true class")
    return buffer.getvalue()


def loss_png(history: dict[str, list[float]], best: int, title: str) -> bytes:
    """Loss of training and validation per epoch, with the epoch that was kept, as PNG."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    with _axes(title) as (axes, buffer):
        for key, label in (("loss", "training"), ("val_loss", "validation")):
            if values := history.get(key):
                axes.plot(range(1, len(values) + 1), values, marker="o", label=label)
        axes.axvline(best + 1, color="grey", linestyle=":", label="kept")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
    return buffer.getvalue()


@contextmanager
def _axes(title: str) -> Iterator[tuple[Any, io.BytesIO]]:
    """Axes of a new figure; it is drawn into the buffer at the end."""
    with drawn((8, 8), "tight") as (figure, buffer):
        axes = figure.add_subplot()
        axes.set_title(plain(title), fontsize=18, loc="left")
        yield axes, buffer


@contextmanager
def drawn(
    size: tuple[float, float], layout: Literal["constrained", "tight"]
) -> Iterator[tuple[Any, io.BytesIO]]:
    """A new figure of that size; it is drawn into the buffer at the end, as PNG of 90 dots an inch.

    No display, no global state.
    """
    import matplotlib as mpl
    import mplhep
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    style = {key: value for key, value in mplhep.style.CMS.items() if key in mpl.rcParams}
    with mpl.rc_context({**style, "legend.fontsize": 18, "font.size": 22}):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure, buffer
        figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would start a formula, ``_`` hide a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
