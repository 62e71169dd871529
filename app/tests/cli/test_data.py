from __future__ import annotations

import json

import awkward as ak
import numpy as np
import uproot

from cli.conftest import write_params


def test_inspect_shows_kind_range_and_multiplicity(command, five_files):
    ended = command("inspect", "signal.root")
    assert ended.code == 0, ended.err
    with uproot.open("signal.root") as file:
        events = file["events"].arrays()
    assert f"events: {len(events)} events, {len(events.fields)} branches" in ended.out
    row = {line.split()[1]: line for line in ended.out.splitlines() if line.startswith("│")}
    met = np.asarray(events["MET_pt"])
    assert "flat" in row["MET_pt"]
    assert f"{met.max():.6g}" in row["MET_pt"]
    assert "jagged" in row["Jet_pt"]
    counts = ak.num(events["Jet_pt"])
    assert f"0 / {ak.mean(counts):.3g} / {ak.max(counts)}" in row["Jet_pt"]


def test_inspect_of_no_file_and_no_tree(command, five_files):
    assert command("inspect", "nothing.root").code == 1
    ended = command("inspect", "signal.root", "--tree=event")
    assert ended.code == 1
    assert "'events'" in ended.err


def test_specs_alone(command, five_files):
    ended = command("specs", "--files=files.txt", "--params=params.json", "--fout=s.json")
    assert ended.code == 0, ended.err
    specs = json.loads((five_files / "s.json").read_text())
    assert {"jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events"} <= specs.keys()
    with uproot.open("signal.root") as a, uproot.open("background.root") as b:
        both = np.concatenate(
            [f["events"]["HT"].array(library="np") for f in (a, b)]
        )  # fmt: skip
    assert specs["minv"]["HT"] == float(both.min())
    assert specs["maxv"]["HT"] == float(both.max())
    assert "3000 events" in ended.out


def test_specs_with_a_label_branch_fit_the_training(command, five_files):
    """A branch that holds the label is not a feature, in `specs` as in `train`."""
    rng = np.random.default_rng(2)
    with uproot.recreate("labelled.root") as file:
        kind = rng.integers(0, 2, 600).astype(np.int32)
        met = rng.normal(kind, 1, 600)
        file.mktree("events", {"met": "float64", "kind": "int32"})
        file["events"].extend({"met": met, "kind": kind})
    (five_files / "p.json").write_text('{"branch": "events", "epochs": 1}')
    options = ("--files=labelled.root", "--labels=kind", "--params=p.json")
    ended = command("specs", *options, "--fout=s.json")
    assert ended.code == 0, ended.err
    assert json.loads((five_files / "s.json").read_text())["fkeys"] == ["met"]
    ended = command("train", *options, "--model=model.py", "--specs=s.json", "--fout=out")
    assert ended.code == 0, ended.err
    assert command("specs", "--files=labelled.root", "--params=p.json", "--fout=t.json").code == 0
    ended = command("train", *options, "--model=model.py", "--specs=t.json", "--fout=other")
    assert ended.code == 1
    assert "label_branch was None, is 'kind'" in ended.err
    assert "specs --labels" in ended.err


def test_specs_with_a_label_per_file(command, five_files):
    options = ("--files=files.txt", "--labels=labels.txt", "--params=params.json")
    assert command("specs", *options, "--fout=s.json").code == 0
    assert command("train", *options, "--model=model.py", "--specs=s.json").code == 0


def test_inspect_shows_rntuples_beside_trees(command, tmp_path):
    path = tmp_path / "both.root"
    with uproot.recreate(path) as file:
        file.mktree("old", {"x": "float64"}).extend({"x": np.arange(3.0)})
        file.mkrntuple("new", {"x": np.arange(2.0)})
    ended = command("inspect", path)
    assert ended.code == 0
    assert "old: 3 events" in ended.out
    assert "values per event" in ended.out
    assert "min / mean / max" in ended.out
    assert "new: 2 events" in ended.out
    ended = command("inspect", f"{path}:new")
    assert "new: 2 events" in ended.out
    assert "old" not in ended.out


def test_export_writes_what_a_model_sees(command, five_files):
    options = ("--files=files.txt", "--labels=labels.txt", "--params=params.json")
    ended = command("export", *options, "--out=e.npz")
    assert ended.code == 0, ended.err
    with np.load(five_files / "e.npz") as found:
        events, columns = found["x"].shape
        assert set(found["y"]) == {0, 1}
    assert f"e.npz: {events} events, {columns} columns" in ended.out
    ended = command("export", *options, "--out=./signal.root")
    assert ended.code == 2
    assert "is one of the files to read" in ended.err
    ended = command("export", *options, "--out=e.csv")
    assert ended.code == 2
    assert "unknown ending '.csv'" in ended.err
    assert "specs" not in ended.err  # no file was scanned for it


def test_specs_warn_of_what_they_leave_out(command, tmp_path):
    texts = ak.Array(["a", "b", "c"])
    with uproot.recreate(tmp_path / "t.root") as file:
        file.mktree("Events", {"x": "float64", "name": ak.type(texts).content})
        file["Events"].extend({"x": np.arange(3.0), "name": texts})
    (tmp_path / "p.json").write_text(
        '{"selected_branches": ["x", "n*"], "exclude_branches": ["x*"]}'
    )
    ended = command(
        "specs", f"--files={tmp_path}/t.root", f"--params={tmp_path}/p.json",
        f"--fout={tmp_path}/s.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert "1 branch can't be used: name (of type " in said
    assert "exclude_branches: 'x*' leaves nothing out" in said


def test_inspect_draws_what_is_in_every_tree(command, tmp_path):
    path, plots = tmp_path / "both.root", tmp_path / "look"
    lists = ak.Array([[1.5], [], [2.5, 4.0]])
    with uproot.recreate(path) as file:
        file.mktree("old", {"x": "float64", "pt": "var * float64"})
        file["old"].extend({"x": np.array([1.0, 2.0, np.nan]), "pt": lists})
        file.mkrntuple("new", {"x": np.arange(2)})
        file.mktree("none", {"x": "float64"})
    ended = command("inspect", f"{path}:old", f"--plot={plots}")
    assert ended.code == 0, ended.err
    assert {found.name for found in plots.iterdir()} == {
        "x.png", "pt.png", "npt.png", "distributions.root",
    }  # fmt: skip
    with uproot.open(plots / "distributions.root") as file:
        assert file["before/x/old"].values().sum() == 2
        assert file["before/pt/old"].values().sum() == 3
        assert file["length/pt/old"].values().tolist() == [1, 1, 1]
        assert not any(key.startswith("after") for key in file)
    ended = command("inspect", path, f"--plot={plots}/all")
    assert ended.code == 0, ended.err
    assert (plots / "all/new/x.png").is_file()
    assert (plots / "all/old/pt.png").is_file()
    ended = command("inspect", path, f"--plot={path}")
    assert ended.code == 2
    assert "--plot: can't write in" in ended.err


def test_specs_says_that_it_draws_nothing(command, five_files):
    write_params(five_files, hist="pdfs")
    ended = command("specs", "--files=files.txt", "--params=params.json", "--fout=s.json")
    assert ended.code == 0, ended.err
    assert "params.json: hist has no effect here: train draws" in ended.err
    assert not (five_files / "pdfs").exists()
    write_params(five_files)
    ended = command("specs", "--files=files.txt", "--params=params.json", "--fout=s.json")
    assert ended.code == 0, ended.err
    assert "hist" not in ended.err
