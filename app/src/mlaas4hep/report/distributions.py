"""The distributions of a training's columns as a folder of pictures and one ROOT file."""

from __future__ import annotations

import re
from pathlib import Path

import uproot

from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Specs
from mlaas4hep.data.distributions import Distributions
from mlaas4hep.report.plots import Normal, distribution_png

HISTOGRAMS = "distributions.root"


def write_distributions(
    folder: Path, found: Distributions, progress: Progress = silent
) -> list[Path]:
    """Write BRANCH.png for each branch, and all histograms as TH1D in ``HISTOGRAMS``.

    There they are BRANCH/CLASS, with letters, digits, _ and dots in their names only. Phase
    "drawing" counts branches. Returns the pictures. Raises OSError where nothing can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = _file_names([*found.of_branches])
    classes = _file_names([name or "all" for name in found.classes])
    pictures = []
    with uproot.recreate(folder / HISTOGRAMS) as file:
        for number, (branch, each) in enumerate(found.of_branches.items()):
            path = folder / f"{names[branch]}.png"
            of_branch = branch, each, found.classes, found.weighted, _normal(found.specs, branch)
            path.write_bytes(distribution_png(*of_branch))
            pictures.append(path)
            for counts, name in zip(each.counts, classes.values(), strict=True):
                file[f"{names[branch]}/{name}"] = counts, each.edges
            progress("drawing", number + 1, len(found.of_branches))
    return pictures


def _normal(specs: Specs, branch: str) -> Normal:
    """Factor and summand by which a value becomes the model's; None where all become 0."""
    if specs.std:
        offset, span = specs.mean[branch], specs.std[branch]
    else:
        offset, span = specs.minv[branch], specs.maxv[branch] - specs.minv[branch]
    return (1 / span, -offset / span) if 1e-100 < span < 1e100 else None


def _file_names(names: list[str]) -> dict[str, str]:
    """A file's name for each; those that would be the same get a number."""
    found: dict[str, str] = {}
    for name in names:
        made = plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".")[:200] or "_"
        number = 1
        while made.lower() in map(str.lower, found.values()):
            number += 1
            made = f"{plain}_{number}"
        found[name] = made
    return found
