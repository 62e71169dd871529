from __future__ import annotations

import json

import awkward as ak
import numpy as np
import uproot


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
