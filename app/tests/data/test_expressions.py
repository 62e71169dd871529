from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import awkward as ak
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlaas4hep.core.errors import EventError
from mlaas4hep.data import Branch, Jagged
from mlaas4hep.data.expressions import (
    FUNCTIONS,
    MOST_CHARACTERS,
    Expression,
    ExpressionError,
    Kind,
    numbers,
)

NUMBER, CONDITION = Kind(False, False), Kind(False, True)
NUMBERS, CONDITIONS = Kind(True, False), Kind(True, True)
KINDS = {
    "met": NUMBER,
    "n": NUMBER,
    "trigger": CONDITION,
    "jet_pt": NUMBERS,
    "jet_eta": NUMBERS,
    "jet_phi": NUMBERS,
    "jet_id": NUMBERS,
    "jet_good": CONDITIONS,
    "mu_pt": NUMBERS,
    "Jet.PT": NUMBERS,
    "Jet/Jet.PT": NUMBERS,
    "µ": NUMBER,
    "class": NUMBER,
}


def tree(events: int, seed: int = 0) -> dict[str, ak.Array]:
    """Branches as a file holds them."""
    random = np.random.default_rng(seed)
    counts, others = random.integers(0, 5, events), random.integers(0, 3, events)
    total = int(counts.sum())

    def lists(values: Any, lengths: Any = counts) -> ak.Array:
        return ak.unflatten(values, lengths)

    pt = random.exponential(30, total).astype(np.float32)
    return {
        "met": ak.Array(random.exponential(30, events).astype(np.float32)),
        "n": ak.Array(random.integers(-5, 6, events).astype(np.int32)),
        "trigger": ak.Array(random.uniform(size=events) < 0.5),
        "jet_pt": lists(pt),
        "jet_eta": lists(random.normal(0, 2, total)),
        "jet_phi": lists(random.uniform(-np.pi, np.pi, total)),
        "jet_id": lists(random.integers(0, 8, total).astype(np.uint8)),
        "jet_good": lists(random.uniform(size=total) < 0.5),
        "mu_pt": lists(random.exponential(20, int(others.sum())), others),
        "Jet.PT": lists(pt),
        "Jet/Jet.PT": lists(pt),
        "µ": ak.Array(random.normal(size=events)),
        "class": ak.Array(random.normal(size=events)),
    }


def branch(values: ak.Array) -> Branch:
    if values.ndim == 1:
        return values.to_numpy()
    layout = values.layout.to_ListOffsetArray64(True)
    return Jagged(np.asarray(layout.offsets.data), np.asarray(layout.content.data))


def compute(text: str, events: dict[str, ak.Array]) -> Any:
    """The expression's result as plain lists, missing numbers as NaN."""
    values = {name: numbers(branch(each)) for name, each in events.items()}
    result = Expression(text, "selection").bind(KINDS)(values)
    return plain(result)


def plain(result: Branch | ak.Array) -> Any:
    if isinstance(result, ak.Array):
        return result.to_list()
    if isinstance(result, Jagged):
        return ak.unflatten(result.content, result.counts).to_list()
    return result.tolist()


def single(array: ak.Array) -> ak.Array:
    return ak.values_astype(array, np.float64)


def wrapped(difference: ak.Array) -> ak.Array:
    return np.arctan2(np.sin(difference), np.cos(difference))


def padded(array: ak.Array, place: int) -> ak.Array:
    found = [float(x[place]) if -len(x) <= place < len(x) else np.nan for x in array.to_list()]
    return ak.Array(found)


EXACT: dict[str, Callable[[dict[str, ak.Array]], ak.Array]] = {
    "met + 2 * n - 1": lambda t: single(t["met"]) + 2 * single(t["n"]) - 1,
    "-met / 3": lambda t: -single(t["met"]) / 3,
    "n // 2 + n % 3": lambda t: single(t["n"]) // 2 + single(t["n"]) % 3,
    "n ** 2 ** 1": lambda t: single(t["n"]) ** 2,
    "met > 20 and trigger": lambda t: (t["met"] > 20) & t["trigger"],
    "(met > 20) | ~trigger": lambda t: (t["met"] > 20) | ~t["trigger"],
    "10 < met <= 40 or not n == 2": lambda t: (
        ((single(t["met"]) > 10) & (single(t["met"]) <= 40)) | (t["n"] != 2)
    ),
    "jet_pt > met": lambda t: t["jet_pt"] > t["met"],
    "jet_pt * met + n": lambda t: single(t["jet_pt"]) * single(t["met"]) + single(t["n"]),
    "jet_id & 5 == 4": lambda t: (ak.values_astype(t["jet_id"], int) & 5) == 4,
    "jet_id | 1": lambda t: single(ak.values_astype(t["jet_id"], int) | 1),
    "count(jet_pt)": lambda t: single(ak.num(t["jet_pt"])),
    "count(jet_pt > 25)": lambda t: single(ak.sum(t["jet_pt"] > 25, axis=1)),
    "count(jet_good)": lambda t: single(ak.sum(t["jet_good"], axis=1)),
    "sum(jet_good) + count(mu_pt)": lambda t: single(
        ak.sum(t["jet_good"], axis=1) + ak.num(t["mu_pt"])
    ),
    "max(jet_pt)": lambda t: ak.fill_none(single(ak.max(t["jet_pt"], axis=1)), np.nan),
    "min(abs(jet_eta))": lambda t: ak.fill_none(ak.min(np.abs(t["jet_eta"]), axis=1), np.nan),
    "any(jet_pt > 40)": lambda t: ak.any(t["jet_pt"] > 40, axis=1),
    "all(abs(jet_eta) < 2)": lambda t: ak.all(np.abs(t["jet_eta"]) < 2, axis=1),
    "jet_pt[0]": lambda t: padded(t["jet_pt"], 0),
    "jet_eta[-2]": lambda t: padded(t["jet_eta"], -2),
    "jet_pt[abs(jet_eta) < 2.4]": lambda t: single(t["jet_pt"])[np.abs(t["jet_eta"]) < 2.4],
    "mu_pt[mu_pt > 15][0]": lambda t: padded(t["mu_pt"][t["mu_pt"] > 15], 0),
    "where(trigger, met, -1)": lambda t: ak.where(t["trigger"], single(t["met"]), -1.0),
    "where(jet_good, jet_pt, met)": lambda t: ak.where(
        t["jet_good"], single(t["jet_pt"]), single(t["met"])
    ),
    "minimum(met, n) + maximum(jet_eta, 0)": lambda t: (
        np.minimum(single(t["met"]), single(t["n"])) + np.maximum(t["jet_eta"], 0)
    ),
    "Jet.PT + `Jet/Jet.PT`": lambda t: 2 * single(t["jet_pt"]),
    " µ + `class`\n": lambda t: t["µ"] + t["class"],
    "True and trigger": lambda t: t["trigger"],
}
CLOSE: dict[str, Callable[[dict[str, ak.Array]], ak.Array]] = {
    "sum(jet_pt)": lambda t: ak.sum(single(t["jet_pt"]), axis=1),
    "sqrt(met) + log(met) + log10(met) + exp(-met)": lambda t: (
        np.sqrt(m := single(t["met"])) + np.log(m) + np.log10(m) + np.exp(-m)
    ),
    "sin(µ) + cos(µ) + tan(µ) + arctan(µ) + sinh(µ) + cosh(µ) + tanh(µ)": lambda t: (
        np.sin(x := t["µ"])
        + np.cos(x)
        + np.tan(x)
        + np.arctan(x)
        + np.sinh(x)
        + np.cosh(x)
        + np.tanh(x)
    ),
    "arcsin(tanh(µ)) + arccos(tanh(µ)) + arctan2(µ, n)": lambda t: (
        np.arcsin(np.tanh(t["µ"])) + np.arccos(np.tanh(t["µ"])) + np.arctan2(t["µ"], t["n"])
    ),
    "delta_phi(jet_phi, 3 * µ)": lambda t: wrapped(t["jet_phi"] - 3 * t["µ"]),
    "delta_r(jet_eta, jet_phi, jet_eta[0], 9)": lambda t: np.hypot(
        t["jet_eta"] - padded(t["jet_eta"], 0), wrapped(t["jet_phi"] - 9)
    ),
    "invariant_mass(met, µ, 1, 30, 0.5, 3)": lambda t: mass(
        (single(t["met"]), t["µ"], 1.0), (30.0, 0.5, 3.0)
    ),
}


def mass(*particles: tuple[Any, Any, Any]) -> Any:
    """From the sum of four-vectors."""
    parts = [(pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta))
             for pt, eta, phi in particles]  # fmt: skip
    energy, *momentum = (a + b for a, b in zip(*parts, strict=True))
    return np.sqrt(energy**2 - sum(p**2 for p in momentum))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), events=st.integers(1, 40))
@example(seed=0, events=300)
def test_the_same_numbers_as_awkward(seed: int, events: int) -> None:
    events_of = tree(events, seed)
    for text, formula in EXACT.items():
        np.testing.assert_equal(compute(text, events_of), plain(formula(events_of)), text)


@pytest.mark.parametrize("text", CLOSE)
def test_the_same_numbers_as_awkward_within_rounding(text: str) -> None:
    events = tree(1000)
    found, expected = (
        ak.to_numpy(ak.flatten(each, axis=None))
        for each in (ak.Array(compute(text, events)), CLOSE[text](events))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_every_function_is_compared() -> None:
    used = "".join([*EXACT, *CLOSE])
    assert [name for name in FUNCTIONS if f"{name}(" not in used] == ["isnan"]


def test_an_event_has_the_same_bits_alone_and_among_others() -> None:
    events = tree(67)
    alone = [{name: each[i : i + 1] for name, each in events.items()} for i in range(0, 67, 6)]
    for text in (*EXACT, *CLOSE):
        together = compute(text, events)
        for i, event in zip(range(0, 67, 6), alone, strict=True):
            np.testing.assert_equal(compute(text, event), together[i : i + 1], text)


NAN = np.nan
MISSING = {
    "jet_pt[3]": [NAN],
    "jet_pt[3] > 0": [False],
    "not jet_pt[3] > 0": [True],
    "jet_pt[3] != 0": [False],
    "isnan(jet_pt[3])": [True],
    "jet_good[3]": [False],
    "min(mu_pt)": [NAN],
    "sum(mu_pt) + count(mu_pt)": [0.0],
    "all(mu_pt > 0) and not any(mu_pt > 0)": [True],
    "sqrt(-met)": [NAN],
    "1 / (met - met)": [NAN],
    "n // 0": [NAN],
    "n % 0": [NAN],
    "exp(1000 * met)": [NAN],
    "log(0 * n)": [NAN],
    "1e300 * 1e300 * met": [NAN],
    "sum(jet_phi)": [NAN],
    "max(jet_phi)": [NAN],
    "count(jet_phi)": [3.0],
    "µ": [NAN],
    "µ > 0": [False],
    "maximum(µ, 0)": [NAN],
    "where(µ > 0, 1, 2)": [2.0],
    "µ & 1": [NAN],
    "(-1 * met) ** 0.5": [NAN],
}


@pytest.mark.parametrize("text", MISSING)
def test_what_is_missing(text: str) -> None:
    event = {
        "met": ak.Array([2.0]),
        "n": ak.Array([3]),
        "µ": ak.Array([np.inf]),
        "jet_pt": ak.Array([[1.0, 2.0, 3.0]]),
        "jet_phi": ak.Array([[1.0, np.nan, -np.inf]]),
        "jet_good": ak.Array([[True, False, True]]),
        "mu_pt": ak.unflatten(np.empty(0), [0]),
    }
    np.testing.assert_equal(compute(text, event), MISSING[text])


def test_integers_are_exact_and_decimal_text_is_rounded_to_the_type_of_the_branch() -> None:
    assert compute("n", {"n": ak.Array([2**53 - 1])}) == [float(2**53 - 1)]
    value = np.float32(0.1)
    sent = np.array([float(str(value))])
    assert numbers(sent, "float32").tolist() == [float(value)]
    assert numbers(np.array([0.0, 1.0, np.nan]), "bool").tolist() == [False, True, False]


REFUSED = {
    "jet_ptt > 3": (1, "no branch 'jet_ptt'", "Did you mean 'jet_pt'"),
    "met > 3 and foo(met)": (13, "no function 'foo'", "The functions are: abs, sqrt"),
    "met > 3 and fabs(n) > 1": (13, "no function 'fabs'", "Did you mean abs?"),
    "met > 3 && trigger": (9, "'&&' is not known", "Write and"),
    "!trigger": (1, "'!' is not known", "Write not"),
    "met = 3": (5, "'=' is not known", "Write =="),
    "met ^ 2": (1, "an operator that is not known", "a**b"),
    "met > 30 & trigger": (7, "& of a condition and a number", "bind closer"),
    "met > 2 & n < 3": (7, "& or | between comparisons", "bind closer"),
    "met and trigger": (1, "and takes conditions, this is one number per event", "!= 0"),
    "min(met)": (5, "min takes a list, this is one number per event", ""),
    "min(met, n)": (1, "2 arguments for min(list)", "minimum(a, b)"),
    "met[0]": (1, "[ ] takes from a list", ""),
    "jet_pt[0:2]": (8, "this is not known", "Jet_pt[0]"),
    "jet_pt[n]": (8, "[ ] takes a whole number or a condition on each entry", ""),
    "met if trigger else n": (1, "if is not known", "where(condition, a, b)"),
    "met > 'a'": (7, "'a' is not a number", ""),
    "any(jet_pt)": (5, "any takes conditions, this is a list of numbers", "!= 0"),
    "µ + `Jet/Jet.PT` + nope": (20, "no branch 'nope'", ""),
    "met > (3": (7, "'(' was never closed", "Close it."),
    "met +": (6, "invalid syntax", "An expression has branches"),
    "met # nothing": (5, "'#' is not known", "backquotes"),
    "1 > 0": (1, "it reads no branch", ""),
    " ": (1, "it is empty", ""),
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_error_points_at_the_character(text: str) -> None:
    at, about, remedy = REFUSED[text]
    with pytest.raises(ExpressionError) as found:
        Expression(text, "selection").bind(KINDS)
    first, shown, caret = found.value.message.split("\n")
    assert first.startswith(f"selection, character {at}: {about}")
    assert shown == f"  {text}"
    assert caret == " " * (at + 1) + "^"
    assert remedy in found.value.remedy


def test_lists_of_other_lengths_name_both_and_the_event() -> None:
    events = {"jet_pt": ak.Array([[1.0], [1.0, 2.0]]), "mu_pt": ak.Array([[1.0], [1.0]])}
    for text in ("jet_pt * 2 + mu_pt", "jet_pt[mu_pt > 0]"):
        with pytest.raises(EventError, match=r"event 1: jet_pt.* has 2 values, mu_pt.* has 1"):
            compute(text, events)
    with pytest.raises(EventError, match=r"event 1: jet_eta is 2\.5: & takes"):
        compute("jet_eta & 1", {"jet_eta": ak.Array([[1.0], [2.5]])})


EVENTS = tree(3)
HOSTILE = (
    "__import__('os').system('true')",
    "met.__class__.__mro__",
    "().__class__",
    "(lambda: met)()",
    "[met for met in jet_pt]",
    "{met: 1}",
    "f'{met}'",
    "(met := 3)",
    "met if met else met",
    "exec(met)",
    "sum(*jet_pt)",
    "sum(list=jet_pt)",
    "met\0",
    "met * " + "9**" * 60 + "9",
    "1e999 * met",
    "1" + "0" * 1900 + " * met",
    "not " * 400 + "trigger",
    "-" * 1900 + "met",
    "(" * 900 + "met" + ")" * 900,
    "met" + "+met" * 499,
    "jet_pt" + "[0]" * 600,
    "jet_pt[99999999999999999999]",
    "met" + ".a" * 990,
    "`" * 1999,
    "met @ met",
    "met is met",
    "met in jet_pt",
    "...",
    "jet_pt[met > 0 or jet_pt > 0]" * 60,
    "\ud800 + met",
    "jet_pt[" + "-" * 900 + "1]",
)


@pytest.mark.hostile
@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_runs_anything_or_takes_much(text: str) -> None:
    """A stranger's bundle brings expressions; they end in an error or a number, at little cost."""
    assert len(text) <= MOST_CHARACTERS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ExpressionError, EventError)) as found:
        compute(text, EVENTS)
    assert len(str(found.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


ATOMS = [*"()[]+-*/%<>=!&|~^.,:`'\"#\0 \n1", "met", "jet_pt", "and", "not", "**", "sum(", "if",
         "lambda", "µ", "where(", "[0]", "1e9", "__"]  # fmt: skip


@pytest.mark.hostile
@given(st.lists(st.sampled_from(ATOMS), max_size=60).map("".join) | st.text(max_size=80))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    with suppress(ExpressionError, EventError):
        compute(text, EVENTS)
