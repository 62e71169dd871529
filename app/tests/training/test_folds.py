from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.metrics import roc_auc_score

from mlaas4hep.core.errors import BundleError
from mlaas4hep.data import Encoder
from mlaas4hep.inference.offline import LocalAnswers, predict_files
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.root import RootFile
from training.root_files import content, two, write
from training.test_train import keras_model, run

LOGISTIC = """
from sklearn.linear_model import LogisticRegression

def model(idim):
    return LogisticRegression()
"""
SGD = """
from sklearn.linear_model import SGDClassifier

def model(idim):
    return SGDClassifier(loss="log_loss", random_state=1)
"""


def scores(bundle: Bundle, files: list[Path]) -> np.ndarray:
    local = LocalAnswers(bundle)
    flat, jagged = bundle.specs.inputs
    branches = list(dict.fromkeys([*flat, *jagged, *local.branches]))
    found = [s for s, _ in predict_files([str(f) for f in files], "Events", branches, local)]
    return np.concatenate(found)[:, 0]


@pytest.mark.parametrize(
    ("model", "split"),
    [
        (LOGISTIC, {"folds": 3}),
        (SGD, {"folds": 2, "by": ["run", "id"]}),
        (None, {"folds": 2}),
    ],
    ids=["whole", "streamed", "keras"],
)
def test_each_event_is_scored_by_a_model_that_has_not_seen_it(
    tmp_path: Path, model: str | None, split: dict[str, Any]
) -> None:
    files = two(tmp_path)
    seen: list[Any] = []
    result = run(
        tmp_path, ",".join(map(str, files)), "0,1", model or keras_model(), seen=seen,
        split=split, identifier=["run"], weights=[2, 0.5], observers=["run", "constant"],
    )  # fmt: skip
    bundle = Bundle.open(result.bundle, verify=True)
    k = split["folds"]
    assert bundle.manifest.folds
    assert (bundle.manifest.folds.number, bundle.manifest.folds.by) == (k, split.get("by", []))
    assert {figures["fold"] for what, figures in seen if what[0] == "training"} == set(
        range(1, k + 1)
    )
    assert len(list(result.bundle.glob("fold_*"))) == k

    truth, weights = np.repeat([0, 1], (900, 600)), np.repeat([2, 0.5], (900, 600))
    out_of_fold = scores(bundle, files)
    assert result.metrics["events"] == 1500
    found = roc_auc_score(truth, out_of_fold, sample_weight=weights)
    assert result.metrics["auc"] == pytest.approx(found, abs=1e-6)

    # Observers: each class has a value of ``run`` for itself, whose mean is over all folds.
    observed = result.metrics["observers"]
    assert observed["run"]["events"] == 1500
    assert observed["run"]["edges"] == [0.5, 1.5, 2.5]
    background, signal = (out_of_fold[truth == one].mean() for one in (0, 1))
    of_class = {name: found["mean"] for name, found in observed["run"]["classes"].items()}
    assert of_class == {
        "0": [pytest.approx(background, abs=1e-6), None],
        "1": [None, pytest.approx(signal, abs=1e-6)],
    }
    assert observed["constant"]["edges"] == [6.5, 7.5]
    pictures = {path.name for path in (result.bundle / "observers").iterdir()}
    assert pictures == {"run.png", "constant.png"}
    assert "mean score by run" in (result.bundle / "report.html").read_text()

    session = onnxruntime.InferenceSession(bundle.onnx)
    with RootFile(str(files[0]), "Events") as file:
        names = [name for each in bundle.specs.inputs for name in each]
        rows = Encoder(bundle.specs).encode(file.read(names))
    mean, each = session.run(["outputs", "folds"], {"inputs": rows})
    np.testing.assert_allclose(mean, each.mean(axis=1), rtol=1e-6)
    assert (np.ptp(each[:, :, 0], axis=1) > 0).any()
    assert each.shape == (900, k, 1)

    # The same events in another file: known by their identity, or unknown.
    places = np.random.default_rng(1).permutation(900)
    other = write(tmp_path / "other.root", {n: v[places] for n, v in content(900, 1).items()})
    expected = out_of_fold[places] if "by" in split else mean[places, 0]
    np.testing.assert_allclose(scores(bundle, [other]), expected, rtol=1e-5, atol=1e-7)
    run_json = json.loads((result.bundle / "provenance/run.json").read_text())
    assert run_json["split_by"] == split.get("by", ["file", "entry"])


def test_folds_that_bundle_json_can_not_have(tmp_path: Path) -> None:
    result = run(tmp_path, ",".join(map(str, two(tmp_path))), "0,1", LOGISTIC, split={"folds": 2})
    path = result.bundle / "bundle.json"
    good = json.loads(path.read_text())
    for folds in ([], {"number": 1}, good["folds"] | {"seed": -1}, good["folds"] | {"by": [1]}):
        path.write_text(json.dumps(good | {"folds": folds}))
        with pytest.raises(BundleError, match="folds: "):
            Bundle.open(result.bundle)
