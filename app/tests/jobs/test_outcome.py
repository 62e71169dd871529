import json
import os
from pathlib import Path

import pytest

from mlaas4hep.jobs.outcome import (
    MOST_METRICS,
    Result,
    last_line,
    read_progress,
    read_result,
    text,
)


def result(home: Path, metrics: str) -> Result:
    (home / "result.json").write_text('{"state": "succeeded", "metrics": ' + metrics + "}")
    return read_result(home)


def test_a_result(tmp_path: Path) -> None:
    metrics = {"auc": 0.75, "events": 10, "roc": {"1": {"signal": [0, 0.5], "auc": None}}}
    assert result(tmp_path, json.dumps(metrics)) == Result("succeeded", None, metrics)
    error = {"message": "no branch 'mett'\n  in a.root", "remedy": "Did you mean 'met'?"}
    (tmp_path / "result.json").write_text(json.dumps({"state": "failed", "error": error}))
    assert read_result(tmp_path) == Result("failed", (error["message"], error["remedy"]))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"state": NaN}', '{"phase": 1, "done": 0, "total": 0}', "[" * 100_000],
)
def test_what_user_code_may_have_written_is_not_trusted(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress.json").write_text(content)
    (tmp_path / "result.json").write_text(content)
    assert read_progress(tmp_path) == {}
    assert read_result(tmp_path) == Result()


def test_links_and_giants_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text('{"state": "succeeded"}')
    (tmp_path / "result.json").symlink_to("real.json")
    assert read_result(tmp_path) == Result()
    (tmp_path / "progress.json").write_text('{"phase": "' + "x" * (2 << 20) + '"}')
    assert read_progress(tmp_path) == {}
    (tmp_path / "progress.json").unlink()
    os.mkfifo(tmp_path / "progress.json")
    writer = os.open(tmp_path / "progress.json", os.O_RDWR)  # a pipe that somebody keeps open
    assert read_progress(tmp_path) == {}
    os.close(writer)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e999", None),
        ("-1e999", None),
        ("NaN", None),
        ("Infinity", None),
        ("9007199254740992", 2**53),
        ("9007199254740993", None),
        ("1" + "0" * 400, None),
        ("1" + "0" * 100_000, None),
        ("true", True),
        ("-0.5", -0.5),
        (r'"a\u0000b\ud800c\u001b"', "ab?c"),
        ("[" * 900 + "]" * 900, [[[[[None]]]]]),
        ('"' + "é" * 500 + '"', "é" * 297 + "..."),
    ],
)
def test_values_that_no_reader_could_take_are_cut_or_left_out(
    tmp_path: Path, written: str, read: object
) -> None:
    found = result(tmp_path, '{"a": ' + written + ', "b": 2}').metrics
    assert found == {"a": read, "b": 2}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_names_are_cut_and_cleaned(tmp_path: Path) -> None:
    found = result(tmp_path, json.dumps({"a\ud800\0": 1, "x" * 200: 2})).metrics
    assert found == {"a?": 1, "x" * 97 + "...": 2}


def test_too_many_metrics_leave_the_small_ones(tmp_path: Path) -> None:
    given = {"auc": 0.5, "roc": [0.123456789] * 900, "more": {str(i): "x" * 90 for i in range(900)}}
    found = result(tmp_path, json.dumps(given)).metrics
    assert sorted(found) == ["auc", "roc"]
    assert len(json.dumps(found)) < MOST_METRICS


def test_progress(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(
        '{"phase": "training", "done": 1, "total": 2, "loss": 0.5, "a": "text", "b": 1e999}'
    )
    figures = {"loss": 0.5}
    assert read_progress(tmp_path) == {
        "phase": "training", "done": 1, "total": 2, "figures": figures
    }  # fmt: skip
    for odd in ("-1", "true", "1.5", "1" + "0" * 30):
        (tmp_path / "progress.json").write_text(f'{{"phase": "x", "done": {odd}, "total": 2}}')
        assert read_progress(tmp_path) == {}


def test_a_text_can_be_stored_and_shown() -> None:
    assert text("a\0b\ud800\x1b[31m\n\té") == "ab?[31m\n\té"
    assert text("x" * 20_000) == "x" * 9997 + "..."
    assert text(["x"]) == text(None) == ""


def test_what_a_log_says_last(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_line(log) == "(none)"
    log.write_bytes(b"x" * 10_000 + b"\nValueError: a\0\xff\n\n")
    assert last_line(log) == "ValueError: a\ufffd"
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert last_line(log) == "(none)"
