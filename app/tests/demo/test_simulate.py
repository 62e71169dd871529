from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import uproot
from sklearn.metrics import roc_auc_score

from mlaas4hep.demo.simulate import write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("simulated"), n=8_000, seed=3)


def events(path):
    with uproot.open(path) as file:
        return file["events"].arrays()


def test_no_branch_alone_separates_better_than_075(files):
    mixture = events(files[2])
    truth = np.asarray(mixture["truth"])
    checked = 0
    for branch in set(mixture.fields) - {"truth"}:
        values = mixture[branch]
        if values.ndim == 1:
            columns = [np.asarray(values, float)]
        else:
            length = int(ak.max(ak.num(values)))
            padded = ak.fill_none(ak.pad_none(values, length, clip=True), 0)
            columns = list(np.asarray(padded, float).T)
        for column in columns:
            auc = roc_auc_score(truth, column)
            assert max(auc, 1 - auc) <= 0.75, branch
            checked += 1
    assert checked > 40


def test_flat_and_jagged_branches_with_counters(files):
    with uproot.open(files[0]) as file:
        types = {k: b.typename for k, b in file["events"].items()}
    assert types["MET_pt"] == "float"
    assert types["Jet_pt"] == "float[]"
    assert types["Lepton_charge"] == "int32_t[]"
    signal = events(files[0])
    assert ak.all(signal["nJet"] == ak.num(signal["Jet_pt"]))


def test_the_signal_is_a_resonance_and_the_background_is_not(files):
    def share_near_the_peak(path):
        data = events(path)
        two = data[data["nLepton"] == 2]
        pt, eta, phi = two["Lepton_pt"], two["Lepton_eta"], two["Lepton_phi"]
        mass2 = (
            2 * pt[:, 0] * pt[:, 1]
            * (np.cosh(eta[:, 0] - eta[:, 1]) - np.cos(phi[:, 0] - phi[:, 1]))
        )  # fmt: skip
        mass = np.sqrt(np.asarray(mass2))
        return np.mean(abs(mass - 125) < 15)

    assert share_near_the_peak(files[0]) > 2 * share_near_the_peak(files[1])


def test_the_same_seed_gives_the_same_files_and_another_seed_others(files, tmp_path):
    def uuids(files):
        return [str(uproot.open(file).file.uuid) for file in files]

    again = write_files(tmp_path, n=8_000, seed=3)
    assert ak.all(events(again[0])["MET_pt"] == events(files[0])["MET_pt"])
    assert uuids(again) == uuids(files)
    other = write_files(tmp_path, n=8_000, seed=4)
    assert not ak.any(events(other[0])["MET_pt"] == events(files[0])["MET_pt"])
    assert len({*uuids(other), *uuids(files)}) == 6
