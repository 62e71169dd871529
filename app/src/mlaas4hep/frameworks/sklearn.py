"""scikit-learn: classifiers with ``predict_proba``, and regressors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import LimitError, ModelError
from mlaas4hep.core.progress import Progress
from mlaas4hep.core.units import size
from mlaas4hep.data.target import Target
from mlaas4hep.frameworks.base import (
    Batches,
    Best,
    Block,
    Classes,
    Fit,
    FitPlan,
    Framework,
    History,
    Matrix,
    NotServable,
    Regression,
    Truth,
    reason,
    refuse_nan,
)

MAX_MATRIX_BYTES = 4 << 30
"""Largest training matrix for a classifier that needs all of it in memory."""
OPSET = {"": 17, "ai.onnx.ml": 3}


class Sklearn(Framework):
    """Classifiers and pipelines; those with ``partial_fit`` are streamed, epoch by epoch."""

    name = "scikit-learn"
    wanted = "a scikit-learn classifier or regressor"
    modules = frozenset({"sklearn"})
    packages = ("scikit-learn", "skl2onnx")
    probabilities = "predict_proba must give numbers from 0 to 1, which add up to 1 for each event."
    note = "model.pkl is a pickle: loading it runs code, so load only what you trust."
    truth: ClassVar[type] = np.int64
    """The type of a block's truth."""

    def regression(self, target: Target) -> Framework:
        """Regressors and pipelines of them."""
        return SklearnRegression(target)

    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Raise ModelError unless the model does what it is asked for, on such data."""
        kind = type(model).__name__
        if isinstance(model, type):
            raise ModelError(
                f"model(idim) returned the class {model.__name__}", "Return an object."
            )
        self.check_kind(model, kind)
        fixed = getattr(model, "n_features_in_", width)
        if fixed != width:
            raise ModelError(f"{kind} was fitted on {fixed} columns, the data has {width}")
        if weighted and not _weight_key(model):
            raise ModelError(
                f"{kind} can't be trained on weighted events: its fit takes no sample_weight",
                "Use one that does, or leave out weights and class_balance.",
            )

    def check_kind(self, model: Any, kind: str) -> None:
        """Raise ModelError unless the model, a ``kind``, gives probabilities."""
        if not hasattr(model, "predict_proba"):
            raise ModelError(
                f"{kind} gives no probabilities (predict_proba)",
                "Use one that does: SVC(probability=True), SGDClassifier(loss='log_loss'). For a"
                ' regression, name the branch to predict in params.json: "target".',
            )

    def fit(self, model: Any, data: Batches, plan: FitPlan, progress: Progress) -> Fit:
        """Stream the events where the estimator can (partial_fit), else fit on all in memory."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            if _is_streamed(model):
                result = _streamed(self, model, data, plan, progress)
            else:
                result = _whole(self, model, data, plan, progress)
        said = {f"{w.category.__name__}: {w.message}" for w in caught}
        result.warnings += sorted(said)
        return result

    def predict(self, model: Any, rows: Matrix) -> Matrix:
        """The answers to ``rows``."""
        if not len(rows):
            return self.predict(model, np.zeros((1, rows.shape[1]), np.float32))[:0]
        return self.answers(model, rows)

    def answers(self, model: Any, rows: Matrix) -> Matrix:
        """Those on which the loss of ``score`` looks: probabilities."""
        answer = np.asarray(model.predict_proba(rows), np.float32)
        return answer[:, 1:] if answer.shape[1] == 2 else answer

    def save(self, model: Any, folder: Path, width: int) -> list[str]:
        """model.pkl, by joblib: loading it runs code, so load only what you trust."""
        import joblib

        try:
            joblib.dump(model, folder / "model.pkl")
        except (TypeError, AttributeError, ValueError) as error:
            (folder / "model.pkl").unlink(missing_ok=True)
            return [f"no model.pkl: the model can't be pickled: {reason(error)}"]
        except Exception as error:
            if type(error).__name__ != "PicklingError":
                raise
            (folder / "model.pkl").unlink(missing_ok=True)
            return [f"no model.pkl: the model can't be pickled: {reason(error)}"]
        return []

    def to_onnx(self, model: Any, path: Path, width: int) -> None:
        """Convert by skl2onnx; NotServable when it knows no counterpart."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                proto = self.converted(model, width)
        except Exception as error:
            raise NotServable(f"it can't become ONNX: {reason(error)}") from error
        path.write_bytes(proto.SerializeToString())

    def converted(self, model: Any, width: int) -> Any:
        """The model as ONNX with the probabilities as its only output."""
        return _converted(model, width, {"zipmap": False}, _class_outputs)

    def score(self) -> _Score:
        """What tells how good answers are."""
        return _Score()

    def more(self, data: Batches) -> dict[str, Any]:
        """What ``partial_fit`` needs to know besides a batch."""
        return {"classes": np.arange(data.n_classes)}


class SklearnRegression(Regression, Sklearn):
    """Regressors and pipelines; those with ``partial_fit`` are streamed, epoch by epoch."""

    truth = np.float32
    native = "model.pkl"

    def check_kind(self, model: Any, kind: str) -> None:
        """Raise ModelError unless the model, a ``kind``, is a regressor."""
        from sklearn.base import is_regressor

        if not is_regressor(model):
            raise ModelError(
                f"{kind} is no regressor, but the target {self.target.branch} is a number",
                "Use one, such as HistGradientBoostingRegressor, or leave out target.",
            )

    def predict(self, model: Any, rows: Matrix) -> Matrix:
        """The target of each of ``rows``, in its own units."""
        return self.target.restore(super().predict(model, rows))

    def answers(self, model: Any, rows: Matrix) -> Matrix:
        """As trained: normalised."""
        return np.asarray(model.predict(rows), np.float32).reshape(len(rows), -1)

    def converted(self, model: Any, width: int) -> Any:
        """The model as ONNX, and back to the target's own units."""
        return _converted(model, width, {}, self._outputs)

    def score(self) -> _Score:
        """The squared error of the normalised target."""
        return _SquaredError()

    def more(self, data: Batches) -> dict[str, Any]:
        """Nothing."""
        return {}

    def _outputs(self, model: Any, graph: Any) -> int:
        from onnx import TensorProto, helper

        for name, value in (("target_std", self.target.std), ("target_mean", self.target.mean)):
            graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [1], [value]))
        source = graph.output[0].name
        graph.node.append(helper.make_node("Mul", [source, "target_std"], ["spread"]))
        graph.node.append(helper.make_node("Add", ["spread", "target_mean"], ["outputs"]))
        return 1


def _is_streamed(model: Any) -> bool:
    return hasattr(model, "partial_fit") and not getattr(model, "early_stopping", False)


def _weight_key(model: Any) -> str:
    """The argument of ``model.fit`` that takes weights; empty where the classifier takes none."""
    prefix = ""
    while steps := getattr(model, "steps", None):
        prefix += f"{steps[-1][0]}__"
        model = steps[-1][1]
    method = model.partial_fit if _is_streamed(model) and not prefix else model.fit
    return f"{prefix}sample_weight" if "sample_weight" in signature(method).parameters else ""


def _streamed(self: Sklearn, model: Any, data: Batches, plan: FitPlan, progress: Progress) -> Fit:
    """One ``partial_fit`` a batch; the state of the best epoch is put back."""
    more = self.more(data)
    total = data.train_events * plan.epochs
    history: History = {}
    best, best_state = Best(plan), model.__dict__
    for epoch in range(plan.epochs):
        done = epoch * data.train_events
        train = self.score()
        for rows, truth, *weights in data.epoch(epoch):
            for start in range(0, len(truth), plan.batch_size):
                step = slice(start, start + plan.batch_size)
                of_step = dict(zip(["sample_weight"], (w[step] for w in weights), strict=False))
                model.partial_fit(rows[step], truth[step], **more, **of_step)
            train.add(self.answers(model, rows), truth, *weights)
            done += len(truth)
            progress("training", done, total, epoch=epoch + 1, loss=train.loss)
        figures = train.figures("") | _validation(self, model, data)
        refuse_nan(figures.values(), epoch)
        for key, value in figures.items():
            history.setdefault(key, []).append(value)
        if best.add(epoch, figures.get("val_loss", figures["loss"])):
            best_state = copy.deepcopy(model.__dict__)
        if best.is_over:
            break
    model.__dict__.clear()
    model.__dict__.update(best_state)
    return Fit(history, best.epoch)


def _whole(self: Sklearn, model: Any, data: Batches, plan: FitPlan, progress: Progress) -> Fit:
    """One ``fit`` on the whole training matrix."""
    needed = data.train_events * data.width * 4
    if needed > MAX_MATRIX_BYTES:
        raise LimitError(
            f"{type(model).__name__} needs all {data.train_events} training events in memory: "
            f"{size(needed)}, the limit is {size(MAX_MATRIX_BYTES)}",
            "Lower nevts, exclude branches, or use a classifier with partial_fit.",
        )
    rows = np.empty((data.train_events, data.width), np.float32)
    truth: Truth = np.empty(data.train_events, self.truth)
    weights = [np.empty(data.train_events)] if data.weighted else []
    arrays: Block = (rows, truth, *weights)
    done = 0
    for block in data.epoch(0):
        part = slice(done, done + len(block[0]))
        for whole, array in zip(arrays, block, strict=True):
            whole[part] = array
        done = part.stop
    progress("training", 0, data.train_events)
    model.fit(rows, truth, **{_weight_key(model): w for w in weights})
    train = self.score()
    for start in range(0, len(truth), 65536):
        part = slice(start, start + 65536)
        train.add(self.answers(model, rows[part]), truth[part], *(w[part] for w in weights))
    figures = train.figures("") | _validation(self, model, data)
    refuse_nan(figures.values(), 0)
    shown = {key: figures[key] for key in ("loss", "val_loss") if key in figures}
    progress("training", data.train_events, data.train_events, **shown)
    kind = type(model).__name__
    told = [f"early_stopping has no effect: {kind} is fitted at once, without epochs"]
    return Fit({key: [value] for key, value in figures.items()}, 0, told if plan.patience else [])


def _validation(self: Sklearn, model: Any, data: Batches) -> dict[str, float]:
    score = self.score()
    for rows, truth, *weights in data.validation():
        score.add(self.answers(model, rows), truth, *weights)
    return score.figures("val_") if score.events else {}


class _Score:
    """Mean log loss and accuracy over chunks, weighted if there are weights."""

    def __init__(self) -> None:
        self.events = 0
        self._sum = 0.0
        self._loss = 0.0
        self._right = 0.0

    @property
    def loss(self) -> float:
        return self._loss / (self._sum or 1)

    def add(
        self, answer: Matrix, truth: Classes, weights: NDArray[np.float64] | None = None
    ) -> None:
        if answer.shape[1] == 1:
            answer = np.concatenate([1 - answer, answer], axis=1)
        right: NDArray[np.float64] = answer[np.arange(len(truth)), truth].astype(np.float64)
        losses = -np.log(np.maximum(right, np.finfo(np.float32).eps))
        found = answer.argmax(1) == truth
        if weights is not None:
            losses, found = losses * weights, found * weights
        self._loss += float(losses.sum())
        self._right += float(found.sum())
        self._sum += len(truth) if weights is None else float(weights.sum())
        self.events += len(truth)

    def figures(self, prefix: str) -> dict[str, float]:
        return {prefix + "loss": self.loss, prefix + "accuracy": self._right / self._sum}


class _SquaredError(_Score):
    """Mean squared error over chunks, weighted if there are weights."""

    def add(self, answer: Matrix, truth: Truth, weights: NDArray[np.float64] | None = None) -> None:
        losses = np.square(answer[:, 0].astype(np.float64) - truth)
        self._loss += float((losses if weights is None else losses * weights).sum())
        self._sum += len(truth) if weights is None else float(weights.sum())
        self.events += len(truth)

    def figures(self, prefix: str) -> dict[str, float]:
        return {prefix + "loss": self.loss}


def _float32_thresholds(model: Any) -> Any:
    """The same trees with thresholds that float32 holds, each moved down to the nearest.

    For a float32 x, x <= t is x <= (the greatest float32 that is <= t): the answers stay the same,
    while skl2onnx rounds a threshold of HistGradientBoosting to either side.
    """
    tree = model.steps[-1][1] if hasattr(model, "steps") else model
    for iteration in getattr(tree, "_predictors", []):
        for predictor in iteration:
            exact = predictor.nodes["num_threshold"]
            near = exact.astype(np.float32)
            near = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
            predictor.nodes["num_threshold"] = near
    return model


def _converted(
    model: Any, width: int, options: dict[str, Any], add_outputs: Callable[[Any, Any], int]
) -> Any:
    """The model as ONNX; ``add_outputs`` adds the node "outputs", the only one that is kept.

    It returns how many columns it has.
    """
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    exact = _float32_thresholds(copy.deepcopy(model))
    proto = convert_sklearn(
        exact,
        initial_types=[("inputs", FloatTensorType([None, width]))],
        options={id(exact): options} if options else None,
        target_opset=OPSET,
    )
    graph = proto.graph
    shape: list[str | int | None] = ["N", add_outputs(model, graph)]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("outputs", TensorProto.FLOAT, shape))
    onnx.checker.check_model(proto)
    return proto


def _class_outputs(model: Any, graph: Any) -> int:
    """The probability of class 1 of two, else those of all."""
    from onnx import TensorProto, helper

    k, source = len(model.classes_), graph.output[1].name
    if k != 2:
        graph.node.append(helper.make_node("Identity", [source], ["outputs"]))
        return k
    graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Gather", [source, "class_1"], ["outputs"], axis=1))
    return 1
