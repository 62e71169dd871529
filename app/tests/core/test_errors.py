from __future__ import annotations

import random
import time

import pytest

from mlaas4hep.core.errors import MlaasError, did_you_mean, first_line, nearest


def test_nearest_ignores_case_and_puts_the_best_first():
    assert nearest("jet_PT", ["Jet_eta", "Jet_pt", "Muon_pt"])[0] == "Jet_pt"


def test_far_names_are_listed_when_none_is_near():
    assert did_you_mean("zzz", ["alpha", "beta"]) == "There are: 'alpha', 'beta'."
    assert did_you_mean("zzz", []) == "There are none."


def test_long_lists_are_cut():
    text = did_you_mean("zzz", [f"name{i}" for i in range(50)])
    assert text.count("name") == 10
    assert text.endswith("...")


@pytest.mark.parametrize("text", ["", " \n "])
def test_an_error_that_says_nothing_has_its_class_as_first_line(text):
    assert first_line(ValueError(text)) == "ValueError"
    assert first_line(ValueError(f"{text}why\nand more")) == "ValueError: why"


def test_an_error_shows_its_remedy():
    assert str(MlaasError("it broke", "mend it")) == "it broke\n  mend it"


@pytest.mark.hostile("one misspelt name among many long ones")
@pytest.mark.parametrize(("names", "letters"), [(600, 300), (4500, 180)])
def test_no_choice_of_names_makes_the_suggestion_slow(names, letters):
    chance = random.Random(1)
    known = ["".join(chance.choices("ab", k=letters)) + str(i) for i in range(names)]
    asked = "".join(chance.choices("ab", k=letters))
    begun = time.process_time()
    did_you_mean(asked, known)
    assert time.process_time() - begun < 1.0  # it took 4.9 s for the first, 47 s for the second


def test_long_names_that_differ_at_an_end_are_told_apart():
    known = [f"data/{'x' * 200}/file_{i}.root" for i in range(5)]
    assert nearest(f"data/{'x' * 200}/file_3.rot", known)[0] == known[3]
