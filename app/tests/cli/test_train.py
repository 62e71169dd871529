from __future__ import annotations

import json

import numpy as np
import uproot
from sklearn.metrics import roc_auc_score

FIVE = ("--files=files.txt", "--labels=labels.txt", "--model=model.py", "--params=params.json")


def test_the_five_files_give_a_bundle_and_its_archive(command, five_files):
    ended = command(*FIVE, "--fout=my_model", script="workflow.py")
    assert ended.code == 0, ended.err
    for name in ("bundle.json", "report.html", "roc.png", "loss.png", "1/model.onnx"):
        assert (five_files / "my_model" / name).stat().st_size > 100
    assert (five_files / "my_model.tar.gz").is_file()
    assert "report.html" in ended.out
    assert "specs       100 %" in ended.err
    assert json.loads((five_files / "my_model/bundle.json").read_text())["servable"] is True


def test_mlaas4hep_train_is_the_same_and_saves_without_fout(command, five_files):
    assert command("train", *FIVE).code == 0
    assert (five_files / "trained_model/bundle.json").is_file()


def test_aliases_of_keys_are_understood_with_a_warning(command, five_files):
    params = json.loads((five_files / "params.json").read_text())
    params |= {"nevents": 800, "root_director": "", "hist": "pdfs", "selected_branches": ""}
    (five_files / "params.json").write_text(json.dumps(params))
    ended = command(*FIVE, script="workflow.py")
    assert ended.code == 0, ended.err
    assert "'nevents' is an old name, read as 'nevts'" in ended.err
    assert "'root_director'" in ended.err
    assert "hist" not in ended.err
    assert json.loads((five_files / "trained_model/metrics.json").read_text())["events"] < 300


def test_a_job_leaves_progress_and_result(command, five_files, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    assert command("train", *FIVE, f"--job={job}", "--name=luca_1").code == 0
    result = json.loads((job / "result.json").read_text())
    assert result["state"] == "succeeded"
    assert result["servable"] is True
    assert 0.5 < result["metrics"]["auc"] <= 1
    assert json.loads((job / "luca_1/bundle.json").read_text())["name"] == "luca_1"
    assert (job / "luca_1.tar.gz").is_file()
    assert json.loads((job / "progress.json").read_text())["phase"] == "publishing"


def test_a_failed_job_says_why(command, five_files, tmp_path):
    (five_files / "labels.txt").write_text("1\n1\n")
    job = tmp_path / "job"
    job.mkdir()
    assert command("train", *FIVE, f"--job={job}", "--name=luca_1").code == 1
    result = json.loads((job / "result.json").read_text())
    assert result["state"] == "failed"
    assert "one class" in result["error"]["message"]
    assert result["error"]["remedy"]


def test_predict_writes_scores_that_separate(command, five_files):
    assert command(*FIVE, "--fout=m", script="workflow.py").code == 0
    ended = command("predict", "--model=m", "--files=mixture.root", "--fout=scores.root")
    assert ended.code == 0, ended.err
    with uproot.open("scores.root") as scores, uproot.open("mixture.root") as mixture:
        found = scores["scores"]["score"].array(library="np")
        truth = mixture["events"]["truth"].array(library="np")
    assert len(found) == len(truth)
    assert roc_auc_score(truth, found) > 0.65

    assert command("predict", "--model=m", "--files=mixture.root", "--fout=s.csv").code == 0
    np.testing.assert_allclose(np.loadtxt("s.csv", skiprows=1), found, rtol=1e-6)
    printed = command("predict", "--model=m", "--files=mixture.root").out.splitlines()
    assert printed[0] == "score"
    np.testing.assert_allclose(np.array(printed[1:], float), found, rtol=1e-5)


def test_predict_names_what_is_wrong(command, five_files):
    assert command(*FIVE, "--fout=m", script="workflow.py").code == 0
    ended = command("predict", "--model=m", "--files=mixture.root", "--fout=s.xls")
    assert (ended.code, ".root or .csv" in ended.err) == (2, True)
    ended = command("predict", "--model=five", "--files=mixture.root")
    assert ended.code == 1
    assert "five is not a bundle" in ended.err
    ended = command("predict", "--model=m", "--files=mixture.root", "--branch=evts")
    assert ended.code == 1
    assert "'events'" in ended.err
