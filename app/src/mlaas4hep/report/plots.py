"""Pictures of a training, in the style of the field (mplhep)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import wrap
from typing import Any, Literal

_CURVES = 10  # of as many classes a curve is drawn
_SHORT = 15  # letters of a class, of which two fit side by side
_LONG = 24  # letters of a class beside a number
_TITLE = 45  # letters of a line of the title
_TICKS = 5  # intervals of an axis, at most: the numbers of more may overlap
_STEPS = (1, 2, 2.5, 5, 10)


def roc_png(metrics: dict[str, Any], title: str) -> bytes:
    """Signal efficiency over background efficiency of the test part, as PNG."""
    with _axes(title) as (axes, buffer):
        known = [
            (name, curve) for name, curve in metrics["roc"].items() if curve["auc"] is not None
        ]
        for name, curve in known[:_CURVES]:
            of_class = "AUC" if len(metrics["roc"]) == 1 else plain(cut(name, _LONG))
            label = f"{of_class} = {curve['auc']:.3f}"
            axes.plot(curve["background"], curve["signal"], label=label)
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="guessing")
        axes.set_xlabel("background efficiency")
        axes.set_ylabel("signal efficiency")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.005)
        axes.set_aspect("equal")
        heading = "" if len(metrics["roc"]) == 1 else "AUC of each class vs rest"
        axes.legend(title=heading, loc="lower right", fontsize=16)
    return buffer.getvalue()


def scores_png(metrics: dict[str, Any], title: str) -> bytes:
    """How the scores of the test part are distributed, class by class, each to the area 1; PNG."""
    import mplhep
    import numpy as np

    classes = {name: counts for name, counts in metrics["scores"].items() if sum(counts) > 0}
    with _axes(title) as (axes, buffer):
        for name, counts in list(classes.items())[:_CURVES]:
            edges = np.linspace(0, 1, len(counts) + 1)
            how = {"density": True, "yerr": False, "linewidth": 2}
            mplhep.histplot(counts, edges, ax=axes, label=plain(cut(name, 2 * _LONG)), **how)
        names = list(metrics["scores"])
        meaning = metrics["score"] if len(names) == 2 else "score = probability of the true class"
        axes.set_xlabel(plain(meaning))
        axes.set_ylabel("events, normalised to unit area")
        axes.set_xlim(0, 1)
        if classes:
            shown = min(len(classes), _CURVES)
            columns = 1 + (max(map(len, classes)) < _SHORT and shown > 3)
            how = {"ncols": columns, "fontsize": 16}
            axes.legend(title="true class", loc="upper left", **how)
            # Room for the legend above all curves.
            lines = 1 + -(-shown // columns)
            axes.set_ylim(0, axes.dataLim.y1 / (0.95 - 0.06 * lines))
    return buffer.getvalue()


def predicted_png(metrics: dict[str, Any], title: str) -> bytes:
    """Predicted over true values of the test part, as a map of counts, PNG."""
    import numpy as np
    from matplotlib.colors import LogNorm

    found, name = metrics["predicted_true"], plain(metrics["target"])
    edges, counts = np.array(found["edges"]), np.array(found["contents"])
    with _axes(title) as (axes, buffer):
        if (counts > 0).any():
            shown = np.ma.masked_less_equal(counts.T, 0)
            norm = LogNorm() if shown.max() > shown.min() else None
            mesh = axes.pcolormesh(edges, edges, shown, norm=norm)
            label = _counted(metrics) + (", where above 0" if (counts < 0).any() else "")
            beside = axes.inset_axes((1.04, 0, 0.06, 1))  # as high as the axes
            axes.figure.colorbar(mesh, cax=beside, label=label)
        axes.axline(
            (edges[0], edges[0]), slope=1, color="black", linestyle="--", label="predicted = true"
        )
        _along(axes, f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(edges[0], edges[-1])
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
    return buffer.getvalue()


def residuals_png(metrics: dict[str, Any], title: str) -> bytes:
    """How the residuals of the test part are distributed, PNG."""
    import mplhep
    import numpy as np

    found, quantiles = metrics["residuals"], metrics["quantiles"]
    with _axes(title) as (axes, buffer):
        contents, edges = np.array(found["contents"]), np.array(found["edges"])
        mplhep.histplot(contents, edges, yerr=False, ax=axes, label="central 99 % of the events")
        if quantiles:
            within = "central 68 %"
            axes.axvspan(quantiles["0.16"], quantiles["0.84"], color="C0", alpha=0.15, label=within)
            axes.axvline(quantiles["0.5"], color="grey", linestyle=":", label="median")
        _along(axes, f"predicted - true {plain(metrics['target'])}")
        axes.set_ylabel(_counted(metrics))
        axes.set_xlim(edges[0], edges[-1])
        axes.margins(y=0.25)  # room for the legend
        axes.legend(loc="upper left")
    return buffer.getvalue()


def profile_png(metrics: dict[str, Any], title: str) -> bytes:
    """The mean residual over the true value, with its error and the standard deviation, PNG."""
    import numpy as np

    found, name = metrics["profile"], plain(metrics["target"])
    edges = np.array(found["edges"])
    mean, error, std = (np.array(found[k], float) for k in ("mean", "error", "std"))
    centres, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    with _axes(title) as (axes, buffer):
        axes.errorbar(centres, mean, error, half, fmt="o", label="mean and its error")
        axes.fill_between(centres, mean - std, mean + std, alpha=0.15, label="standard deviation")
        axes.axhline(0, color="grey", linestyle=":")
        _along(axes, f"true {name}")
        axes.set_ylabel(f"predicted - true {name}")
        axes.set_xlim(edges[0], edges[-1])
        axes.legend()
    return buffer.getvalue()


def observer_png(observer: str, metrics: dict[str, Any], title: str) -> bytes:
    """The mean score, or residual, by the value of an observer, class by class, as PNG."""
    import numpy as np

    found, target = metrics["observers"][observer], metrics.get("target")
    edges = np.array(found["edges"])
    centres, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    of = "" if found["events"] == metrics["events"] else f" of {metrics['events']}"
    apart = {"missing": "missing", "outside": "beyond the axis"}
    parts = [f"{found[key]} {what}" for key, what in apart.items() if found[key]]
    counts = ", ".join([f"{found['events']}{of} test events", *parts])
    with _axes(f"{title}\n{counts}") as (axes, buffer):
        shown = [(n, c) for n, c in found["classes"].items() if c["overall"] is not None]
        for index, (name, of_class) in enumerate(shown):
            mean, error = (np.array(of_class[key], float) for key in ("mean", "error"))
            colour, label = f"C{index}", None if target else plain(name)
            axes.axhline(of_class["overall"], color=colour, linestyle=":")
            axes.errorbar(centres, mean, error, half, fmt="o", color=colour, label=label)
        _along(axes, plain(observer))
        if target:
            axes.set_ylabel(f"mean of predicted - true {plain(target)}")
        else:
            binary = len(metrics["classes"]) == 2
            axes.set_ylabel("mean score" if binary else "mean probability of the true class")
        if len(edges):
            axes.set_xlim(edges[0], edges[-1])
        if shown:
            of = "all events" if target else "the class"
            axes.plot([], [], color="grey", linestyle=":", label=f"mean of {of}")
            axes.margins(y=0.2)  # room for the legend
            axes.legend(title="" if target else "true class")
    return buffer.getvalue()


def _counted(metrics: dict[str, Any]) -> str:
    return "events" if metrics["counted"] == "events" else "events (weighted)"


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
        if len(history.get("loss", ())) == 1:  # of a range below 1 the locator takes fractions
            axes.set_xticks([1])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(9, steps=_STEPS, integer=True))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
    return buffer.getvalue()


@contextmanager
def _axes(title: str) -> Iterator[tuple[Any, io.BytesIO]]:
    """Axes of a new figure; it is drawn into the buffer at the end."""
    with drawn((8, 8), "tight") as (figure, buffer):
        axes = figure.add_subplot()
        lines = [text for line in title.splitlines() for text in wrap(line, _TITLE)]
        axes.set_title(plain("\n".join(lines)), fontsize=18, loc="left")
        yield axes, buffer


@contextmanager
def drawn(
    size: tuple[float, float], layout: Literal["constrained", "tight"]
) -> Iterator[tuple[Any, io.BytesIO]]:
    """A new figure of that size; it is drawn into the buffer at the end, as PNG of 90 dots an inch.

    No display, no global state.
    """
    import matplotlib as mpl
    import matplotlib.style
    import mplhep
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    style = {key: value for key, value in mplhep.style.CMS.items() if key in mpl.rcParams}
    style |= mpl.style.library["petroff10"]  # the style has 6 colours only
    style |= {"xtick.major.pad": 10}  # the 0 of both axes would touch
    with mpl.rc_context({**style, "legend.fontsize": 18, "font.size": 22}):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure, buffer
        figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})


def _along(axes: Any, label: str) -> None:
    """The x axis of a branch, on which long numbers and their exponent overlap nothing."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=_STEPS))
    axes.set_xlabel(label, loc="center")


def cut(text: str, length: int) -> str:
    """The text, or what fits of it."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would start a formula, ``_`` hide a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
