from __future__ import annotations

import json
import re
import tarfile
import tempfile

import awkward as ak
import numpy as np
import pytest
import uproot
from sklearn.metrics import roc_auc_score

from cli.conftest import write_params
from sources.plain import write_tree

FIVE = ("--files=files.txt", "--labels=labels.txt", "--model=model.py", "--params=params.json")


def test_the_five_files_give_a_bundle_and_its_archive(command, five_files):
    ended = command(*FIVE, "--fout=my_model", script="workflow.py")
    assert ended.code == 0, ended.err
    for name in ("bundle.json", "report.html", "roc.png", "loss.png", "1/model.onnx"):
        assert (five_files / "my_model" / name).stat().st_size > 100
    assert (five_files / "my_model.tar.gz").is_file()
    assert "report.html" in ended.out
    said = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "class 0 background.root" in said
    assert "class 1 signal.root" in said
    columns = json.loads((five_files / "my_model/columns.json").read_text())
    branches = len({re.sub(r"_\d+$", "", column) for column in columns})
    assert f"columns {len(columns)}, from {branches} branches" in said
    assert "split 64 / 16 / 20 % train / validate / test, drawn by file and entry" in said
    assert "specs       100 %" in ended.err
    assert json.loads((five_files / "my_model/bundle.json").read_text())["servable"] is True


def test_mlaas4hep_train_is_the_same_and_saves_without_fout(command, five_files):
    assert command("train", *FIVE).code == 0
    assert (five_files / "trained_model/bundle.json").is_file()


def test_aliases_of_keys_are_understood_with_a_warning(command, five_files):
    params = json.loads((five_files / "params.json").read_text())
    params |= {"nevents": 800, "root_director": "", "hist": "", "selected_branches": ""}
    (five_files / "params.json").write_text(json.dumps(params))
    ended = command(*FIVE, script="workflow.py")
    assert ended.code == 0, ended.err
    assert "'nevents' is an old name, read as 'nevts'" in ended.err
    assert "'root_director'" in ended.err
    assert "plots" not in ended.out  # an empty hist names no folder
    assert json.loads((five_files / "trained_model/metrics.json").read_text())["events"] < 300


def test_a_job_leaves_progress_and_result(command, five_files, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    assert command("train", *FIVE, f"--job={job}", "--name=luca_1").code == 0
    result = json.loads((job / "result.json").read_text())
    assert result["state"] == "succeeded"
    sums = result["ledger"]
    assert sums["entries"] == sums["used"] + sums["cut"] + sums["lost"] > 0
    assert result["servable"] is True
    assert 0.5 < result["metrics"]["auc"] <= 1
    assert json.loads((job / "luca_1/bundle.json").read_text())["name"] == "luca_1"
    assert (job / "luca_1.tar.gz").is_file()
    assert json.loads((job / "progress.json").read_text())["phase"] == "publishing"


def test_bad_files_are_left_out_and_the_ledger_says_so(command, five_files):
    names = (five_files / "files.txt").read_text().splitlines()
    (five_files / "files.txt").write_text("\n".join([*names, "gone.root"]))
    labels = (five_files / "labels.txt").read_text().splitlines()
    (five_files / "labels.txt").write_text("\n".join([*labels, labels[0]]))
    ended = command(*FIVE, script="workflow.py")
    assert ended.code == 1
    assert "no such file" in ended.err
    ended = command("train", *FIVE, "--skip-bad-files", "--allow-missing=10%")
    assert ended.code == 1
    assert "% of the events are missing, allowed are 10 % (allow_missing): line 5 of" in ended.err
    ended = command("train", *FIVE, "--skip-bad-files", "--allow-missing=50%", "--json")
    assert ended.code == 0, ended.err
    assert "left out as a whole: line 5 of files.txt: no such file" in ended.err
    result = json.loads(ended.out)
    assert result["bundle"].endswith("trained_model")
    assert result["ledger"]["sum"]["skipped"] == 1
    assert result["ledger"]["files"][-1]["skipped"].startswith("line 5 of files.txt: no such")
    assert result["ledger"] == json.loads(
        (five_files / "trained_model/provenance/ledger.json").read_text()
    )
    ended = command("train", *FIVE, "--allow-missing=50%")
    assert ended.code == 2
    assert "without skip_bad_files" in ended.err


def test_distributions_go_to_the_folder_that_hist_names(command, five_files):
    write_params(five_files, hist="pdfs/now", selected_branches=["HT", "Jet_pt"])
    ended = command("train", *FIVE)
    assert ended.code == 0, ended.err
    made = {"HT.png", "Jet_pt.png", "distributions.root"}
    assert {path.name for path in (five_files / "pdfs/now").iterdir()} == made
    assert f"plots    {five_files / 'pdfs/now'}" in ended.out
    assert "drawing     100 %  2/2" in ended.err
    assert not (five_files / "trained_model/distributions").exists()
    with uproot.open("pdfs/now/distributions.root") as file, uproot.open("signal.root") as signal:
        of_signal = file["before/Jet_pt/1"]
        pt = np.asarray(ak.flatten(signal["events"]["Jet_pt"].array()))
        expected, _ = np.histogram(pt, of_signal.axis().edges())
        assert of_signal.values().sum() == len(pt)
        assert np.abs(of_signal.values() - expected).sum() <= 4  # float32 at an edge


def test_a_folder_that_hist_cannot_use_is_said_before_anything_is_read(command, five_files):
    write_params(five_files, hist="model.py")
    ended = command("train", *FIVE)
    assert ended.code == 2
    assert "params.json: hist: can't write in" in ended.err
    assert "model.py" in ended.err
    assert "specs" not in ended.err


def test_a_job_keeps_distributions_in_the_bundle(command, five_files, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_params(five_files, hist=str(elsewhere), selected_branches=["HT"])
    job = tmp_path / "job"
    job.mkdir()
    assert command("train", *FIVE, f"--job={job}", "--name=luca_1").code == 0
    assert not elsewhere.exists()
    assert (job / "luca_1/distributions/HT.png").is_file()
    assert "distributions/HT.png" in json.loads((job / "luca_1/bundle.json").read_text())["files"]
    with tarfile.open(job / "luca_1.tar.gz") as tar:
        assert "luca_1/distributions/distributions.root" in tar.getnames()
    assert "in distributions/" in (job / "luca_1/report.html").read_text()


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
        found = scores["scores"]["score_1"].array(library="np")
        truth = mixture["events"]["truth"].array(library="np")
    assert len(found) == len(truth)
    assert roc_auc_score(truth, found) > 0.65

    assert command("predict", "--model=m", "--files=mixture.root", "--fout=s.csv").code == 0
    np.testing.assert_allclose(np.loadtxt("s.csv", skiprows=1), found, rtol=1e-6)
    assert (five_files / "s.csv").read_text().startswith("score_1\n")
    ended = command("predict", "--model=m", "--files=mixture.root")
    assert "score = probability of class 1" in ended.err
    printed = ended.out.splitlines()
    assert printed[0] == "score_1"
    np.testing.assert_allclose(np.array(printed[1:], float), found, rtol=1e-5)


def test_predict_names_what_is_wrong(command, five_files):
    assert command(*FIVE, "--fout=m", script="workflow.py").code == 0
    ended = command("predict", "--model=m", "--files=mixture.root", "--fout=s.xls")
    assert (ended.code, ".root or .csv" in ended.err) == (2, True)
    ended = command("predict", "--model=five", "--files=mixture.root")
    assert ended.code == 1
    assert "no such file or folder: five" in ended.err
    ended = command("predict", "--model=model.py", "--files=mixture.root")
    assert ended.code == 1
    assert "model.py is neither the folder of a bundle nor its archive" in ended.err
    ended = command("predict", "--model=m", "--files=mixture.root", "--branch=evts")
    assert ended.code == 1
    assert "'events'" in ended.err


def test_predict_takes_the_archive_and_the_manifest(command, five_files, monkeypatch):
    assert command(*FIVE, "--fout=m", script="workflow.py").code == 0
    (five_files / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(five_files / "tmp"))
    printed = []
    for model in ("m", "m.tar.gz", "m/bundle.json"):
        ended = command("predict", f"--model={model}", "--files=mixture.root")
        assert ended.code == 0, ended.err
        printed.append(ended.out)
    assert printed[0] == printed[1] == printed[2]
    for name in ("mixture.root", "mixture.root:events"):
        ended = command("predict", "--model=m", f"--files={name}", "--fout=./mixture.root")
        assert ended.code == 2
        assert "is one of the files to read" in ended.err
    assert list((five_files / "tmp").iterdir()) == []


def write_events(path, events, jets, seed, **more):
    random = np.random.default_rng(seed)
    counts = random.integers(0, jets + 1, events)
    counts[0] = jets
    pt = ak.unflatten(random.exponential(30, counts.sum()), counts)
    branches = {"met": random.exponential(30, events), "jet_pt": pt} | more
    with uproot.recreate(path) as file:
        file.mktree("events", {name: ak.Array(v).type.content for name, v in branches.items()})
        file["events"].extend(branches)
    return counts


def test_predict_says_how_many_values_were_dropped(command, five_files):
    for label in (0, 1):
        write_events(five_files / f"{label}.root", 300, 4, label)
    asked = ("--model=model.py", "--files=0.root,1.root", "--labels=0,1")
    write_params(five_files, identifier=[])
    assert command("train", *asked, "--fout=m").code == 0
    counts = write_events(five_files / "more.root", 9000, 7, 3)
    ended = command("predict", "--model=m", "--files=more.root", "--fout=s.csv")
    assert ended.code == 0
    dropped = np.maximum(counts - 4, 0).sum()
    assert f"{dropped} values beyond the longest list of the specs were dropped" in ended.err
    assert "dropped" not in command("predict", "--model=m", "--files=0.root").err


@pytest.mark.parametrize("how", ["minmax", "standard"])
def test_predict_warns_of_a_file_in_other_units(command, five_files, how):
    write_params(five_files, normalisation=how)
    assert command(*FIVE, "--fout=m", script="workflow.py").code == 0
    for own in ("signal.root", "background.root", "mixture.root"):
        ended = command("predict", "--model=m", f"--files={own}", "--fout=s.csv")
        assert (ended.code, "warning" in ended.err) == (0, False), ended.err
    with uproot.open("signal.root") as file:
        events = file["events"].arrays()
    energies = [name for name in events.fields if name.endswith(("pt", "HT"))]
    for name in energies:
        events[name] = events[name] * np.float32(1000)
    write_tree(five_files / "mev.root", "events", {name: events[name] for name in events.fields})
    ended = command("predict", "--model=m", "--files=mev.root", "--fout=s.csv")
    assert ended.code == 0, ended.err
    specs = json.loads((five_files / "m/specs.json").read_text())
    warnings = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == len(energies) > 1
    for name in energies:
        high, values = specs["maxv"][name], ak.flatten(events[name], axis=None)
        line = f"warning: {name}: {100 * np.mean(values > high):.3g} % of the values are above"
        assert f"{line} {high:.6g}, the highest in the training. Is the file in the" in ended.err


def test_three_classes_have_a_score_each(command, five_files):
    for label in "abc":
        write_events(five_files / f"{label}.root", 300, 2, ord(label))
    asked = ("--model=model.py", "--files=a.root,b.root,c.root", "--labels=B,A,C")
    write_params(five_files, identifier=[])
    ended = command("train", *asked, "--fout=m")
    assert ended.code == 0, ended.err
    assert "scores = probability of each of A, B, C" in ended.out
    assert command("predict", "--model=m", "--files=a.root", "--fout=s.root").code == 0
    with uproot.open("s.root") as scores:
        assert scores["scores"].keys() == ["score_A", "score_B", "score_C"]
        rows = np.stack(list(scores["scores"].arrays(library="np").values()), axis=1)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)


def test_the_score_of_two_named_classes_is_named_after_the_second(command, five_files):
    files = f"--files={five_files}/signal.root,{five_files}/background.root"
    ended = command("train", files, "--labels=Higgs,QCD", *FIVE[2:], "--fout=m")
    assert ended.code == 0, ended.err
    said = "score = probability of class QCD"
    assert said in ended.out
    assert said in json.loads((five_files / "m/params.json").read_text())["description"]
    assert said in (five_files / "m/report.html").read_text()
    assert command("predict", "--model=m", "--files=mixture.root", "--fout=s.root").code == 0
    with uproot.open("s.root") as scores, uproot.open("mixture.root") as mixture:
        found = scores["scores"]["score_QCD"].array(library="np")
        truth = mixture["events"]["truth"].array(library="np")
    assert roc_auc_score(truth, found) < 0.35  # truth 1 is signal.root's kind, here "Higgs"


def test_columns_that_are_no_features_are_named_before_the_training(command, five_files, tmp_path):
    for label, weight in ((0, 0.01), (1, 1.0)):
        more = {"genWeight": np.full(500, weight), "norm": np.full(500, 10 * weight)}
        write_events(five_files / f"{label}.root", 500, 3, label, **more)
    job = tmp_path / "job"
    job.mkdir()
    asked = ("--model=model.py", "--files=0.root,1.root", "--labels=0,1")
    write_params(five_files, identifier=[])
    ended = command("train", *asked, f"--job={job}", "--name=m_1")
    assert ended.code == 0, ended.err
    paste = '"exclude_branches": ["genWeight", "norm"]'
    assert ended.err.count(paste) == 1
    assert ended.err.index(paste) < ended.err.index("training ")
    (warning,) = json.loads((job / "result.json").read_text())["warnings"]
    assert "genWeight (an event weight; one value in each file; alone separates" in warning
    assert "norm (one value in each file; alone separates the classes, AUC 1.000)" in warning
    assert "genWeight (an event weight" in (job / "m_1/report.html").read_text()

    write_params(five_files, identifier=[], **json.loads("{" + paste + "}"))
    ended = command("train", *asked, "--fout=m")
    assert ended.code == 0
    assert "not features" not in ended.err
    auc = json.loads((five_files / "m/metrics.json").read_text())["auc"]
    assert 0.35 < auc < 0.65  # the same physics in both files


def test_a_friend_is_read_in_training_and_prediction(command, five_files):
    """The scores of a first model, which predict writes as a friend, are a feature of a second."""
    assert command("train", *FIVE, "--fout=first").code == 0
    for stem in ("signal", "background", "mixture"):
        options = (f"--files={stem}.root", f"--fout={stem}_scores.root")
        assert command("predict", "--model=first", *options).code == 0
    write_params(
        five_files,
        friends={"scores": "{dir}/{stem}_scores.root"},
        selected_branches=["MET_pt", "scores.*"],
    )
    ended = command("train", *FIVE, "--fout=m")
    assert ended.code == 0, ended.err
    specs = json.loads((five_files / "m/specs.json").read_text())
    assert specs["fkeys"] == ["MET_pt", "scores.score_1"]
    assert [each["friends"][0]["name"] for each in specs["files"]] == [
        f"./{stem}_scores.root" for stem in ("signal", "background")
    ]
    assert "friend: <code>./signal_scores.root</code>" in (five_files / "m/report.html").read_text()

    predict = ("predict", "--model=m", "--files=mixture.root")
    ended = command(*predict, "--fout=s.root")
    assert ended.code == 0, ended.err
    with uproot.open("s.root") as file, uproot.open("mixture.root") as mixture:
        scores = file["scores"]["score_1"].array(library="np")
        truth = mixture["events"]["truth"].array(library="np")
    assert roc_auc_score(truth, scores) > 0.65

    ended = command(*predict, "--fout=mixture_scores.root")
    assert ended.code == 2
    assert "mixture_scores.root is one of the files to read" in ended.err
    moved = (five_files / "mixture_scores.root").rename(five_files / "elsewhere.root")
    ended = command(*predict)
    assert ended.code == 1
    assert f"friends: scores: no such file: {five_files}/mixture_scores.root" in ended.err
    ended = command(*predict, f"--friends=scores={moved}", "--fout=again.root")
    assert ended.code == 0, ended.err
    with uproot.open("again.root") as file:
        np.testing.assert_array_equal(file["scores"]["score_1"].array(library="np"), scores)
    for given, said in (
        ("elsewhere.root", "'elsewhere.root' is not NAME=FILE"),
        ("score=elsewhere.root", "had no friend 'score'\n  Did you mean 'scores'"),
    ):
        ended = command(*predict, f"--friends={given}")
        assert ended.code == 2
        assert said in ended.err
