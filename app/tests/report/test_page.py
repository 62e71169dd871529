from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError

from mlaas4hep.data import FileRecord, Target
from mlaas4hep.report.metrics import measure
from mlaas4hep.report.page import report_html
from mlaas4hep.report.regression import measure_target
from mlaas4hep.training.ledger import Account, Ledger

PICTURES = {"roc": b"ROC", "scores": b"SCORES", "loss": b"LOSS"}


def values(**changes: Any) -> dict[str, Any]:
    scores = np.array([[0.2], [0.7], [0.9], [0.4]], np.float32)
    classes = ["bkg", "<script>alert(1)</script>"]
    return {
        "name": "m_1",
        "framework": "keras",
        "created": "2026-11-24T12:00:00+00:00",
        "servable": True,
        "why_not": "",
        "comparison": {"rows": 1234, "max_abs_difference": 3e-8},
        "warnings": ["<b>careful</b>"],
        "metrics": measure(scores, np.array([0, 1, 1, 1]), classes),
        "classes": classes,
        "cut_flow": [
            {"cut": "all", "events": 70, "by_file": [70]},
            {"cut": "met > 5", "events": 60, "by_file": [60]},
        ],
        "expressions": [("objects", "Jet", "Jet_pt > 30"), ("max_vec_sizes", "Jet", 2)],
        "counts": [[10, 3, 1], [20, 6, 3]],
        "columns": 3,
        "tree": "Events",
        "flat": ["met"],
        "jagged": ["jet_pt"],
        "files": [FileRecord("a&b.root", "0123-uuid", 5, 43)],
        "labels": ["bkg"],
        "ledger": Ledger(
            [
                Account("a&b.root", "0", "bkg", 43, 40, {"train": 40}, {"met > 5": 3}),
                Account("c.root", "1", "bkg", 7, lost=7, skipped="c.root is <i>bad</i>"),
                Account("d.root", "", "bkg", None, lost=None, skipped="no such file: d.root"),
            ]
        ),
        "best": 1,
        "epochs": 3,
        "seed": 21,
        "yields": [],
        "class_balance": False,
        "distributions": False,
        "folds": None,
        "target": None,
    } | changes


def test_the_page_holds_all_and_leads_nowhere() -> None:
    page = report_html(values(), PICTURES)
    assert "1234 rows" in page
    assert "met &gt; 5</code>: 60 events" in page
    assert "0.7500" in page
    assert "<th>efficiency</th>" in page
    assert "<td>0.6667</td>" in page
    assert "score = probability of class &lt;script&gt;" in page
    assert "epoch 2 of 3" in page
    assert "a&amp;b.root" in page
    assert "<td>bkg</td><td>43</td><td>0123-uuid</td>" in page
    assert "<p>jagged: <code>jet_pt</code></p>" in page
    plain = report_html(values(labels=[], jagged=[]), PICTURES)
    assert "<th>file</th><th>entries</th>" in plain
    assert "jagged:" not in plain
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "<b>careful" not in page


def test_the_ledger_is_open_when_something_is_lost() -> None:
    page = report_html(values(), PICTURES)
    line = "50 in 3 files: 40 used, 3 cut, 7 lost and those of 1 file that could not be opened"
    assert f"<details open>\n<summary>The ledger: {line}</summary>" in page
    assert "left out: c.root is &lt;i&gt;bad&lt;/i&gt;" in page
    assert "<td>bkg</td><td>43</td><td>3</td><td>40</td><td>0</td>" in page
    assert "<td>bkg</td><td>unknown</td><td>0</td><td>0</td><td>all</td>" in page
    whole = Ledger([Account("a.root", "0", None, 4, 4, {"train": 4})])
    assert "<details>\n<summary>" in report_html(values(ledger=whole, labels=[]), PICTURES)


def test_weights_show_as_yields() -> None:
    assert "Yields" not in report_html(values(), PICTURES)
    weights = np.array([1.5, 2, -1, 3.25])
    weighted = measure(np.array([[0.2], [0.7], [0.9], [0.4]], np.float32),
                       np.array([0, 1, 1, 1]), ["bkg", "sig"], weights)  # fmt: skip
    row = {"file": "a&b.root", "class": "sig", "events": 43, "yield": 12.3456, "error": 2.718}
    page = report_html(
        values(metrics=weighted, classes=["bkg", "sig"], yields=[row], class_balance=True), PICTURES
    )
    assert "Each event counts by its weight" in page
    assert "<td>sig</td><td>43</td><td>12.3456</td><td>2.72</td>" in page
    assert "<th>events (number)</th><th>yield (sum of weights)</th>" in page
    assert "<td>3.25</td>" in page
    assert "each class had the same total weight" in page


def test_distributions_are_mentioned_where_there_are_some() -> None:
    assert "in distributions/" not in report_html(values(), PICTURES)
    assert "in distributions/" in report_html(values(distributions=True), PICTURES)


def test_folds_are_explained() -> None:
    page = report_html(values(folds={"number": 5}), PICTURES)
    assert "the mean of 5, one for each fold" in page
    assert "<th>class</th><th>events</th><th>efficiency</th>" in page
    assert "<td>bkg</td><td>14</td>" in page
    assert "those of its best epoch" in page


def test_what_is_done_to_lists_is_shown() -> None:
    page = report_html(values(), PICTURES)
    assert "<li>objects <code>Jet</code>: <code>Jet_pt &gt; 30</code></li>" in page
    assert "<li>max_vec_sizes <code>Jet</code>: <code>2</code></li>" in page


def test_a_regression_has_its_own_numbers_and_pictures() -> None:
    target = Target("gen_<e>", 500, 80)
    predicted = np.array([510, 480, 600, 391.5], np.float32)
    metrics = measure_target(predicted, np.array([500, 490, 590, 400.0]), target)
    pictures = {name: name.encode() for name in ("predicted", "residuals", "profile", "loss")}
    page = report_html(
        values(metrics=metrics, target=asdict(target), classes=[], counts=[[10, 3, 4]]), pictures
    )
    assert "prediction = gen_&lt;e&gt;, in its own units" in page
    assert f"<td>{metrics['rmse']:.6g}</td>" in page
    assert "<th>2.5 %</th>" in page
    assert "<td><code>gen_&lt;e&gt;</code></td><td>10</td><td>3</td><td>4</td>" in page
    assert "mean 500, divided by its standard deviation 80" in page
    assert page.count("data:image/png;base64,") == 4
    assert "probab" not in page
    assert "AUC" not in page


def test_observers_have_their_pictures() -> None:
    page = report_html(values(), PICTURES, {"m<1>": b"MASS"})
    assert "<h2>Observers</h2>" in page
    assert 'alt="mean score by m&lt;1&gt;" src="data:image/png;base64,TUFTUw=="' in page
    assert "Observers" not in report_html(values(), PICTURES)


def test_not_servable_says_why() -> None:
    page = report_html(values(servable=False, why_not="no counterpart", comparison={}), PICTURES)
    assert "Not servable: no counterpart" in page


def test_without_test_events() -> None:
    empty = measure(np.empty((0, 1), np.float32), np.empty(0, np.int64), ["bkg", "sig"])
    assert "–" in report_html(values(metrics=empty, classes=["bkg", "sig"]), PICTURES)


def test_a_forgotten_value_is_an_error() -> None:
    incomplete = values()
    del incomplete["seed"]
    with pytest.raises(UndefinedError, match="seed"):
        report_html(incomplete, PICTURES)
