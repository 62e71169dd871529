from __future__ import annotations

import json

from mlaas4hep.core.progress import Bars, ProgressFile


def test_without_a_terminal_every_tenth_is_a_line(capsys):
    with Bars() as bars:
        for done in range(101):
            bars("training", done, 100, epoch=1, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["training", "10", "%", "10/100", "epoch", "1", "loss", "0.5000"]
    assert lines[-1].startswith("training    100 %  100/100")


def test_a_phase_is_complete_when_the_next_begins(capsys):
    with Bars() as bars:
        bars("specs", 70, 100)
        bars("training", 10, 100)
    assert [line[:17] for line in capsys.readouterr().err.splitlines()] == [
        "specs        70 %", "specs       100 %", "training     10 %"
    ]  # fmt: skip


def test_each_fold_has_its_lines_and_the_last_figures_are_shown(capsys):
    with Bars() as bars:
        for fold in (1, 2):
            for done, epoch in ((50, 1), (100, 1), (100, 2)):
                bars("training", done, 100, fold=fold, epoch=epoch)
            bars("testing", 10, 10, fold=fold)
    assert [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()] == [
        "training 50 % 50/100 fold 1 epoch 1",
        "training 100 % 100/100 fold 1 epoch 2",
        "testing 100 % 10/10 fold 1",
        "training 50 % 50/100 fold 2 epoch 1",
        "training 100 % 100/100 fold 2 epoch 2",
        "testing 100 % 10/10 fold 2",
    ]


def test_progress_of_nothing_is_done(capsys):
    with Bars() as bars:
        bars("specs", 0, 0)
    assert "100 %" in capsys.readouterr().err


def test_the_file_holds_valid_json_whatever_the_figures(tmp_path):
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    progress("training", 1, 10, loss=float("nan"), epoch=2)
    assert json.loads(path.read_text()) == {
        "phase": "training", "done": 1, "total": 10, "epoch": 2
    }  # fmt: skip


def test_the_file_is_not_written_at_every_call_but_at_each_phase_and_at_the_end(tmp_path):
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    progress.INTERVAL = 3600
    progress("specs", 1, 10)
    progress("specs", 2, 10)
    assert json.loads(path.read_text())["done"] == 1
    progress("specs", 10, 10)
    assert json.loads(path.read_text())["done"] == 10
    progress("training", 1, 10)
    assert json.loads(path.read_text())["phase"] == "training"
