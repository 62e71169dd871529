from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
from sklearn.metrics import r2_score, root_mean_squared_error
from typer.testing import CliRunner

from mlaas4hep.cli.main import app
from mlaas4hep.core.errors import BundleError, DataError, MlaasError, ModelError, UsageError
from mlaas4hep.data import TEST, TRAIN, Encoder, file_key, membership
from mlaas4hep.inference.offline import LocalAnswers, predict_files
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.models.repository import Repository
from mlaas4hep.report.distributions import ROOT_FILE
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training.export import export
from mlaas4hep.training.library import open_data
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import scan_files
from mlaas4hep.web.tfaas.tfaas_pb2 import Predictions, Row
from support.tfaas_process import tfaas_process
from training.root_files import write
from training.tasks import prepared, streamed
from training.test_train import answers, run

KERAS = """
import keras

def model(idim):
    network = keras.Sequential([
        keras.Input((idim,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense({outputs}{activation}),
    ])
    network.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-2), loss="{loss}")
    return network
"""
SKLEARN = """
import sklearn.ensemble, sklearn.linear_model, sklearn.neural_network, sklearn.svm

def model(idim):
    return sklearn.{}
"""
TREES = SKLEARN.format("ensemble.HistGradientBoostingRegressor(max_iter=40, random_state=1)")
LINEAR = SKLEARN.format("linear_model.LinearRegression()")
STREAMED = SKLEARN.format("linear_model.SGDRegressor('squared_error', eta0=0.1, random_state=1)")


def keras(outputs: int = 1, activation: str = "", loss: str = "mse") -> str:
    shown = activation and f', activation="{activation}"'
    return KERAS.format(outputs=outputs, activation=shown, loss=loss)


def energies(events: int, seed: int) -> dict[str, Any]:
    """``energy``, in GeV, is a known function of x, u and the jets, with 5 GeV of noise."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, events)
    jets = ak.unflatten(random.uniform(20, 60, counts.sum()).astype(np.float32), counts)
    x, u = random.normal(0, 1, events), random.uniform(0, 1, events).astype(np.float32)
    energy = 500 + 80 * x + 60 * u + 0.5 * ak.to_numpy(ak.sum(jets, axis=1))
    return {
        "run": np.full(events, seed, np.int32),
        "seven": np.full(events, 7, np.int32),
        "x": x,
        "u": u,
        "jet_pt": jets,
        "gen": random.choice([2.0, 1.0, -0.5], events, p=[0.25, 0.5, 0.25]),
        "energy": energy + random.normal(0, 5, events),
    }


def files_of(folder: Path, **bad: float) -> list[Path]:
    """Two files; ``bad`` are values for an event in 50 of the first."""
    folder.mkdir(exist_ok=True)
    first = energies(1200, 1)
    for place, value in enumerate(bad.values()):
        first["energy"][place::50] = value
    return [write(folder / "a.root", first), write(folder / "b.root", energies(800, 2))]


def joined(files: list[Path]) -> str:
    return ",".join(map(str, files))


def truth_of(files: list[Path], branch: str = "energy") -> np.ndarray:
    found = []
    for file in files:
        with uproot.open(file) as opened:
            found.append(opened[f"Events/{branch}"].array(library="np"))
    return np.concatenate(found)


def predicted(bundle: Bundle, files: list[Path]) -> np.ndarray:
    local = LocalAnswers(bundle)
    branches = [name for names in bundle.specs.inputs for name in names]
    names = list(map(str, files))
    found = [s for s, _ in predict_files(names, "Events", [*branches, *local.branches], local)]
    return np.concatenate(found)[:, 0]


def held_of(files: list[Path]) -> np.ndarray:
    masks = []
    for position, file in enumerate(files):
        with RootFile(str(file), "Events") as opened:
            key = file_key(position, opened.uuid)
            masks.append(membership(21, key, 0, opened.entries) == TEST)
    return np.concatenate(masks)


@pytest.mark.parametrize(
    ("model", "epochs", "weights"),
    [(keras(), 12, "gen"), (TREES, 1, "gen"), (STREAMED, 30, "gen"), (LINEAR, 1, [2, 0.5])],
    ids=["keras", "trees", "streamed", "linear"],
)
def test_a_known_function_is_learnt_in_its_own_units(
    tmp_path: Path, model: str, epochs: int, weights: Any
) -> None:
    files = files_of(tmp_path)
    result = run(
        tmp_path, joined(files), "", model, target="energy", epochs=epochs, weights=weights,
        exclude_branches=["gen", "njet_pt", "seven"], early_stopping={"patience": 5},
    )  # fmt: skip
    assert result.servable, result.why_not
    bundle = Bundle.open(result.bundle, verify=True)
    names = [name for names in bundle.specs.inputs for name in names]
    assert names == ["u", "x", "jet_pt"]

    # The metrics again, by scikit-learn, from what is served.
    held = held_of(files)
    w = truth_of(files, "gen") if weights == "gen" else np.repeat(weights, (1200, 800))
    true, found = truth_of(files)[held], predicted(bundle, files)[held]
    metrics = result.metrics
    assert metrics["events"] == held.sum()
    r2 = r2_score(true, found, sample_weight=w[held])
    rmse = root_mean_squared_error(true, found, sample_weight=w[held])
    assert metrics["r2"] == pytest.approx(r2, abs=1e-5)
    assert metrics["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert r2 > 0.97
    assert json.loads((result.bundle / "metrics.json").read_text()) == metrics

    # The scale is that of the training events, all forms of the model answer beyond it.
    target = bundle.manifest.target
    assert target is not None
    trained = []
    for position, file in enumerate(files):
        with RootFile(str(file), "Events") as opened:
            key = file_key(position, opened.uuid)
            trained.append(membership(21, key, 0, opened.entries) == TRAIN)
    of_training = truth_of(files)[np.concatenate(trained)]
    assert (target.mean, target.std) == pytest.approx((of_training.mean(), of_training.std()))
    assert bundle.classes == []
    assert (bundle.path / "labels.txt").read_text() == "prediction\n"
    assert "prediction = energy, in its own units" in bundle.card["description"]
    for text in (json.dumps(bundle.card), (bundle.path / "report.html").read_text()):
        assert "probab" not in text
    pictures = {"predicted.png", "residuals.png", "profile.png", "loss.png"}
    assert {p.name for p in bundle.path.glob("*.png")} == pictures
    assert not result.warnings or epochs == 1


@pytest.mark.parametrize("labels", [[], ["--labels="]], ids=["none", "empty"])
def test_the_command_needs_no_labels(tmp_path: Path, monkeypatch: Any, labels: list[str]) -> None:
    files = files_of(tmp_path, a=np.nan)
    (tmp_path / "model.py").write_text(LINEAR)
    (tmp_path / "params.json").write_text('{"target": "energy"}')
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(
        app, ["train", "--files", joined(files), "--model", "model.py", "--fout", "out", *labels]
    )
    assert ended.exit_code == 0, ended.output
    assert "1976 events: energy is a number" in ended.output
    assert "24 of 2000 events have no target" in ended.output
    assert "rmse     " in ended.output
    assert "prediction = energy, in its own units" in ended.output


def test_the_native_models_answer_as_the_card_says(tmp_path: Path) -> None:
    import joblib
    import tensorflow as tf

    files = files_of(tmp_path)
    rows = np.random.default_rng(1).random((50, 8), np.float32)
    bundle = Bundle.open(run(tmp_path, joined(files), "", LINEAR, target="energy").bundle)
    target = bundle.manifest.target
    assert target is not None
    raw = joblib.load(bundle.path / "model.pkl").predict(rows)
    np.testing.assert_allclose(
        raw * target.std + target.mean, answers(bundle.path, rows)[:, 0], rtol=1e-6
    )
    assert f"(energy - {target.mean:.9g}) / {target.std:.9g}" in bundle.card["description"]

    bundle = Bundle.open(run(tmp_path, joined(files), "", keras(), target="energy").bundle)
    served = tf.saved_model.load(str(bundle.path)).signatures["serving_default"]
    (found,) = served(tf.constant(rows)).values()
    np.testing.assert_allclose(found.numpy(), answers(bundle.path, rows), rtol=1e-5)


def test_every_way_to_predict_gives_the_same(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    params = {
        "target": "energy", "selection": "u < 0.8", "observers": ["energy"],
        "selected_branches": ["x", "u", "jet_pt"],
    }  # fmt: skip
    result = run(tmp_path, joined(files), "", keras(), epochs=2, **params)
    bundle = Bundle.open(result.bundle)
    observed = result.metrics["observers"]["energy"]
    assert observed["events"] == result.metrics["events"]
    assert list(observed["classes"]) == ["all"]
    assert "mean residual by energy" in (bundle.path / "report.html").read_text()
    offline = predicted(bundle, files)
    out = tmp_path / "scores.root"
    command = ["predict", "--model", str(bundle.path), "--files", joined(files)]
    ended = CliRunner().invoke(app, [*command, "--fout", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "prediction = energy, in its own units" in ended.stderr
    with uproot.open(out) as opened:
        tree = opened["scores"].arrays(library="np")
    assert list(tree) == ["prediction", "selected", "energy"]
    assert tree["prediction"].tobytes() == offline.tobytes()

    # One batch each: how a product of matrices is summed depends on the number of rows.
    events = energies(100, 3)
    offline = predicted(bundle, [write(tmp_path / "few.root", events)])
    content = {name: ak.to_list(events[name]) for name in ("x", "u", "jet_pt")}
    with RootFile(str(tmp_path / "few.root"), "Events") as file:
        row = Encoder(bundle.specs).encode(file.read(["x", "u", "jet_pt"], 0, 1))[0]
    Repository(tmp_path / "store/models").put(bundle.path, "luca_1")
    with tfaas_process(tmp_path / "store") as service:
        answer = service.http.post(
            "/predict/events", json={"model": "luca_1", "events": content}
        ).json()
        assert answer["classes"] == []
        served = np.array(answer["predictions"], np.float32)[:, 0]
        assert served.tobytes() == offline.tobytes()
        of_row = service.predict(row.tolist(), "luca_1").json()
        assert of_row == pytest.approx(offline[:1], rel=1e-6)
        message = Row(value=row.tolist(), model="luca_1").SerializeToString()
        raw = service.http.post("/proto", content=message).content
        (one,) = Predictions.FromString(raw).prediction
        assert one.label == "prediction"
        assert np.float32(one.probability) == np.float32(of_row[0])
        page = service.http.get("/", headers={"accept": "text/html"}).text
        assert "prediction = energy, in its own units" in page
        assert "R² " in page
        assert "probab" not in page


def test_an_event_of_the_training_files_gets_its_out_of_fold_value(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    result = run(
        tmp_path, joined(files), "", LINEAR, target="energy", split={"folds": 3}, hist="plots",
        selected_branches=["x", "u", "jet_pt"],
    )  # fmt: skip
    bundle = Bundle.open(result.bundle, verify=True)
    true, out_of_fold = truth_of(files), predicted(bundle, files)
    assert result.metrics["events"] == len(true)
    assert result.metrics["r2"] == pytest.approx(r2_score(true, out_of_fold), abs=1e-6)
    target = bundle.manifest.target
    assert target is not None
    assert (target.mean, target.std) == pytest.approx((true.mean(), true.std()))
    with RootFile(str(files[0]), "Events") as file:
        rows = Encoder(bundle.specs).encode(file.read(["x", "u", "jet_pt"]))
    mean = answers(bundle.path, rows)[:, 0]
    assert 0 < np.abs(mean - out_of_fold[:1200]).max() < 3  # GeV
    with uproot.open(tmp_path / "plots" / ROOT_FILE) as found:
        assert found["before/x/all"].values(flow=True).sum() == 2000
        before, after = found["before/energy/all"], found["after/energy/all"]
        edges = np.linspace(true.min(), true.max(), 51)
        np.testing.assert_allclose(before.axis().edges(), edges)
        assert before.values(flow=True).tolist() == [0, *np.histogram(true, edges)[0], 0]
        scaled = (edges - true.mean()) / true.std()
        np.testing.assert_allclose(after.axis().edges(), scaled, atol=1e-5)
        assert after.values(flow=True).sum() == 2000
    assert (tmp_path / "plots/energy.png").is_file()


def test_events_without_a_target_are_left_out_and_counted(tmp_path: Path, stack: ExitStack) -> None:
    files = files_of(tmp_path, a=np.nan, b=np.inf, c=-999)
    whole = prepared(stack, files_of(tmp_path / "good"), [], target="energy")
    assert (whole.cut_flow, whole.warnings) == (None, [])

    task = prepared(
        stack, files, [], target="energy", selection="u < 0.5", missing={"energy": -999}
    )
    kept, last = task.cut_flow.as_list()[1:]  # type: ignore[union-attr]
    lost = kept["events"] - last["events"]  # type: ignore[operator]
    passing = np.concatenate([energies(1200, 1)["u"], energies(800, 2)["u"]]) < 0.5
    true = truth_of(files)
    bad = ~np.isfinite(true) | (true == -999)
    assert (kept["events"], lost) == (passing.sum(), (passing & bad).sum())
    assert last["cut"] == "energy is a number"
    assert task.counts.sum() == (passing & ~bad).sum()
    (warning,) = task.warnings
    assert f"{lost} of {kept['events']} events have no target" in warning
    assert f"{lost} of {files[0]}" in warning

    with pytest.raises(DataError, match="leaves none of 2000 events"):
        prepared(stack, files, [], target="energy", missing={"energy": -999},
                 selection="energy < -998")  # fmt: skip


def test_specs_are_those_of_their_target(tmp_path: Path, stack: ExitStack) -> None:
    files = files_of(tmp_path)
    assert "energy" not in prepared(stack, files, [], target="energy").specs.flat
    task = prepared(stack, files, [], target="u")
    assert "energy" in task.specs.flat
    assert "target was 'energy', is 'u'" in task.warnings[0]
    params, _ = Params.parse({"target": "u"}, "params.json", tmp_path)
    scanned, _ = scan_files(list(map(str, files)), [], params, tmp_path)
    assert scanned.columns == task.specs.columns
    assert scanned.selection == task.specs.selection
    with pytest.raises(DataError, match="target was 'u', is 'x'"):
        prepared(stack, files, [], specs=tmp_path / "global-specs.json", target="x")


def test_rows_and_exports_hold_the_target_as_it_is_trained_on(tmp_path: Path) -> None:
    files = files_of(tmp_path, a=np.nan)
    with open_data(files, params={"target": "energy"}) as data:
        rows = list(data.rows())
        for name in ("a.npz", "a.parquet"):
            export(data, tmp_path / name)
        (x, y), *_ = data.batches(100)
        (_, of_tf), *_ = data.tf(100)
        target = data.target
    assert target is not None
    assert (x.shape, y.dtype, of_tf.dtype.as_numpy_dtype) == ((100, 8), np.float32, np.float32)
    assert (of_tf.numpy() == y).all()
    found, part = (np.concatenate([getattr(r, k) for r in rows]) for k in ("y", "part"))
    true = truth_of(files)
    true = true[~np.isnan(true)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(target.restore(found), true, rtol=1e-6)
    np.testing.assert_allclose(found, (true - target.mean) / target.std, atol=1e-5)
    assert found[part == TRAIN].mean() == pytest.approx(0, abs=1e-5)
    assert found[part == TRAIN].std() == pytest.approx(1, abs=1e-5)
    with np.load(tmp_path / "a.npz") as of_npz:
        assert (of_npz["y"] == found).all()
        names = ("target", "target_mean", "target_std")
        assert [of_npz[k].item() for k in names] == ["energy", target.mean, target.std]
    table = pq.read_table(tmp_path / "a.parquet")
    assert (table["_y"].to_numpy() == found).all()
    metadata = table.schema.metadata
    assert (metadata[b"target"], float(metadata[b"target_mean"])) == (b"energy", target.mean)


def test_a_new_variable_is_a_target_and_no_feature(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    params = {
        "objects": {"jet": "jet_pt > 0.7 * max(jet_pt)"},  # which twice is not the same as once
        "new_variables": {"half": "sum(jet_pt) / 2", "visible": "energy - half", "lead": "u + x"},
        "target": "visible",
        "exclude_branches": ["energy", "gen", "seven", "njet_pt"],
        "selection": "visible > 400",
    }
    result = run(tmp_path, joined(files), "", LINEAR, **params)
    bundle = Bundle.open(result.bundle, verify=True)
    assert bundle.specs.inputs == (["u", "x"], ["jet_pt"])
    assert bundle.specs.flat == ["half", "lead", "u", "x"]
    jets = ak.concatenate([energies(1200, 1)["jet_pt"], energies(800, 2)["jet_pt"]])
    jets = jets[jets > 0.7 * ak.max(jets, axis=1)]
    true = truth_of(files) - ak.to_numpy(ak.sum(jets, axis=1)) / 2
    assert result.metrics["r2"] > 0.9
    with open_data(files, params=params) as data:
        found = np.concatenate([r.y for r in data.rows()])
        assert data.target is not None
        np.testing.assert_allclose(data.target.restore(found), true[true > 400], rtol=1e-5)
    # The selection is made of the target, and predict still marks the events.
    out = tmp_path / "scores.root"
    ended = CliRunner().invoke(app, ["predict", "--model", str(bundle.path), "--files",
                                     joined(files), "--fout", str(out)])  # fmt: skip
    assert ended.exit_code == 0, ended.output
    with uproot.open(out) as opened:
        assert (opened["scores/selected"].array(library="np") == (true > 400)).all()


def test_what_gives_the_target_away_is_told(tmp_path: Path, stack: ExitStack) -> None:
    files = files_of(tmp_path)
    result = run(
        tmp_path, joined(files), "", LINEAR, target="t",
        new_variables={"t": "energy / 2 + x", "same": "x + energy / 2"},
    )  # fmt: skip
    (computable,) = [w for w in result.warnings if "computed from" in w]
    assert "computed from energy, x, which are features" in computable
    (columns,) = [w for w in result.warnings if "not features" in w]
    assert "same (alone gives the target, rank correlation 1.000)" in columns


def test_a_value_that_squeezes_the_target_is_told(tmp_path: Path) -> None:
    result = run(tmp_path, joined(files_of(tmp_path, a=-9999)), "", LINEAR, target="energy")
    (warning,) = [w for w in result.warnings if "squeeze" in w]
    assert "others of the target energy: 1.20% are -9999, the others fill" in warning
    assert 'say so by "missing"' in warning


TEXT = "Name a branch with one number per event"


@pytest.mark.parametrize(
    ("params", "labels", "parts"),
    [
        ({"signal": "1"}, [], ["target and signal", "'energy'"]),
        ({"signal": 0}, [], ["target and signal"]),
        ({"class_balance": True}, [], ["target and class_balance", "Leave one"]),
        ({}, ["0", "1"], ["target and --labels", "'energy'"]),
        ({"target": "energi"}, [], ["no branch 'energi'", "Did you mean 'energy'"]),
        ({"target": "jet_pt"}, [], ["jet_pt, which is jagged", TEXT]),
        ({"target": "seven"}, [], ["the target seven is 7 in all"]),
        ({"target": "v", "new_variables": {"v": "jet_pt * 2"}}, [], ["one number per event"]),
        ({"new_variables": {"v": "energy * 2"}}, [], ["energy is the target"]),
        (
            {"target": "v", "new_variables": {"v": "energy * 2", "w": "v + u"}},
            [],
            ["v is the target"],
        ),
        ({"objects": {"jet": "jet_pt > energy / 20"}}, [], ["energy is the target"]),
        ({"target": "energy", "missing": {"energi": 1}}, [], ["'energi' is neither a branch"]),
        ({"target": "v", "new_variables": {"v": "energy * 1e60"}}, [], ["32 bits"]),
        ({"target": 7}, [], ["target is 7, expected the name"]),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, stack: ExitStack, params: dict[str, Any], labels: list[str], parts: list[str]
) -> None:
    files = files_of(tmp_path)
    parsed: dict[str, Any] = {"target": "energy"} | params
    with pytest.raises(MlaasError) as error:
        prepared(stack, files, labels, **parsed)
    for part in parts:
        assert part in str(error.value)


def test_steps_of_32_bits_are_told(tmp_path: Path, stack: ExitStack) -> None:
    (warning,) = prepared(
        stack, files_of(tmp_path), [], target="v", exclude_branches=["energy"],
        new_variables={"v": "energy * 1e-3 + 1e6"},
    ).warnings  # fmt: skip
    assert "around 1000000" in warning
    assert "subtract a constant" in warning


def test_neither_labels_nor_a_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels is missing") as error:
        run(tmp_path, joined(files_of(tmp_path)), "")
    assert '"target"' in error.value.remedy
    with pytest.raises(UsageError, match="unknown key") as error:
        Params.parse({"regression_target": "x"}, "params.json", tmp_path)
    assert "Use the key 'target'" in error.value.remedy


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (keras(activation="sigmoid"), ["activation sigmoid", "energy", "no activation"]),
        (keras(activation="softplus"), ["activation softplus"]),
        (keras(outputs=2), ["has 2 columns", "one number per event"]),
        (keras(loss="binary_crossentropy"), ["binary_crossentropy is for classes"]),
        (keras(loss="msle"), ["msle is for classes or for numbers above 0"]),
        (SKLEARN.format("svm.LinearSVC()"), ["LinearSVC is no regressor", "energy"]),
        (
            SKLEARN.format("neural_network.BernoulliRBM()"),
            ["BernoulliRBM is no regressor"],
        ),
    ],
)
def test_models_that_predict_no_number(tmp_path: Path, model: str, parts: list[str]) -> None:
    with pytest.raises(ModelError) as error:
        run(tmp_path, joined(files_of(tmp_path)), "", model, target="energy")
    for part in parts:
        assert part in str(error.value)


def test_a_regressor_without_a_target_learns_of_the_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives no probabilities") as error:
        run(tmp_path, joined(files_of(tmp_path)), "0,1", LINEAR)
    assert '"target"' in error.value.remedy


def test_the_cache_changes_nothing(tmp_path: Path, stack: ExitStack) -> None:
    files = files_of(tmp_path, a=np.nan)
    given: dict[str, Any] = {"target": "energy", "weights": "gen"}
    kept, first = streamed(stack, files, [], **given)
    read, second = streamed(stack, files, [], cache_bytes=0, **given)
    assert kept.cached
    assert not read.cached
    assert (first.sample.truth == second.sample.truth).all()
    for a, b in zip(kept.epoch(1), read.epoch(1), strict=True):
        assert [x.dtype for x in a] == [np.float32, np.float32, np.float64]
        assert all((x == y).all() for x, y in zip(a, b, strict=True))
    mean = np.average(np.concatenate([w for _, _, w in kept.epoch(0)]))
    assert mean == pytest.approx(1)


def test_a_target_that_bundle_json_can_not_have(tmp_path: Path) -> None:
    result = run(tmp_path, joined(files_of(tmp_path)), "", LINEAR, target="energy")
    path = result.bundle / "bundle.json"
    good = json.loads(path.read_text())
    for change in (
        {"target": 1},
        {"target": good["target"] | {"std": 0}},
        {"target": good["target"] | {"mean": None}},
        {"target": good["target"] | {"branch": 1}},
        {"classes": ["a", "b"]},
        {"target": None},
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(BundleError, match=r"target|classes"):
            Bundle.open(result.bundle)
