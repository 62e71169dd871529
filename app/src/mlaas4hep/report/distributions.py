"""Pictures and a ROOT file of how the values of each branch are distributed, class by class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.files import write_atomic
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.core.units import many
from mlaas4hep.data.histograms import (
    MOST_CLASSES,
    BranchHistograms,
    Distributions,
    Histogram,
)
from mlaas4hep.report.plots import cut, drawn, plain

ROOT_FILE = "distributions.root"
MOST_PICTURES = 200
"""Branches of which a picture is drawn: each takes a third of a second or more."""
_DECADES = 1e3
"""Where the bins of a picture differ by more than that, its scale is logarithmic."""
_LARGE = 1e100
"""Beyond it, or below its inverse, the axis has a factor: no plot reaches the ends of float64."""
_PANEL = 7.5, 6.0  # inches
_LINE = 0.36  # inches of a line of the legend
_TICKS = 4  # intervals of an axis, at most
_LONG = 1e9  # numbers of an axis that are written as a difference to one of them


def make_folder(folder: Path, option: str) -> None:
    """The folder for the pictures, made if need be; UsageError, naming ``option``, if it can't."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
        reason = "permission denied"
    except FileExistsError:
        reason = "it is a file"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise UsageError(f"{option}: can't write in {str(folder)!r}: {reason}", "Name another folder.")


def write_distributions(
    found: Distributions, folder: Path, progress: Progress = silent
) -> list[str]:
    """Write BRANCH.png for each branch, and distributions.root with all histograms.

    Files of these names are replaced. Phase "drawing". Returns warnings about pictures that
    weren't drawn; raises OSError when nothing more can be written.
    """
    names = file_names(branch for branch, _ in found)
    first = list(found)[:MOST_PICTURES]
    for done, (branch, histograms) in enumerate(first, 1):
        picture = branch_png(branch, histograms, found.labels, found.events.tolist())
        write_atomic(folder / f"{names[branch]}.png", picture)
        progress("drawing", done, len(first))
    _write_root(found, folder / ROOT_FILE, names)
    if len(first) == len(found):
        return []
    return [
        f"{len(first)} of {len(found)} branches are drawn, the first ones; "
        f"{ROOT_FILE} has the histograms of all"
    ]


def branch_png(
    branch: str, histograms: BranchHistograms, labels: list[str], events: list[int]
) -> bytes:
    """One branch before and after normalising, and the lengths of its lists, as PNG.

    Each class has the area 1; the legend says how many ``events`` it has and what isn't drawn.
    """
    before, after, lengths = histograms.before, histograms.after, histograms.lengths
    what = "values" if lengths else "events"
    name = cut(branch, 30)
    panels: list[tuple[Histogram, str, str]] = [(before, name, what)]
    if after:
        panels.append((after, f"{cut(branch, 25)} after normalising", what))
    if lengths:
        panels.append((lengths, f"values of {cut(branch, 20)} per event", "events"))
    named = labels if len(labels) > 1 else [""]
    lines = [legend_line(i, label, events[i], histograms) for i, label in enumerate(named)]
    columns = 1 if len(lines) <= 4 or max(map(len, lines)) > 25 * len(panels) else 2
    height = _PANEL[1] + 0.6 + _LINE * -(-len(lines) // columns)
    with drawn((_PANEL[0] * len(panels), height), "constrained") as (figure, buffer):
        title = cut(branch, 42 * len(panels))
        figure.suptitle(plain(title), fontsize=24, x=0.01, ha="left")
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (histogram, about, counted) in zip(all_axes, panels, strict=True):
            _draw(axes, histogram, about, counted, lines)
        handles, texts = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower left", ncols=columns, frameon=False)
    return buffer.getvalue()


def _draw(axes: Any, histogram: Histogram, about: str, counted: str, lines: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    edges = histogram.binning.real
    if not 1 / _LARGE < (most := float(np.abs(edges).max())) < _LARGE:
        scale = 10.0 ** max(-300, np.floor(np.log10(most)))
        edges, about = edges / scale, f"{about} / {scale:g}"
    heights, errors = _densities(histogram, edges)
    centres = (edges[:-1] + edges[1:]) / 2
    for index, line in enumerate(lines):
        of_class = {"color": "black", "linestyle": ":"}
        if index < MOST_CLASSES:
            of_class = {"color": f"C{index}", "linestyle": "-"}
        # Of classes that lie on each other all are seen: those drawn later are thinner.
        width = max(1.2, 3 - 0.6 * index)
        axes.stairs(heights[index], edges, linewidth=width, label=plain(line), **of_class)
        axes.errorbar(centres, heights[index], errors[index], fmt="none", ecolor=of_class["color"])
    seen = heights[np.isfinite(heights)]
    positive = seen[seen > 0]
    if positive.size and positive.max() > _DECADES * positive.min():
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 2, positive.max() * 2)
        if seen.min() < 0:
            axes.set_title("bins below 0 are not shown", fontsize=16, loc="right")
    else:
        axes.margins(y=0.08)
        axes.set_ylim(min(0.0, 1.1 * float(seen.min(initial=0))), None)
    beside = edges[1] - edges[0] if len(edges) == 2 else 0.0
    axes.set_xlim(edges[0] - beside, edges[-1] + beside)
    if whole := histogram.binning.is_whole:
        axes.xaxis.set_minor_locator(NullLocator())
    # Numbers of runs and events are long: they neither overlap nor are split in two.
    axes.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=whole))
    axes.ticklabel_format(axis="x", useOffset=bool(most >= _LONG))
    axes.set_xlabel(plain(about), fontsize=20, loc="center")  # right of it may be an exponent
    counted += " (weighted)" if histogram.is_weighted else ""
    axes.set_ylabel(f"{counted}, normalised to unit area", fontsize=18)


def _densities(histogram: Histogram, edges: NDArray[np.float64]) -> tuple[Any, Any]:
    """Heights of the bins for the area 1, and their errors; NaN where a class adds up to nothing.

    Both of shape (classes, bins); what lies beyond the bins counts in the area.
    """
    total = histogram.contents.sum(axis=1, keepdims=True)
    area = np.where(total > 0, total, np.nan) * np.diff(edges)
    return histogram.contents[:, 1:-1] / area, np.sqrt(histogram.variances[:, 1:-1]) / area


def legend_line(index: int, label: str, events: int, histograms: BranchHistograms) -> str:
    """The class, if it has a name, its events, and the share of its values that isn't drawn."""
    before, after, lengths = histograms.before, histograms.after, histograms.lengths
    values = int(before.values[index])
    parts = [many(events, "event"), *([many(values, "value")] if lengths else [])]
    dropped = values - int(after.values[index]) if after else 0
    shares = [
        (int(before.missing[index]), "missing"),
        (int(before.entries[index, 0]), "below the range"),
        (int(before.entries[index, -1]), "above the range"),
        (dropped, "cut off"),
    ]
    parts += [f"{what} {100 * share / values:.3g} %" for share, what in shares if share]
    if lengths and (longer := int(lengths.entries[index, -1])):
        longest = int(lengths.binning.edges[-1])
        parts[-1] += f" (more than {longest} in {100 * longer / events:.3g} % of the events)"
    if values and not before.contents[index].sum() > 0:
        parts.append("not drawn, as its weights don't add up to a positive number"
                     if before.is_weighted else "not drawn, as all is missing")  # fmt: skip
    return f"{cut(label, 40)}: {', '.join(parts)}" if label else ", ".join(parts)


def _write_root(found: Distributions, path: Path, names: dict[str, str]) -> None:
    """before/BRANCH/CLASS, after/BRANCH/CLASS and length/BRANCH/CLASS as TH1D, not normalised."""
    import uproot

    labels = file_names(found.labels)
    part = path.with_name(f".{path.name}")
    try:
        with uproot.recreate(part) as file:
            for branch, histograms in found:
                for kind, histogram in (
                    ("before", histograms.before),
                    ("after", histograms.after),
                    ("length", histograms.lengths),
                ):
                    if histogram is None:
                        continue
                    for index, label in enumerate(found.labels):
                        title = f"{branch}, {label}"
                        key = f"{kind}/{names[branch]}/{labels[label]}"
                        file[key] = _th1(histogram, index, title)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _th1(histogram: Histogram, index: int, title: str) -> Any:
    from uproot.writing.identify import to_TAxis, to_TH1x

    edges = histogram.binning.real
    contents, squares = histogram.contents[index], histogram.variances[index]
    inside, centres = contents[1:-1], edges[:-1] / 2 + edges[1:] / 2
    with np.errstate(over="ignore", invalid="ignore"):
        moments = float((inside * centres).sum()), float((inside * centres * centres).sum())
    return to_TH1x(
        fName=None,
        fTitle=title,
        data=contents,
        fEntries=float(histogram.entries[index].sum()),
        fTsumw=float(inside.sum()),
        fTsumw2=float(squares[1:-1].sum()),
        fTsumwx=moments[0],
        fTsumwx2=moments[1],
        fSumw2=squares,
        fXaxis=to_TAxis("xaxis", "", len(inside), float(edges[0]), float(edges[-1])),
    )


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name: letters, digits, ``_``, ``-`` and dots, none twice on any disk."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:120]
        safe = safe if safe.strip(".") == safe else f"_{safe.strip('.')}"
        unique, number = safe or "_", 2
        while unique.lower() in taken:
            unique, number = f"{safe}_{number}", number + 1
        taken.add(unique.lower())
        found[name] = unique
    return found
