from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import onnxruntime
import pytest
import uproot
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from mlaas4hep.cli.main import app
from mlaas4hep.core.errors import DataError, LimitError, MlaasError, ModelError, UsageError
from mlaas4hep.data import TEST, Encoder, file_key, membership
from mlaas4hep.inference.events import EventTable
from mlaas4hep.models.bundle import CARD_KEYS, Bundle
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training import dataset
from mlaas4hep.training.publish import code_hash
from mlaas4hep.training.train import TrainRequest, TrainResult, train
from real.files import RealFile, each
from sources.plain import write_tree
from training.root_files import content, sorted_by_class, two, write

KERAS = """
import keras

def model(idim):
    network = keras.Sequential([
        keras.Input((idim,)),
        keras.layers.Dense(16, activation="relu"),
        {extra}
        keras.layers.Dense({outputs}, activation="{activation}"),
    ])
    network.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-2), loss="{loss}")
    return network
"""
SKLEARN = """
from sklearn.tree import DecisionTreeClassifier

def model(idim):
    return DecisionTreeClassifier(max_depth=5)
"""


def keras_model(
    outputs: int = 1,
    activation: str = "sigmoid",
    loss: str = "binary_crossentropy",
    extra: str = "",
) -> str:
    return KERAS.format(outputs=outputs, activation=activation, loss=loss, extra=extra)


def run(
    folder: Path,
    files: str,
    labels: str,
    model: str | None = None,
    fout: str = "luca_1",
    seen: list[Any] | None = None,
    request: dict[str, Any] | None = None,
    **params: Any,
) -> TrainResult:
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(keras_model() if model is None else model)
    defaults = {"epochs": 2, "batch_size": 100}
    (folder / "params.json").write_text(json.dumps(defaults | params))
    progress = (lambda *what, **figures: seen.append((what, figures))) if seen is not None else None
    asked = TrainRequest(
        files, labels, Path("model.py"), fout=Path(fout), cwd=folder, **(request or {})
    )
    return train(asked, progress) if progress else train(asked)


def answers(bundle: Path, rows: Any) -> Any:
    session = onnxruntime.InferenceSession(
        bundle / "1/model.onnx", providers=["CPUExecutionProvider"]
    )
    return session.run(["outputs"], {"inputs": rows})[0]


def test_from_five_files_to_a_bundle(tmp_path: Path) -> None:
    files = two(tmp_path)
    (tmp_path / "files.txt").write_text("# mine\nsignal.root\nbackground.root\n")
    (tmp_path / "labels.txt").write_text("1\n0\n")
    seen: list[Any] = []
    result = run(tmp_path, "files.txt", "labels.txt", seen=seen, epochs=12, identifier="run,id")

    assert result.bundle == tmp_path / "luca_1"
    assert result.archive == tmp_path / "luca_1.tar.gz"
    assert (result.servable, result.why_not, result.warnings) == (True, "", [])
    phases = list(dict.fromkeys(what[0] for what, _ in seen))
    assert phases == ["specs", "reading", "training", "testing", "publishing"]
    for phase in phases:
        assert [what for what, _ in seen if what[0] == phase][-1][1:] in [(1500, 1500), (1, 1)] or (
            phase in ("training", "testing")
        )

    bundle = Bundle.open(result.bundle, verify=True)
    assert bundle.name == "luca_1"
    assert bundle.classes == ["0", "1"]
    assert list(bundle.card) == list(CARD_KEYS)
    for name in (
        *("saved_model.pb", "variables/variables.index", "model.keras", "1/model.onnx"),
        *("config.pbtxt", "roc.png", "scores.png", "loss.png", "report.html", "history.json"),
        *("provenance/model.py", "provenance/packages.json"),
    ):
        assert name in bundle.manifest.files
    comparison = bundle.manifest.comparison
    assert comparison["rows"] >= 1000
    assert comparison["outside"] == 0
    assert (comparison["rtol"], comparison["atol"]) == (1e-4, 1e-6)

    # The metrics again: the test events through plain uproot, the specs and the served model.
    rows, truth = [], []
    for position, (file, label) in enumerate([(files[1], 1), (files[0], 0)]):
        with RootFile(str(file), "Events") as opened:
            events = opened.read([*bundle.specs.flat, *bundle.specs.jagged])
            key = file_key(position, opened.uuid)
            kept = membership(21, key, 0, opened.entries) == TEST
        mine = Encoder(bundle.specs).encode(events)[kept]
        rows.append(mine)
        truth += [label] * len(mine)
    scores = answers(result.bundle, np.concatenate(rows))
    assert result.metrics["events"] == len(truth)
    assert result.metrics["auc"] == pytest.approx(roc_auc_score(truth, scores[:, 0]), abs=1e-6)
    assert result.metrics["auc"] > 0.65
    right = ((scores[:, 0] > 0.5) == np.array(truth)).mean()
    assert result.metrics["accuracy"] == pytest.approx(right)
    assert json.loads((result.bundle / "metrics.json").read_text()) == result.metrics

    history = json.loads((result.bundle / "history.json").read_text())
    assert len(history["epochs"]["val_loss"]) == 12
    assert history["best"] == int(np.argmin(history["epochs"]["val_loss"]))

    recorded = json.loads((result.bundle / "provenance/files.json").read_text())
    for record, file, label in zip(recorded, files[::-1], ["1", "0"], strict=True):
        with uproot.open(file) as opened:
            assert record["uuid"] == str(opened.file.uuid)
            assert record["entries"] == opened["Events"].num_entries
        assert record["size"] == file.stat().st_size
        assert record["label"] == label
    for name in ("params.json", "model.py"):
        assert (result.bundle / "provenance" / name).read_bytes() == (tmp_path / name).read_bytes()
    ran = json.loads((result.bundle / "provenance/run.json").read_text())
    assert (ran["seed"], ran["code_sha256"]) == (21, code_hash())
    packages = json.loads((result.bundle / "provenance/packages.json").read_text())
    assert packages["keras"] == sys.modules["keras"].__version__
    assert packages["numpy"] == np.__version__

    with tarfile.open(result.archive) as tar:
        names = tar.getnames()
    assert {"luca_1", "luca_1/assets", "luca_1/variables", "luca_1/saved_model.pb"} <= set(names)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        *("background.root", "signal.root", "files.txt", "labels.txt", "model.py", "params.json"),
        *("global-specs.json", "luca_1", "luca_1.tar.gz"),
    }


def test_the_list_of_files_is_in_the_bundle_and_trains_again(tmp_path: Path) -> None:
    two(tmp_path)
    datasets = {
        "QCD": {"files": ["background.root"], "metadata": {"xsec": 1.9e9}},
        "TT": {"files": {"sig*.root": "Events"}},
    }
    (tmp_path / "fileset.json").write_text(json.dumps(datasets))
    first = run(tmp_path, "fileset.json", "", SKLEARN)
    listed = json.loads((first.bundle / "provenance/files.json").read_text())
    assert [(one["name"], one["tree"], one["dataset"], one["label"]) for one in listed] == [
        (f"{tmp_path}/background.root", "Events", "QCD", "QCD"),
        (f"{tmp_path}/signal.root:Events", "Events", "TT", "TT"),
    ]
    ran = json.loads((first.bundle / "provenance/run.json").read_text())
    assert ran["files"] == "fileset.json"
    assert ran["datasets"] == {"QCD": {"metadata": {"xsec": 1.9e9}}}
    again = run(tmp_path, "luca_1/provenance/files.json", "", SKLEARN, fout="luca_2")
    assert again.metrics == first.metrics


@each("zmumu")
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_three_classes_from_a_string_branch(tmp_path: Path, real: RealFile, loss: str) -> None:
    file = real.path
    result = run(
        tmp_path,
        str(file),
        "Type",
        keras_model(3, "softmax", loss),
        branch="events",
        identifier=["Run", "Event"],
        epochs=3,
    )
    with uproot.open(file) as opened:
        kinds = opened["events/Type"].array(library="np")
        names = set(opened["events"].keys()) - {"Run", "Event", "Type"}
    assert result.servable
    bundle = Bundle.open(result.bundle)
    assert bundle.classes == sorted(set(kinds)) == ["GG", "GT", "TT"]
    assert bundle.columns == sorted(names)
    counts = json.loads((result.bundle / "provenance/run.json").read_text())["events"]
    for name in bundle.classes:
        assert sum(counts[name].values()) == int((kinds == name).sum())
        assert counts[name]["test"] == result.metrics["classes"][name]["events"]
    rows = np.random.default_rng(1).uniform(0, 1, (5, len(names))).astype(np.float32)
    np.testing.assert_allclose(answers(result.bundle, rows).sum(axis=1), 1, rtol=1e-5)
    (history,) = [json.loads((result.bundle / "history.json").read_text())["epochs"]]
    assert history["loss"][-1] < history["loss"][0] < 1.5


@each("hzz")
def test_scikit_learn_with_a_counter_as_label(tmp_path: Path, real: RealFile) -> None:
    file = real.path
    result = run(
        tmp_path,
        str(file),
        "NMuon",
        SKLEARN,
        branch="events",
        exclude_branches="MC*,Electron_*,N*",
        fout="hzz",
    )
    assert result.servable, result.why_not
    bundle = Bundle.open(result.bundle, verify=True)
    assert bundle.manifest.framework == "scikit-learn"
    assert "model.pkl" in bundle.manifest.files
    assert "saved_model.pb" not in bundle.manifest.files
    assert bundle.card["model"] == "1/model.onnx"
    assert "loading it runs code" in bundle.card["description"]
    with uproot.open(file) as opened:
        label = opened["events/NMuon"].array(library="np")
    counts = json.loads((result.bundle / "provenance/run.json").read_text())["events"]
    assert [sum(c.values()) for c in counts.values()] == np.bincount(label).tolist()
    assert bundle.classes == ["0", "1", "2", "3", "4"]


@each("nanoaod")
def test_branches_by_name_and_wildcard_of_nanoaod(tmp_path: Path, real: RealFile) -> None:
    file = real.path
    result = run(
        tmp_path,
        str(file),
        "HLT_IsoMu20",
        selected_branches=["MET_pt", "Jet_[pe]*", "nJet"],
        epochs=1,
        batch_size=20,
    )
    with uproot.open(file) as opened:
        tree = opened["Events"]
        jets = sorted(name for name in set(tree.keys()) if name.startswith(("Jet_p", "Jet_e")))
        longest = int(tree["nJet"].array(library="np").max())
    expected = ["MET_pt", "nJet", *(f"{name}_{i}" for name in jets for i in range(longest))]
    assert Bundle.open(result.bundle).columns == expected
    assert Bundle.open(result.bundle).manifest.comparison["rows"] >= 202


def test_the_same_seed_gives_the_same_training(tmp_path: Path) -> None:
    two(tmp_path)
    found = []
    for name in ("a", "b"):
        result = run(tmp_path, "signal.root,background.root", "1,0", fout=name, seed=3)
        (tmp_path / "global-specs.json").unlink()
        rows = np.random.default_rng(0).uniform(0, 1, (9, len(Bundle.open(result.bundle).columns)))
        found.append((result.metrics, answers(result.bundle, rows.astype(np.float32)).tobytes()))
    assert found[0] == found[1]


NOT_SERVABLE = {
    "no counterpart": (
        keras_model(extra="keras.layers.Lambda(twice, output_shape=(16,)),").replace(
            "def model",
            "import tensorflow as tf\n"
            "def twice(x):\n"
            "    y = tf.numpy_function(lambda a: 2 * a, [x], tf.float32)\n"
            "    y.set_shape((None, 16))\n"
            "    return y\n\n"
            "def model",
        ),
        "it can't become ONNX",
    ),
    "disagrees": (
        "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis\n"
        "def model(idim):\n    return LinearDiscriminantAnalysis()\n",
        "ONNX and the native model differ by up to",
    ),
    "draws random numbers": (
        keras_model(extra="Noise(),").replace(
            "def model",
            "import tensorflow as tf\n"
            "class Noise(keras.layers.Layer):\n"
            "    def call(self, x):\n"
            "        return x + tf.random.normal(tf.shape(x))\n\n"
            "def model",
        ),
        "ONNX and the native model differ by up to",
    ),
    "random by a state": (
        keras_model(extra="Noise(),").replace(
            "def model",
            "class Noise(keras.layers.Layer):\n"
            "    def call(self, x):\n"
            "        return x + keras.random.normal((16,), stddev=0.5)\n\n"
            "def model",
        ),
        "ONNX and the native model differ by up to",
    ),
}


@pytest.mark.parametrize("what", NOT_SERVABLE)
def test_a_model_that_cannot_be_served_is_trained_all_the_same(tmp_path: Path, what: str) -> None:
    model, why = NOT_SERVABLE[what]
    two(tmp_path)
    result = run(
        tmp_path, "signal.root,background.root", "1,0", model, identifier="run,id,constant"
    )
    assert not result.servable
    assert why in result.why_not
    bundle = Bundle.open(result.bundle, verify=True)
    assert not bundle.servable
    assert bundle.manifest.why_not == result.why_not
    assert not (result.bundle / "1").exists()
    assert not (result.bundle / "config.pbtxt").exists()
    assert "Not servable" in (result.bundle / "report.html").read_text()
    assert result.metrics["events"] > 200


def test_bad_requests_leave_nothing(tmp_path: Path) -> None:
    two(tmp_path)
    broken = tmp_path / "broken.root"
    broken.write_bytes((tmp_path / "signal.root").read_bytes()[:3000])
    (tmp_path / "text.root").write_text("hello, this is no ROOT file")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("x")
    good = "signal.root,background.root"
    cases: list[tuple[dict[str, Any], type[MlaasError], str]] = [
        ({"request": {"dtype": "csv"}}, UsageError, "--dtype csv is not supported"),
        (
            {"request": {"preproc": Path("p.py")}},
            UsageError,
            r"--preproc p\.py: .*\n.*new_variables.*first layers",
        ),
        ({"request": {"name": "a-b"}}, UsageError, "'a-b' can't be the name of a model"),
        ({"fout": "taken"}, UsageError, "taken exists and is not a bundle"),
        ({"fout": "signal.root"}, UsageError, r"signal\.root exists and is not a bundle"),
        ({"epoch": 1}, UsageError, "unknown key 'epoch'"),
        ({"files": "signl.root,background.root"}, DataError, r"no such file: .*signl\.root"),
        ({"files": "/none/a.root,background.root"}, DataError, r"no such file: /none/a\.root"),
        ({"files": "broken.root,background.root"}, DataError, r"broken\.root is truncated"),
        ({"files": "text.root,background.root"}, DataError, r"text\.root is not a ROOT file"),
        ({"branch": "Event"}, DataError, r"no tree 'Event'\n.*'Events'"),
        ({"selected_branches": ["mte"]}, UsageError, r"no branch 'mte'.*\n.*'met'"),
        ({"labels": "1"}, UsageError, "1 label for 2 files"),
        ({"request": {"specs": Path("none.json")}}, DataError, r"no such file: .*none\.json"),
        ({"model": "def modell(i): pass"}, ModelError, r"model\.py has no function model"),
        ({"model": "def model(i): return i / 0"}, ModelError, r"model\.py:1: model\(14\) failed"),
        ({"model": "def model(i): return 3"}, ModelError, "returned a builtins.int"),
        ({"model": keras_model(3, "softmax")}, ModelError, "output has 3 columns"),
        ({"model": keras_model(loss="nonesuch")}, ModelError, r"model\.py.*nonesuch"),
    ]
    before = {path.name for path in tmp_path.iterdir()} | {"model.py", "params.json"}
    for change, error, match in cases:
        what: dict[str, Any] = {"files": good, "labels": "1,0"} | change
        with pytest.raises(error, match=match):
            run(tmp_path, **what)
        left = {path.name for path in tmp_path.iterdir()} - {"global-specs.json"}
        assert left <= before, match


IMPROPER = """
from sklearn.dummy import DummyClassifier

class Own(DummyClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X) * {factor}

def model(idim):
    return Own(strategy="stratified", random_state=0)
"""


@pytest.mark.parametrize(
    ("factor", "labels", "match"),
    [
        (1.5, "1,0", "not a probability: the model answers 1.5"),
        (-1, "1,0", "not a probability: the model answers -1"),
        (0.5, "1,0,2", "add up to 0.5, not to 1"),
    ],
)
def test_answers_that_are_no_probabilities_after_the_training(
    tmp_path: Path, factor: float, labels: str, match: str
) -> None:
    two(tmp_path)
    write(tmp_path / "third.root", content(500, 9))
    files = "signal.root,background.root" + (",third.root" if "2" in labels else "")
    model = IMPROPER.format(factor=factor)
    with pytest.raises(ModelError, match=match) as found:
        run(tmp_path, files, labels, model)
    assert "predict_proba" in found.value.remedy
    assert not (tmp_path / "luca_1").exists()


def test_an_output_that_is_no_probability_is_refused_before_the_training(tmp_path: Path) -> None:
    two(tmp_path)
    seen: list[Any] = []
    model = keras_model(activation="linear", loss="mse")
    with pytest.raises(ModelError, match=r"model\.py: the output is not a probability"):
        run(tmp_path, "signal.root,background.root", "1,0", model, seen=seen)
    assert "training" not in {what[0] for what, _ in seen}


def test_a_class_that_is_never_found_is_named_with_its_efficiency(tmp_path: Path) -> None:
    write(tmp_path / "few.root", content(60, 1))
    write(tmp_path / "many.root", content(9000, 2))
    result = run(tmp_path, "few.root,many.root", "1,0", SKLEARN, identifier="run,id")
    found = result.metrics["classes"]["1"]
    assert found["efficiency"] == found["right"] / found["events"]
    (warning,) = [w for w in result.warnings if "the class '1'" in w]
    trained = json.loads((result.bundle / "provenance/run.json").read_text())["events"]
    share = trained["1"]["train"] / (trained["1"]["train"] + trained["0"]["train"])
    assert f"has {share:.2%} of the training events" in warning
    assert (
        warning.replace("'", "&#39;").replace('"', "&#34;")
        in (result.bundle / "report.html").read_text()
    )
    assert f"<td>{found['efficiency']:.4f}</td>" in (result.bundle / "report.html").read_text()


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    two(tmp_path)
    first = run(tmp_path, "signal.root,background.root", "1,0", SKLEARN)
    digest = hashlib.sha256(first.archive.read_bytes()).hexdigest()
    second = run(tmp_path, "signal.root,background.root", "1,0", SKLEARN, seed=5)
    assert second.bundle == first.bundle
    assert hashlib.sha256(second.archive.read_bytes()).hexdigest() != digest
    Bundle.open(second.bundle, verify=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_name_of_the_folder_becomes_a_models_name(tmp_path: Path) -> None:
    two(tmp_path)
    result = run(tmp_path, "signal.root,background.root", "1,0", SKLEARN, fout="out/my-model.v2")
    assert result.bundle == tmp_path / "out/my-model.v2"
    assert Bundle.open(result.bundle).name == "my_model_v2"
    assert "named my_model_v2" in result.warnings[0]
    result = run(
        tmp_path, "signal.root,background.root", "1,0", SKLEARN, request={"name": "luca_7"}
    )
    assert Bundle.open(result.bundle).name == "luca_7"


def test_without_a_test_part_there_are_no_metrics(tmp_path: Path) -> None:
    two(tmp_path)
    result = run(
        tmp_path, "signal.root,background.root", "1,0", SKLEARN, split=0, identifier="run,id"
    )
    assert result.metrics["auc"] is None
    assert result.warnings == ["the test part is empty: there are no metrics"]


LARGE = keras_model(extra="keras.layers.Dense(2000), keras.layers.Dense(16),")


@pytest.fixture(scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that a first training writes elsewhere, such as lists of fonts, is written."""
    folder = tmp_path_factory.mktemp("warm")
    two(folder)
    run(folder, "signal.root,background.root", "1,0", LARGE, epochs=1)


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("limit", [1_000, 20_000, 200_000])
def test_a_full_disk_says_where_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    two(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(LimitError, match=f"can't be written in {tmp_path}: ") as found:
            run(tmp_path, "signal.root,background.root", "1,0", LARGE, epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Make room" in found.value.remedy
    assert not [p.name for p in tmp_path.iterdir() if "luca" in p.name or p.name[0] == "."]


@pytest.mark.parametrize("clusters", [1, 50])
@pytest.mark.parametrize("framework", ["keras", "partial_fit"])
def test_a_sorted_file_gives_the_same_model_whatever_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str, clusters: int
) -> None:
    """One file, a class after the other, and a mixing buffer that holds a third of the events."""
    monkeypatch.setattr(dataset, "MIX_BYTES", 0)
    sorted_by_class(tmp_path / "sorted.root", clusters)
    sgd = """
from sklearn.linear_model import SGDClassifier

def model(idim):
    return SGDClassifier(loss="log_loss")
"""
    areas = []
    for size in (0, 300_000, 1 << 30):
        result = run(
            tmp_path,
            "sorted.root",
            "lab",
            keras_model() if framework == "keras" else sgd,
            request={"cache_bytes": size},
            epochs=3,
            batch_size=50,
            exclude_branches=["entry"],
        )
        areas.append(result.metrics["auc"])
        assert result.warnings == []
    assert max(areas) - min(areas) < 0.01
    assert min(areas) > 0.9


def test_tensorflow_is_quiet_and_user_code_runs_in_this_process_only(tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / "model.py").write_text(keras_model() + "\nimport os\nprint('pid', os.getpid())\n")
    (tmp_path / "params.json").write_text('{"epochs": 1, "nevts": 300}')
    code = (
        "import os; from pathlib import Path;"
        "from mlaas4hep.training.train import TrainRequest, train;"
        "print('pid', os.getpid());"
        "train(TrainRequest('signal.root,background.root', '1,0', Path('model.py')))"
    )
    path = str(Path(sys.modules["mlaas4hep"].__file__ or "").parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    first, second = ran.stdout.splitlines()
    assert first == second
    assert ran.stderr == ""
    assert (tmp_path / "trained_model/bundle.json").exists()


@each("nanoaod")
def test_cuts_and_new_variables_are_the_same_in_training_file_and_service(
    tmp_path: Path, real: RealFile
) -> None:
    cuts = {
        "objects": {"Jet": "Jet_pt > 20 and abs(Jet_eta) < 2.4"},
        "new_variables": {
            "HT": "sum(Jet_pt)",
            "dphi": "abs(delta_phi(Jet_phi[0], MET_phi))",
            "ratio": "Jet_pt / HT",
        },
        "selection": "count(Jet_pt) >= 1 and MET_pt > 10",
        "order": {"Jet": "abs(Jet_eta)"},
        "missing": {"nMuon": 7},
        "clip": {"ratio": [None, 0.8]},
        "normalisation": "standard",
        "mask": True,
        "observers": ["run", "MET_sumE*"],
        "identifier": ["event"],
    }
    label = "HLT_IsoMu20"
    branches = ["Jet_eta", "nMuon"]
    result = run(
        tmp_path, str(real.path), label, SKLEARN, selected_branches=branches, **cuts
    )  # fmt: skip
    bundle = Bundle.open(result.bundle)
    assert set(bundle.specs.flat) == {"nMuon", "HT", "dphi"}
    assert set(bundle.specs.jagged) == {"Jet_eta", "ratio"}
    events_in = json.loads((result.bundle / "provenance/run.json").read_text())["cut_flow"]
    assert [step["cut"] for step in events_in] == ["all", "count(Jet_pt) >= 1", "MET_pt > 10"]
    assert result.cut_flow == events_in
    assert events_in[0]["events"] > events_in[1]["events"] > events_in[2]["events"]
    assert events_in[-1]["events"] == bundle.specs.scanned
    assert "MET_pt &gt; 10" in (result.bundle / "report.html").read_text()

    needed = [name for names in bundle.specs.inputs for name in names]
    assert set(needed) == {"MET_phi", "nMuon", "Jet_pt", "Jet_eta", "Jet_phi"}
    with uproot.open(real.path) as file:
        events, met = file["Events"].arrays(needed), file["Events/MET_pt"].array()
    with RootFile(str(real.path), "Events") as file:
        read = file.read(needed)
    rows = Encoder(bundle.specs).encode(read)
    sent = EventTable(json.loads(json.dumps(events.to_list())), bundle.specs)
    new = [i for i, name in enumerate(bundle.columns) if name.startswith(("HT", "dphi", "ratio"))]
    served = Encoder(bundle.specs).encode(sent.read(0, len(sent)))
    np.testing.assert_array_equal(served[:, new].view(np.int32), rows[:, new].view(np.int32))
    np.testing.assert_allclose(served, rows, rtol=1e-6, atol=1e-6)
    # As clients print float32: in decimal, as short as can be.
    short = [
        {name: np.vectorize(lambda x: float(str(np.float32(x))), otypes=[float])(value).tolist()
         for name, value in event.items()}
        for event in events[:50].to_list()
    ]  # fmt: skip
    served = Encoder(bundle.specs).encode(EventTable(short, bundle.specs).read(0, 50))
    np.testing.assert_array_equal(served[:, new].view(np.int32), rows[:50, new].view(np.int32))

    pt, eta = (ak.values_astype(events[f"Jet_{k}"], np.float64) for k in ("pt", "eta"))
    good = (pt > 20) & (abs(eta) < 2.4)
    selected = ak.any(good, axis=1) & (met > 10)

    def predict(file: Path, *options: str) -> Any:
        fout = tmp_path / "scores.root"
        command = ["predict", "--model", result.bundle, "--files", file, "--fout", fout, *options]
        ended = CliRunner().invoke(app, list(map(str, command)))
        if ended.exception:
            raise ended.exception
        assert "--no-selected" in options or "in the training" not in ended.stderr
        with uproot.open(fout) as scores:
            return scores["scores"].arrays()

    scores = predict(real.path)
    np.testing.assert_array_equal(scores.selected, selected)
    assert ak.sum(selected) == bundle.specs.scanned
    np.testing.assert_array_equal(scores.score_1, answers(result.bundle, rows)[:, 0])
    with uproot.open(real.path) as file:
        kept = file["Events"].arrays(["run", "MET_sumEt"])
    assert scores.fields == ["score_1", "selected", "run", "MET_sumEt"]
    np.testing.assert_array_equal(scores.run, kept.run)
    assert scores.run.type.content.primitive == "int64"
    np.testing.assert_array_equal(scores.MET_sumEt, kept.MET_sumEt)
    slim = write_tree(tmp_path / "slim.root", "Events", {name: events[name] for name in needed})
    with pytest.raises(DataError, match=r"'MET_pt' .* the selection needs it") as error:
        predict(slim, "--no-observers")
    assert "--no-selected" in error.value.remedy
    with pytest.raises(DataError, match=r"'run', 'MET_sumEt' .* the output needs them") as error:
        predict(slim, "--no-selected")
    assert "--no-observers" in error.value.remedy
    unmarked = predict(slim, "--no-selected", "--no-observers")
    assert unmarked.fields == ["score_1"]
    np.testing.assert_array_equal(unmarked.score_1, scores.score_1)
