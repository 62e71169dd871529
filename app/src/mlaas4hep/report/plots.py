"""Pictures of a training, in the style of the field (mplhep)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mlaas4hep.data.distributions import Distribution

_CURVES = 10  # of as many classes a curve is drawn
_DECADES = 100  # the height over the median's from which the axis is logarithmic
Normal = tuple[float, float] | None


def roc_png(metrics: dict[str, Any], title: str) -> bytes:
    """Signal efficiency over background efficiency of the test part, as PNG."""
    with _axes(title) as (axes, buffer):
        known = [
            (name, curve) for name, curve in metrics["roc"].items() if curve["auc"] is not None
        ]
        for name, curve in known[:_CURVES]:
            versus = "" if len(metrics["roc"]) == 1 else f"{_plain(name)} vs rest, "
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
            mplhep.histplot(counts, edges, density=True, yerr=False, ax=axes, label=_plain(name))
        names = list(metrics["scores"])
        meaning = metrics["score"] if len(names) == 2 else "score = probability of the true class"
        axes.set_xlabel(_plain(meaning))
        axes.set_ylabel("events, normalised to 1")
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


def distribution_png(
    name: str, found: Distribution, classes: Sequence[str], weighted: bool, normalised: Normal
) -> bytes:
    """How the values of a branch are distributed, class by class, each to the area 1; PNG.

    ``normalised`` are the factor and the summand that make the model's column of a value: the
    second axis. Of lists, a second plot shows how many values they hold.
    """
    import mplhep
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    with _figure(name, 1 if found.lengths is None else 2) as (plots, buffer):
        axes = plots[0]
        shown = [i for i, total in enumerate(found.counts.sum(axis=1)) if total > 0][:_CURVES]
        width = np.diff(found.edges)
        heights = []
        for i in shown:
            label = f"{_plain(classes[i])} " if classes[i] else ""
            label += f"({found.values[i]:.4g} {'weighted ' if weighted else ''}values"
            if found.missing[i]:
                label += f", {found.missing[i] / found.values[i]:.2g} missing"
            counts = found.counts[i]
            mplhep.histplot(
                counts, found.edges, density=True, yerr=False, ax=axes, label=f"{label})"
            )
            heights.append(counts / (counts.sum() * width))
        axes.set_xlabel(_plain(name))
        axes.set_ylabel("values, normalised to 1")
        axes.set_xlim(found.edges[0], found.edges[-1])
        if heights:
            drawn = np.concatenate(heights)
            drawn = drawn[drawn > 0]
            least, most = drawn.min(), drawn.max()
            if most > _DECADES * np.median(drawn):
                axes.set_yscale("log")
                axes.set_ylim(least / 2, most * (most / least) ** 0.5)  # room for the legend
            else:
                axes.set_ylim(0, 1.5 * most)
            axes.legend(loc="upper right", fontsize=14)
        if normalised is not None:
            factor, summand = normalised
            second = axes.secondary_xaxis(
                1, functions=(lambda x: x * factor + summand, lambda y: (y - summand) / factor)
            )
            second.set_xlabel("normalised", fontsize=16)
            second.tick_params(labelsize=14)
            axes.tick_params(axis="x", which="both", top=False)
        is_whole = found.edges[0] % 1 == 0.5 and width[0] == 1
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=is_whole))
        axes.ticklabel_format(axis="x", useOffset=False)
        if found.lengths is not None:
            lengths = found.lengths
            edges = np.arange(lengths.shape[1] + 1) - 0.5
            for i in shown:
                mplhep.histplot(
                    lengths[i],
                    edges,
                    density=True,
                    yerr=False,
                    ax=plots[1],
                    label=_plain(classes[i]),
                )
            plots[1].set_xlabel("values per event")
            plots[1].set_ylabel("events, normalised to 1")
            plots[1].set_xlim(edges[0], edges[-1])
            plots[1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return buffer.getvalue()


@contextmanager
def _axes(title: str) -> Iterator[tuple[Any, io.BytesIO]]:
    """The only axes of a new figure, see ``_figure``."""
    with _figure(title, 1) as (plots, buffer):
        yield plots[0], buffer


@contextmanager
def _figure(title: str, plots: int) -> Iterator[tuple[Sequence[Any], io.BytesIO]]:
    """Axes side by side of a new figure; it is drawn into the buffer at the end.

    No display, no global state.
    """
    import matplotlib as mpl
    import mplhep
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    style = {key: value for key, value in mplhep.style.CMS.items() if key in mpl.rcParams}
    with mpl.rc_context({**style, "legend.fontsize": 18, "font.size": 22}):
        figure = Figure(figsize=(8 * plots, 8), layout="tight")
        FigureCanvasAgg(figure)
        found = figure.subplots(1, plots, squeeze=False)[0]
        found[0].set_title(_plain(title), fontsize=18, loc="left")
        yield found, buffer
        figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would start a formula."""
    return text.replace("$", r"\$")
