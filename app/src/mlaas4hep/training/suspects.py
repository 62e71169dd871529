"""Columns that are probably no features, found by their names and by what they do."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data import Specs, Target
from mlaas4hep.frameworks.base import Classes, Matrix, Truth
from mlaas4hep.training.params import Params
from mlaas4hep.training.sample import Sample

SEPARATES = 0.99  # area under the ROC curve of one column, or its rank correlation with a target
_ENOUGH = 10  # events, values or files below which chance could look like a rule
_SHOWN = 20  # branches that a warning explains
_BLOCK = 256  # columns that are ranked at once
# A branch is squeezed if such a share of its values lies within such a part of its range. The more
# values lie beyond, the narrower: the tail of a spectrum, too, reaches far above its median.
_NARROW = ((0.999, 0.01), (0.99, 0.005), (0.95, 0.001))
_IDENTIFIER = "an identifier of the event"
_ALONE = "alone separates"

BY_NAME = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for reason, pattern in {
        # event weights of generators, ATLAS, CMS (LHE, PS, pileup), and LHCb's sWeights
        "an event weight": r"(?!.*(puppi|tau_?weight))(.*_)?[a-z0-9]*(weights?|wgts?)(_.*)?"
        r"|(?-i:w)|(evt|event|mc|gen)_w|.*_sw|(.*_)?sum_?w2?(_.*)?",
        "a cross section": r"(.*_)?(xs|x_?sec(t|tion)?|cross_?section)(_.*)?|k_?factor"
        r"|(gen_)?filter_?eff(iciency)?",
        _IDENTIFIER: r"(.*event_info.*_)?("
        r"(run|evt|evnt|event|entry|orbit)(_?(no|nr|num|number|id|idx|index|count))?"
        r"|(lumi|luminosity)(_?(block|sec|section|no|number|id))*|ls|lbn?|lumi_?block_?n(r|o)?"
        r"|bcid|bx|bunch_?crossing(_id)?|(event_|gps_)?time_?stamp|gps_time)",
        "the number of candidates of an event": r"tot_candidates|n_candidate",
        "bookkeeping of ROOT": r"(.*_)?f_(unique_id|bits)",
        "the name or number of the sample": r"(sample|dataset|data_set|process|proc|file)"
        r"(_?(id|no|nr|num|number|name|index|type))?|dsid|is_(mc|data|real_?data)"
        r"|(.*event_info.*_)?(mc_)?channel_number",
        "a label": r"labels?|targets?|y_?true|class(_?(id|label|name|no|number|idx))?"
        r"|(is_?)?(sig|signal|bkg|bkgd|background)(_?(flag|label))?|is_(real|fake)",
        # CMS (NanoAOD, Delphes' Event and Particle), ATLAS (Truth*), LHCb (*_TRUEID, *_BKGCAT)
        "truth of the generator": r"(.*_)?(n_)?(gen|generator|lhe|truth|true|mc)_.*"
        r"|(.*_)?(mc_?)?true(id|p|pt|tau|isstable|(origin|end)vertex)(_.*)?|(.*_)?bkg_?cat"
        r"|(.*_)?(parton|hadron)_?flavou?r|event_(process_id|mpi|scale|scale_pdf|alpha_(qed|qcd)"
        r"|(x|id|pdf)_?[12]|(read|proc)_time)|particle_(pid|status|m[12]|d[12])",
    }.items()
)
"""Why a branch of such a name is not a feature; ``_words`` of the name, or of its leaf, match."""


def by_name(branch: str) -> str:
    """Why a branch of that name is probably no feature; empty for an ordinary name."""
    names = {_words(branch), _words(re.split(r"[./]", branch)[-1])}
    return next(
        (why for pattern, why in BY_NAME if any(pattern.fullmatch(name) for name in names)), ""
    )


def _words(name: str) -> str:
    """``LHEWeight_originalXWGTUP`` as ``lhe_weight_original_xwgtup``; one letter stays as it is."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", re.sub(r"\W+", "_", name))
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return name.lower() if len(name) > 1 else name


def warnings_about(
    sample: Sample,
    specs: Specs,
    classes: Sequence[str],
    params: Params,
    target: Target | None = None,
) -> list[str]:
    """What to tell before the training, with the line of params.json that leaves columns out.

    Without ``classes`` it is a regression, of the ``target``.
    """
    branches = _branches(specs)
    found: dict[str, list[str]] = {
        branch: [reason] for branch in branches if (reason := by_name(branch))
    }
    behaviour = _by_behaviour(sample, specs, classes)
    for branch, reasons in behaviour.items():
        found.setdefault(branch, []).extend(reasons)
    warnings = []
    if found := {branch: found[branch] for branch in [*behaviour, *found]}:  # the worst first
        shown = _shown({branch: "; ".join(reasons) for branch, reasons in found.items()})
        separate = any(each.startswith(_ALONE) for reasons in found.values() for each in reasons)
        units = "Are all files in the same units? " if separate else ""
        identifiers = [branch for branch, reasons in found.items() if _IDENTIFIER in reasons]
        warnings.append(
            f"columns that are probably not features: {shown}. "
            f"A model that uses them may learn nothing about physics. {units}"
            f"{_as_weight(found, specs)}{_leave_out(list(found), params, identifiers)}"
        )
    if squeezed := _squeezed(sample, specs):
        warnings.append(
            f"a few values squeeze all others into a small part of the range: {_shown(squeezed)}. "
            'If such a value stands for a missing one, say so by "missing"; "clip" bounds others. '
            f"{_leave_out(list(squeezed), params)}"
        )
    if target and (why := _squeezed_target(target.restore(sample.truth))):
        warnings.append(
            f"a few values squeeze all others of the target {target.branch}: {why}. If such a value"
            ' stands for a missing one, say so by "missing"; a selection leaves others out'
        )
    return warnings


def _shown(reasons: dict[str, str]) -> str:
    shown = ", ".join(f"{branch} ({why})" for branch, why in list(reasons.items())[:_SHOWN])
    return shown + (f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else "")


def _leave_out(branches: list[str], params: Params, identifiers: Sequence[str] = ()) -> str:
    rest = [branch for branch in branches if branch not in identifiers]
    named = [branch for branch in rest if branch in params.selected_branches]
    others = [branch for branch in rest if branch not in named]
    ways = []
    if identifiers:
        ways.append(f'"identifier": {json.dumps([*params.identifier, *identifiers])}')
    if others:
        ways.append(f'"exclude_branches": {json.dumps([*params.exclude_branches, *others])}')
    if named:
        ways.append(f"take {', '.join(named)} off selected_branches")
    return f"To leave them out, in params.json: {'; '.join(ways)}"


def _as_weight(found: dict[str, list[str]], specs: Specs) -> str:
    """How a branch of weights is used as such."""
    weights = [k for k in specs.flat if "an event weight" in found.get(k, ())]
    return f'To weight events: "weights": {json.dumps(weights[0])}. ' if weights else ""


def _branches(specs: Specs) -> list[str]:
    """The branches that have columns, in the columns' order."""
    return [*specs.flat, *(name for name in specs.jagged if specs.jdim[name])]


class _Layout:
    """Where the columns of each branch lie, and which of a row's cells hold a value."""

    def __init__(self, specs: Specs) -> None:
        self.branches = _branches(specs)
        lengths = np.array([specs.jdim.get(name, 1) for name in self.branches])
        self.starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._flat = len(specs.flat)
        self._list_of = np.repeat(np.arange(len(lengths)), lengths)[self._flat :] - self._flat
        self._position = np.arange(specs.n_values)[self._flat :]
        self._position = self._position - self.starts[self._flat :][self._list_of]

    def filled(self, counts: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Shape (events, columns): False where a list is padded."""
        mask = np.ones((len(counts), self._flat + len(self._position)), np.bool_)
        mask[:, self._flat :] = self._position < counts[:, self._list_of]
        return mask

    def extremes(self, sample: Sample, groups: NDArray[np.int64]) -> list[tuple[Matrix, Matrix]]:
        """Least and greatest value per branch in each group of rows; NaN with too few values."""
        result = []
        for group in np.unique(groups):
            rows = sample.rows[groups == group]
            filled = self.filled(sample.counts[groups == group])
            low = np.where(filled, rows, np.inf).min(axis=0)
            high = np.where(filled, rows, -np.inf).max(axis=0)
            low = np.minimum.reduceat(low, self.starts)
            high = np.maximum.reduceat(high, self.starts)
            few = np.add.reduceat(filled.sum(axis=0), self.starts) < _ENOUGH
            low[few] = high[few] = np.nan
            result.append((low, high))
        return result


def _by_behaviour(sample: Sample, specs: Specs, classes: Sequence[str]) -> dict[str, list[str]]:
    """Reasons of those branches that behave as no feature does."""
    layout = _Layout(specs)
    flat, k = len(specs.flat), len(classes)
    in_files = _constant(layout.extremes(sample, sample.files), every=False)
    in_classes = _constant(layout.extremes(sample, sample.classes), every=True)

    def strength(values: NDArray[np.generic]) -> NDArray[np.float64]:
        if classes:
            return _separation(values, sample.classes, k)
        return _correlation(values, sample.truth)

    best = np.maximum.reduceat(strength(sample.rows), layout.starts)
    best_counts = np.concatenate([np.zeros(flat), strength(sample.counts)])
    what = "separates the classes, AUC" if k == 2 else "separates a class, AUC"
    if not classes:
        what = "gives the target, rank correlation"
    found: dict[str, list[str]] = {}
    for index, branch in enumerate(layout.branches):
        reasons = []
        if in_files[index]:
            reasons.append("one value in each file")
        elif in_classes[index]:
            reasons.append("one value in each class")
        if best_counts[index] > SEPARATES:
            reasons.append(f"the number of its values alone {what} {best_counts[index]:.3f}")
        elif best[index] > SEPARATES:
            reasons.append(f"alone {what} {best[index]:.3f}")
        if reasons:
            found[branch] = reasons
    return found


def _constant(extremes: list[tuple[Matrix, Matrix]], every: bool) -> NDArray[np.bool_]:
    """Whether each branch has one value in each group, and not the same in all of them.

    With ``every``, each group must have its own; else groups with too few values don't count.
    """
    lows = np.array([low for low, _ in extremes])
    highs = np.array([high for _, high in extremes])
    known = ~np.isnan(lows)
    constant: NDArray[np.bool_] = ((lows == highs) | ~known).all(axis=0) & (known.sum(axis=0) > 1)
    if every:
        own = (np.diff(np.sort(lows, axis=0), axis=0) > 0).all(axis=0)
        constant &= known.all(axis=0) & own
        return constant
    spread = np.where(known, lows, -np.inf).max(axis=0) > np.where(known, lows, np.inf).min(axis=0)
    constant &= spread
    return constant


def _separation(values: NDArray[np.generic], classes: Classes, k: int) -> NDArray[np.float64]:
    """The best area under the ROC curve, from 0.5 to 1, of one class against the rest; a column."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    best = np.zeros(values.shape[1])
    for start in range(0, values.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        ranks = None
        for one in range(1 if k == 2 else 0, k):
            chosen = classes == one
            ours = int(chosen.sum())
            others = len(classes) - ours
            if min(ours, others) < _ENOUGH:
                continue
            if ranks is None:
                ranks = rankdata(values[:, block], axis=0)
            area = (ranks[chosen].sum(axis=0) - ours * (ours + 1) / 2) / (ours * others)
            best[block] = np.maximum(best[block], np.maximum(area, 1 - area))
    return best


def _correlation(values: NDArray[np.generic], target: Truth) -> NDArray[np.float64]:
    """Spearman's rank correlation of each column with the target, from 0 to 1."""
    from scipy.stats import rankdata

    best = np.zeros(values.shape[1])
    if len(target) < _ENOUGH:
        return best
    ours = rankdata(target) - (len(target) + 1) / 2
    for start in range(0, values.shape[1], _BLOCK):
        ranks = rankdata(values[:, start : start + _BLOCK], axis=0) - (len(target) + 1) / 2
        norm = np.sqrt((ranks**2).sum(axis=0) * (ours**2).sum())
        products = np.abs(ours @ ranks)
        best[start : start + _BLOCK] = np.divide(
            products, norm, out=np.zeros_like(norm), where=norm > 0
        )
    return best


def _squeezed(sample: Sample, specs: Specs) -> dict[str, str]:
    """Branches whose range is spoilt by a value that stands for "missing", or by a few outliers."""
    layout = _Layout(specs)
    found: dict[str, str] = {}
    for index, branch in enumerate(layout.branches):
        start = layout.starts[index]
        cells = sample.rows[:, start : start + specs.jdim.get(branch, 1)]
        filled = np.ones(cells.shape, np.bool_)
        if index >= len(specs.flat):
            column = index - len(specs.flat)
            filled = np.arange(cells.shape[1]) < sample.counts[:, column, None]
        low, high = specs.minv[branch], specs.maxv[branch]
        if np.count_nonzero(filled) < 20 * _ENOUGH or low == high:
            continue
        weights = filled * sample.weights[:, None]
        if specs.std.get(branch):
            low_cell, high_cell = (
                (edge - specs.mean[branch]) / specs.std[branch] for edge in (low, high)
            )
            cells = (cells - low_cell) / (high_cell - low_cell)
            cells = np.where(np.abs(cells - np.rint(cells)) < 1e-6, np.rint(cells), cells)
        shares = [float(weights[cells == edge].sum() / weights.sum()) for edge in (0, 1)]
        if branch not in specs.std:  # else they became the mean
            shares[0] -= specs.missing.get(branch, 0) / weights.sum()  # NaN became 0
        if why := _why_squeezed(np.sort(cells[filled]), low, high, shares):
            found[branch] = why
    return found


def _squeezed_target(values: NDArray[np.float32]) -> str:
    """The same of a target's values."""
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    if len(values) < 20 * _ENOUGH or not low < high:
        return ""
    cells = ((values - low) / (high - low)).astype(np.float32)
    shares = [float((cells == edge).mean()) for edge in (0, 1)]
    return _why_squeezed(np.sort(cells), low, high, shares)


def _why_squeezed(values: Matrix, low: float, high: float, shares: list[float]) -> str:
    """``values``: sorted, 0 at ``low`` and 1 at ``high``; ``shares``: of values that are these."""
    n = len(values)
    where = f"its range {low:.6g} to {high:.6g}"
    for edge, value, share in zip((0, 1), (low, high), shares, strict=True):
        rest = values[values != edge]
        if share < 0.001 or n - len(rest) < _ENOUGH / 2 or len(np.unique(rest)) < _ENOUGH:
            continue
        if abs(edge - (rest[0] if edge == 0 else rest[-1])) > 0.25:
            part = max(float(rest[-1] - rest[0]), 1e-12)
            return f"{share:.2%} are {value:.6g}, the others fill {part:.2g} of {where}"
    several = len(np.unique(values)) >= _ENOUGH or high - low > 1e6
    for share, part in _NARROW if several else ():  # a flag that is rarely set has a small range
        if _window(values, share) <= part:
            far = high if float(np.median(values)) < 0.5 else low
            within = f"{100 * share:g} % lie within {100 * part:g} %"
            return f"{within} of {where}, some as far as {far:.6g}"
        values = _but_the_usual(values, high - low)
        if len(values) < 2 * _ENOUGH:
            break
    return ""


def _window(values: Matrix, share: float) -> float:
    """The least part of the range that has such a share of the sorted ``values``."""
    most = math.ceil(share * len(values))
    return float((values[most - 1 :] - values[: len(values) - most + 1]).min())


def _but_the_usual(values: Matrix, span: float) -> Matrix:
    """The values without one that most of them are, such as the 0 of a muon that few events have.

    What differs from it by rounding is that value. Where the ``span`` is so large that float32
    makes one value of different ones, they all stay.
    """
    usual = values[len(values) // 2]  # the median is any value that most are
    others = values[np.abs(values - usual) > 1e-7 / max(1, span)]
    return others if span < 1e7 and len(others) < len(values) / 2 else values
