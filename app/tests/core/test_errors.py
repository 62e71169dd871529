from __future__ import annotations

from mlaas4hep.core.errors import MlaasError, did_you_mean, nearest


def test_nearest_ignores_case_and_puts_the_best_first():
    assert nearest("jet_PT", ["Jet_eta", "Jet_pt", "Muon_pt"])[0] == "Jet_pt"


def test_far_names_are_listed_when_none_is_near():
    assert did_you_mean("zzz", ["alpha", "beta"]) == "There are: 'alpha', 'beta'."
    assert did_you_mean("zzz", []) == "There are none."


def test_long_lists_are_cut():
    text = did_you_mean("zzz", [f"name{i}" for i in range(50)])
    assert text.count("name") == 10
    assert text.endswith("...")


def test_an_error_shows_its_remedy():
    assert str(MlaasError("it broke", "mend it")) == "it broke\n  mend it"
