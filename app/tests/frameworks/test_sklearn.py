from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier

from frameworks.arrays import Arrays, Numbers
from mlaas4hep.core.errors import LimitError, ModelError
from mlaas4hep.core.progress import silent
from mlaas4hep.data import Target
from mlaas4hep.frameworks import FitPlan, Framework, NotServable, framework_of
from mlaas4hep.frameworks import sklearn as module
from mlaas4hep.frameworks.sklearn import Sklearn

framework = Sklearn()
PLAN = FitPlan(epochs=4, batch_size=50, seed=21)


def assert_served_alike(
    model: Any, rows: Any, folder: Path, framework: Framework = framework, atol: float = 1e-6
) -> None:
    framework.to_onnx(model, folder / "m.onnx", rows.shape[1])
    session = onnxruntime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["inputs"]
    assert [o.name for o in session.get_outputs()] == ["outputs"]
    (answer,) = session.run(["outputs"], {"inputs": rows})
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, framework.predict(model, rows), rtol=1e-4, atol=atol)


CLASSIFIERS = {
    "boosted": lambda: HistGradientBoostingClassifier(max_iter=20),
    "boosted, old": lambda: GradientBoostingClassifier(n_estimators=10),
    "forest": lambda: RandomForestClassifier(20, random_state=1),
    "extra trees": lambda: ExtraTreesClassifier(10, random_state=1),
    "tree": lambda: DecisionTreeClassifier(max_depth=4),
    "logistic": lambda: LogisticRegression(),
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "streamed network": lambda: MLPClassifier((8,), learning_rate_init=0.02, random_state=1),
    "streamed linear": lambda: SGDClassifier(loss="log_loss", random_state=1),
    "streamed bayes": lambda: GaussianNB(),
    "network that stops early": lambda: MLPClassifier(
        (8,), early_stopping=True, learning_rate_init=0.02, random_state=1
    ),
}


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_train_and_serve(tmp_path: Path, name: str, k: int) -> None:
    data = Arrays(k=k)
    model = CLASSIFIERS[name]()
    assert framework_of(model).name == "scikit-learn"
    framework.set_up(21)
    framework.check(model, 6, k)
    fit = framework.fit(model, data, PLAN, silent)
    streamed = name.startswith("streamed")
    assert data.asked == (list(range(4)) if streamed else [0])
    assert len(fit.history["loss"]) == (4 if streamed else 1)
    scores = framework.predict(model, data.x[600:])
    assert scores.dtype == np.float32
    assert scores.shape == (200, 1 if k == 2 else k)
    guess = scores[:, 0] > 0.5 if k == 2 else scores.argmax(axis=1)
    truth = data.y[600:]
    assert fit.history["val_accuracy"][fit.best] == pytest.approx((guess == truth).mean())
    assert (guess == truth).mean() > 0.6
    table = np.concatenate([1 - scores, scores], axis=1) if k == 2 else scores
    kept = log_loss(truth, table, labels=range(k))
    assert fit.history["val_loss"][fit.best] == pytest.approx(kept, rel=1e-3)
    assert fit.history["val_loss"][fit.best] == min(fit.history["val_loss"])
    assert framework.save(model, tmp_path, 6) == []
    again = joblib.load(tmp_path / "model.pkl")
    np.testing.assert_array_equal(framework.predict(again, data.x[600:]), scores)
    assert framework.predict(model, data.x[:0]).shape == (0, scores.shape[1])
    corners = np.concatenate([data.x, np.zeros((1, 6), np.float32), np.ones((1, 6), np.float32)])
    assert_served_alike(model, corners, tmp_path)


REGRESSORS = {
    "boosted": lambda: HistGradientBoostingRegressor(max_iter=40),
    "boosted, old": lambda: GradientBoostingRegressor(n_estimators=40),
    "forest": lambda: RandomForestRegressor(20, random_state=1),
    "linear": lambda: LinearRegression(),
    "neighbours": lambda: KNeighborsRegressor(),
    "vectors": lambda: SVR(),
    "pipeline": lambda: make_pipeline(StandardScaler(), Ridge()),
    "streamed network": lambda: MLPRegressor(
        hidden_layer_sizes=(8,), learning_rate_init=0.05, random_state=1
    ),
    "streamed linear": lambda: SGDRegressor(eta0=0.1, random_state=1),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_answer_in_the_target_s_units(tmp_path: Path, name: str) -> None:
    data, target = Numbers(), Target("energy", 500, 80)
    regression = framework.regression(target)
    model = REGRESSORS[name]()
    regression.check(model, 6, 0)
    fit = regression.fit(model, data, PLAN, silent)
    assert data.asked == (list(range(4)) if name.startswith("streamed") else [0])
    found = regression.predict(model, data.x[600:])
    assert (found.dtype, found.shape) == (np.float32, (200, 1))
    assert regression.predict(model, data.x[:0]).shape == (0, 1)
    error = (found[:, 0] - target.mean) / target.std - data.y[600:]
    assert set(fit.history) == {"loss", "val_loss"}
    assert fit.history["val_loss"][fit.best] == pytest.approx((error**2).mean(), rel=1e-3)
    assert (error**2).mean() < 0.4
    corners = np.concatenate([data.x, np.zeros((1, 6), np.float32), np.ones((1, 6), np.float32)])
    assert_served_alike(model, corners, tmp_path, regression, 1e-4 * target.std)


def test_weights_of_a_regression(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).choice([0.0, 2.0], 800)
    for make in (REGRESSORS["linear"], REGRESSORS["streamed network"]):
        data, only = Numbers(weights=weights), Numbers()
        regression = framework.regression(Target("energy", 0, 1))
        fit = regression.fit(model := make(), data, PLAN, silent)
        kept = weights[600:] > 0
        error = regression.predict(model, data.x[600:])[kept, 0] - only.y[600:][kept]
        assert fit.history["val_loss"][fit.best] == pytest.approx((error**2).mean(), rel=1e-3)
    with pytest.raises(ModelError, match="takes no sample_weight"):
        regression.check(KNeighborsRegressor(), 6, 0, weighted=True)


def test_boosted_trees_agree_where_values_are_neighbouring_floats(tmp_path: Path) -> None:
    """Thresholds lie between neighbours in float64 and must not move over one in float32."""
    data = Arrays(train=3000, validation=0)
    grid = np.float32(0.5) + np.arange(40, dtype=np.float32) * np.float32(2**-24)
    data.x[:] = grid[np.random.default_rng(5).integers(0, 40, data.x.shape)]
    data.y[:] = (data.x.astype(np.float64).sum(axis=1) > 3 + 120 * 2**-24).astype(np.int64)
    model = HistGradientBoostingClassifier(max_iter=10)
    framework.fit(model, data, PLAN, silent)
    assert ((framework.predict(model, data.x)[:, 0] > 0.5) == data.y).mean() > 0.8
    assert_served_alike(model, data.x, tmp_path)


def test_too_large_for_memory_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MATRIX_BYTES", 10_000)
    with pytest.raises(LimitError, match="RandomForestClassifier needs all 600 training events"):
        framework.fit(RandomForestClassifier(), Arrays(), PLAN, silent)
    framework.fit(GaussianNB(), Arrays(), PLAN, silent)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (RidgeClassifier(), "RidgeClassifier gives no probabilities"),
        (LinearRegression(), "LinearRegression gives no probabilities"),
        (SGDClassifier(), "SGDClassifier gives no probabilities"),
        (GaussianNB().fit(np.eye(5), range(5)), "fitted on 5 columns, the data has 6"),
    ],
)
def test_models_that_are_refused(model: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        framework.check(model, 6, 2)


def test_what_cannot_become_onnx_or_a_pickle(tmp_path: Path) -> None:
    data = Arrays()
    model = make_pipeline(FunctionTransformer(lambda x: x[:, ::-1]), LogisticRegression())
    framework.fit(model, data, PLAN, silent)
    with pytest.raises(NotServable, match="it can't become ONNX"):
        framework.to_onnx(model, tmp_path / "m.onnx", 6)
    (warning,) = framework.save(model, tmp_path, 6)
    assert warning.startswith("no model.pkl: the model can't be pickled")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "classifier",
    [GaussianNB, LogisticRegression, lambda: make_pipeline(MinMaxScaler(), LogisticRegression())],
)
def test_a_weight_of_2_is_two_events(classifier: Callable[[], Any]) -> None:
    copies = np.random.default_rng(4).integers(1, 4, 800)
    weighted = Arrays(weights=copies.astype(float))
    repeated = Arrays()
    repeated.train_events = int(copies[:600].sum())
    repeated.x, repeated.y = weighted.x.repeat(copies, axis=0), weighted.y.repeat(copies)
    scores = []
    for data in (weighted, repeated):
        model = classifier()
        framework.check(model, 6, 2, data.weighted)
        fit = framework.fit(model, data, PLAN, silent)
        scores.append(framework.predict(model, weighted.x))
    np.testing.assert_allclose(*scores, atol=2e-3)
    truth, answer = weighted.y[600:], scores[1][600:]
    expected = log_loss(truth, answer, sample_weight=copies[600:])
    assert fit.history["val_loss"][fit.best] == pytest.approx(expected, rel=2e-2)


def test_what_takes_no_weights_is_refused() -> None:
    for model in (KNeighborsClassifier(), make_pipeline(StandardScaler(), KNeighborsClassifier())):
        framework.check(model, 6, 2)
        with pytest.raises(ModelError, match="can't be trained on weighted events"):
            framework.check(model, 6, 2, weighted=True)


def test_early_stopping_keeps_the_best_epoch() -> None:
    data = Arrays()
    model = SGDClassifier(loss="log_loss", random_state=1)
    plan = FitPlan(epochs=60, batch_size=50, seed=21, patience=2)
    fit = framework.fit(model, data, plan, silent)
    losses = fit.history["val_loss"]
    assert fit.best == int(np.argmin(losses))
    assert len(losses) == fit.best + 3 < 60
    scores = framework.predict(model, data.x[600:])[:, 0]
    assert log_loss(data.y[600:], scores) == pytest.approx(min(losses), rel=1e-3)
    whole = framework.fit(DecisionTreeClassifier(), data, plan, silent)
    assert any("early_stopping has no effect: DecisionTree" in told for told in whole.warnings)
