"""What people get wrong: the command names file, branch or key, says what to do, loses nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import uproot

from cli.conftest import write_params

FIVE = ("--files=files.txt", "--labels=labels.txt", "--model=model.py", "--params=params.json")
SLIDE_MODEL = """\
from tensorflow import keras
from keras.models import Sequential
from keras.layers import Dense, Dropout

def model(idim):
    "Simple Keras model for testing purposes"
    ml_model = Sequential([Dense(128,
                                activation='relu', input_shape=(idim,)),
                            Dropout(0.5),
                            Dense(1, activation='sigmoid')])
    ml_model.compile(optimizer=keras.optimizers.Adam(lr=1e-3),
                    loss=keras.losses.BinaryCrossentropy(),
                    keras.metrics.AUC(name='auc'))
"""


@pytest.fixture
def refused(command, five_files):
    """Train with the five files as they are now; the command must fail and leave no bundle."""

    def run(code: int, *expected: str, options: tuple[str, ...] = FIVE) -> str:
        ended = command(*options, script="workflow.py")
        assert ended.code == code, ended.err
        for text in expected:
            assert text in ended.err
        assert "Traceback" not in ended.err
        assert not (five_files / "trained_model").exists()
        assert not list(five_files.glob("*.tar.gz"))
        return ended.err

    return run


def replace(path, data=None, **branches):
    """Put another file where the link to a simulated one was."""
    path.unlink()
    if data is not None:
        path.write_bytes(data)
        return
    with uproot.recreate(path) as file:
        file.mktree("events", {k: np.asarray(v).dtype for k, v in branches.items()})
        file["events"].extend({k: np.asarray(v) for k, v in branches.items()})


def test_no_such_file(refused, five_files):
    (five_files / "files.txt").write_text("/data/signal.root\nbackground.root\n")
    refused(1, "no such file: /data/signal.root")


def test_no_such_relative_file_mentions_the_redirector(refused, five_files):
    (five_files / "files.txt").write_text("signals.root\nbackground.root\n")
    refused(1, "signals.root", "redirector")


def test_no_such_list_of_files(refused):
    refused(2, "no such file: fils.txt", options=("--files=fils.txt", *FIVE[1:]))


def test_not_a_root_file(refused, five_files):
    replace(five_files / "signal.root", b"run,event\n1,2\n" * 100)
    refused(1, "signal.root", "not a ROOT file")


def test_an_empty_file(refused, five_files):
    replace(five_files / "signal.root", b"")
    refused(1, "signal.root", "empty")


def test_a_truncated_file(refused, five_files, simulated):
    content = (simulated / "signal.root").read_bytes()
    replace(five_files / "signal.root", content[: len(content) // 2])
    refused(1, "signal.root", "truncated")


def test_no_such_tree(refused, five_files):
    write_params(five_files, branch="event")
    refused(1, "signal.root", "'event'", "'events'")


def test_no_such_branch(refused, five_files):
    write_params(five_files, selected_branches=["MET_pt", "Jet_pT"])
    refused(2, "Jet_pT", "Jet_pt")


def test_fewer_labels_than_files(refused, five_files):
    (five_files / "labels.txt").write_text("1\n")
    refused(2, "1 label", "2 files")


def test_one_class_only(refused, five_files):
    (five_files / "labels.txt").write_text("1\n1\n")
    refused(2, "one class")


def test_params_that_are_not_json(refused, five_files):
    (five_files / "params.json").write_text('{"branch": "events",\n "epochs": 5,}')
    refused(2, "params.json", "line 2")


def test_no_params(refused, five_files):
    (five_files / "params.json").unlink()
    refused(2, "params.json")


def test_an_unknown_key_names_the_nearest(refused, five_files):
    write_params(five_files, epoch=3)
    refused(2, "params.json", "'epoch'", "'epochs'")


def test_a_wrong_value_names_key_value_and_what_is_expected(refused, five_files):
    write_params(five_files, epochs="many")
    refused(2, "epochs", '"many"', "whole number")


def test_a_model_file_without_model(refused, five_files):
    (five_files / "model.py").write_text("def modle(idim):\n    pass\n")
    refused(1, "model.py", "model(idim)")


def test_no_model_file(refused, five_files):
    (five_files / "model.py").unlink()
    refused(2, "model.py")


def test_a_model_that_raises_shows_its_line(refused, five_files):
    (five_files / "model.py").write_text("def model(idim):\n    return 1 / 0\n")
    refused(1, "model.py:2", "ZeroDivisionError")


def test_a_model_that_is_not_compiled(refused, five_files):
    (five_files / "model.py").write_text(
        "import keras\n\ndef model(idim):\n"
        "    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1)])\n"
    )
    refused(1, "model.py", "compile")


def test_the_learning_rate_of_keras_2(refused, five_files):
    (five_files / "model.py").write_text(
        "import keras\n\ndef model(idim):\n    m = keras.Sequential([keras.layers.Dense(1)])\n"
        "    m.compile(optimizer=keras.optimizers.Adam(lr=1e-3), loss='mse')\n    return m\n"
    )
    refused(1, "model.py:5", "learning_rate")


def test_the_listing_of_the_slide(refused, five_files):
    (five_files / "model.py").write_text(SLIDE_MODEL)
    refused(1, "model.py:13", "metrics=[")


def test_no_events(refused, five_files):
    for name in ("signal.root", "background.root"):
        replace(five_files / name, pt=np.array([], np.float32))
    refused(1, "no events", "signal.root")


def test_a_branch_of_nan_only(refused, five_files):
    write_params(five_files, identifier=[])
    for name in ("signal.root", "background.root"):
        replace(five_files / name, pt=np.arange(50.0), mass=np.full(50, np.nan))
    refused(1, "mass", "exclude_branches")


def test_files_whose_branches_differ(command, refused, five_files):
    write_params(five_files, identifier=[])
    rng = np.random.default_rng(1)
    replace(five_files / "signal.root", pt=rng.normal(2, 1, 400), mva=rng.random(400))
    replace(five_files / "background.root", pt=rng.normal(0, 1, 400))
    refused(1, "mva", "background.root", '"branches": "common"')
    write_params(five_files, branches="common", identifier=[])
    assert command(*FIVE, script="workflow.py").code == 0
    assert json.loads((five_files / "trained_model/columns.json").read_text()) == ["pt"]


def test_stale_specs(command, refused, five_files):
    assert command("specs", "--files=files.txt", "--fout=old.json").code == 0
    write_params(five_files, exclude_branches=["nPV"])
    refused(1, "stale specs", "exclude_branches", options=(*FIVE, "--specs=old.json"))


def test_preproc_and_other_formats(refused):
    refused(2, "--preproc", "first layers", options=(*FIVE, "--preproc=p.py"))
    refused(2, "--dtype csv", "ROOT", options=(*FIVE, "--dtype=csv"))


def test_a_folder_that_is_no_bundle_is_not_replaced(command, five_files):
    precious = five_files / "results"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    ended = command(*FIVE, "--fout=results", script="workflow.py")
    assert ended.code == 2
    assert "results exists and is not a bundle" in ended.err
    assert (precious / "thesis.tex").read_text() == "x"
