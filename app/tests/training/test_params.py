from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.training.params import Params

# The parameters of the talk's slide, of its workflow log and of the notebook, as they are.
SLIDE = """{
  "nevents": 30000,
  "shuffle": true,
  "chunk_size": 10000,
  "epochs": 5,
  "batch_size": 100,
  "identifier": ["runNo", "evtNo", "lumi"],
  "branch": "boostedAk8/events",
  "selected_branches": "",
  "exclude_branches": "",
  "hist": "pdfs",
  "redirector": "root://xrootd.ba.infn.it",
  "verbose": 1
}"""


def load(folder: Path, text: str | dict[str, object]) -> tuple[Params, list[str]]:
    path = folder / "params.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return Params.load(path)


def test_the_slides_parameters(tmp_path: Path) -> None:
    params, warnings = load(tmp_path, SLIDE)
    assert params.nevts == 30000
    assert params.identifier == ("runNo", "evtNo", "lumi")
    assert params.selected_branches == params.exclude_branches == ()
    assert (params.redirector, params.hist) == ("root://xrootd.ba.infn.it", "pdfs")
    assert warnings == ["params.json: 'nevents' is an old name, read as 'nevts'"]


def test_every_alias_warns(tmp_path: Path) -> None:
    params, warnings = load(tmp_path, {"nevt": 7, "root_director": "root://a"})
    assert (params.nevts, params.redirector) == (7, "root://a")
    assert [w.split("'")[1] for w in warnings] == ["nevt", "root_director"]
    with pytest.raises(UsageError, match="'nevt' and 'nevts' mean the same"):
        load(tmp_path, {"nevt": 7, "nevts": 7})


def test_defaults_are_the_prototypes(tmp_path: Path) -> None:
    params, warnings = load(tmp_path, "{}")
    assert warnings == []
    assert (params.nevts, params.chunk_size, params.batch_size, params.epochs) == (-1, 1000, 50, 10)
    assert params.shuffle is True
    assert (params.branch, params.redirector, params.seed) == ("Events", "", 21)
    assert params.identifier == ("run", "event", "luminosityBlock")
    assert params.branches == "same"
    parts = params.parts
    assert (parts.train, parts.validation, parts.test) == (0.64, 0.16, 0.20)


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_identifier_is_the_default(tmp_path: Path, empty: object) -> None:
    assert load(tmp_path, {"identifier": empty})[0].identifier[0] == "run"


def test_a_list_as_text_is_a_comma_list(tmp_path: Path) -> None:
    params, _ = load(tmp_path, {"selected_branches": "Jet_*, MET_pt,"})
    assert params.selected_branches == ("Jet_*", "MET_pt")


def test_excluded_branches_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("# counters\nnJet\n\n nMuon\nEvent*\n")
    params, _ = load(tmp_path, {"exclude_branches": "drop.txt"})
    assert params.exclude_branches == ("nJet", "nMuon", "Event*")


def test_split_as_a_number_and_as_parts(tmp_path: Path) -> None:
    parts = load(tmp_path, {"split": 0.5})[0].parts
    assert (parts.train, parts.validation, parts.test) == pytest.approx((0.4, 0.1, 0.5))
    given = {"train": 0.5, "validation": 0.25, "test": 0.25}
    parts = load(tmp_path, {"split": given})[0].parts
    assert (parts.train, parts.validation, parts.test) == (0.5, 0.25, 0.25)
    assert load(tmp_path, {"split": 0})[0].parts.test == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"epoch": 5}', r"params.json: unknown key 'epoch'\n.*'epochs'"),
        ('{"exclude_branch": []}', r"unknown key 'exclude_branch'\n.*'exclude_branches'"),
        ('{"weight": "w"}', "unknown key 'weight'\n  Use the key 'weights'"),
        ('{"Class-Weight": 1}', "unknown key 'Class-Weight'\n  Use the key 'class_balance'"),
        ('{"lr": 0.1}', "unknown key 'lr'\n  model.py sets it"),
        ('{"patience": 5}', "unknown key 'patience'\n  Use the key 'early_stopping'"),
        ('{"features": ["x"]}', "unknown key 'features'\n  Use the key 'selected_branches'"),
        ('{"tree": "Events"}', "unknown key 'tree'\n  Use the key 'branch'"),
        ('{"test_size": 0.2}', "unknown key 'test_size'\n  Use the key 'split'"),
        ('{"random_state": 1}', "unknown key 'random_state'\n  Use the key 'seed'"),
        ('{"early_stopping": {}}', "early_stopping is {}, expected an object"),
        ('{"early_stopping": {"patience": 0}}', 'early_stopping is {"patience": 0}, expected'),
        ('{"early_stopping": {"patience": 1, "delta": 1}}', "early_stopping is .*, expected"),
        ('{"early_stopping": {"patience": true}}', "early_stopping is .*, expected"),
        ('{"early_stopping": 5}', "early_stopping is 5, expected an object"),
        ('{"max_objects": 5}', "unknown key 'max_objects'\n  Use the key 'max_vec_sizes'"),
        ('{"max_vec_sizes": {"Jet": 0}}', 'max_vec_sizes is {"Jet": 0}, expected an object'),
        ('{"weights": 5}', "weights is 5, expected a branch, a list"),
        ('{"weights": {"file": []}}', "params.json: weights has the unknown part 'file'"),
        ('{"xyz": 5}', "unknown key 'xyz'"),
        ('{"AddFriend": "f.root"}', "unknown key 'AddFriend'\n  Use the key 'friends'"),
        ('{"friends": "f.root"}', 'friends is "f.root", expected an object such as'),
        ('{"friends": {"a b": "f.root"}}', "params.json: friends: 'a b' can't be the name"),
        ('{"scaler": "standard"}', "unknown key 'scaler'\n  Use the key 'normalisation'"),
        ('{"normalisation": "z"}', 'normalisation is "z", expected "minmax" or "standard"'),
        ('{"clip": {"x": [2, 1]}}', r'clip is {"x": \[2, 1\]}, expected an object of two bounds'),
        ('{"clip": {"x": [null, null]}}', "clip is .*, expected an object of two bounds"),
        ('{"clip": {"x": 3}}', "clip is .*, expected an object of two bounds"),
        (json.dumps({"missing": {"x": [1] * 21}}), "missing: 'x' has 21 values, more than 20"),
        ('{"missing": [-999]}', r"missing is \[-999\], expected an object of numbers"),
        ('{"selected_branches": "re:Jet_("}', r"'re:Jet_\(' is no regular expression: missing \)"),
        (json.dumps({"exclude_branches": "x" * 300, "epochs": 0}), "epochs is 0"),
        ('{"order": {"Jet": "Jet_pt >"}}', "order: Jet, character 9"),
        ('{"cuts": "x > 5"}', r"unknown key 'cuts'\n.*Use the key 'selection'"),
        ('{"variables": {}}', r"unknown key 'variables'\n.*Use the key 'new_variables'"),
        ('{"selection": 5}', 'selection is 5, expected a text such as "count'),
        ('{"selection": "x >"}', r"selection, character 4: invalid syntax\n  x >\n     \^"),
        ('{"objects": {"Jet": 5}}', "objects is .*, expected an object such as"),
        ('{"new_variables": {"a": "f(x)"}}', "new_variables: a, character 1: no function 'f'"),
        ('{"epochs": "5"}', r'epochs is "5", expected a whole number, at least 1'),
        ('{"epochs": 0}', "epochs is 0, expected a whole number, at least 1"),
        ('{"epochs": true}', "epochs is true, expected"),
        ('{"epochs": 2.5}', r"epochs is 2\.5, expected"),
        ('{"nevts": 0}', "nevts is 0, expected a whole number: -1 or at least 1"),
        ('{"nevts": -2}', "nevts is -2, expected"),
        ('{"shuffle": 1}', "shuffle is 1, expected true or false"),
        ('{"branch": ["a"]}', r'branch is \["a"\], expected the name of a tree'),
        ('{"selected_branches": [1]}', r"selected_branches is \[1\], expected a list"),
        ('{"selected_branches": null}', "selected_branches is null, expected a list"),
        ('{"branches": "all"}', 'branches is "all", expected "same" or "common"'),
        ('{"verbose": 3}', "verbose is 3, expected 0, 1 or 2"),
        ('{"seed": -1}', "seed is -1, expected"),
        ('{"split": 1.5}', "split"),
        ('{"split": {"train": 0.9, "validation": 0.2, "test": 0.1}}', "split"),
        ('{"split": {"train": 1, "tests": 0}}', "tests"),
        ('{"nan": NaN}', "NaN is not JSON"),
        ('{"seed": Infinity}', "Infinity is not JSON"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' is there twice"),
        ('{\n "epochs": 5,\n}', "line (3, column 1|2, column 13): not JSON"),
        ("{'epochs': 5}", "line 1, column 2: not JSON"),
        ("", "line 1, column 1: not JSON"),
        ("[1]", r"holds \[1\], expected an object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load(tmp_path, text)


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*none\.json"):
        Params.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"branch": "\xe9"}')
    with pytest.raises(UsageError, match=r"latin\.json can't be read"):
        Params.load(tmp_path / "latin.json")


def test_nan_as_a_number_warns(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, {"nan": -999})
    assert warnings == ["params.json: 'nan' has no effect: missing values become 0"]
