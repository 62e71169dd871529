"""scikit-learn: classifiers with ``predict_proba``."""

from __future__ import annotations

import copy
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import LimitError, ModelError
from mlaas4hep.core.progress import Progress
from mlaas4hep.core.units import size
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
    reason,
    refuse_nan,
)

MAX_MATRIX_BYTES = 4 << 30
"""Largest training matrix for a classifier that needs all of it in memory."""
OPSET = {"": 17, "ai.onnx.ml": 3}


class Sklearn(Framework):
    """Classifiers and pipelines; those with ``partial_fit`` are streamed, epoch by epoch."""

    name = "scikit-learn"
    wanted = "a scikit-learn classifier"
    modules = frozenset({"sklearn"})
    packages = ("scikit-learn", "skl2onnx")
    probabilities = "predict_proba must give numbers from 0 to 1, which add up to 1 for each event."
    note = "model.pkl is a pickle: loading it runs code, so load only what you trust."

    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Raise ModelError unless the model is a classifier that gives probabilities."""
        kind = type(model).__name__
        if isinstance(model, type):
            raise ModelError(
                f"model(idim) returned the class {model.__name__}", "Return an object."
            )
        if not hasattr(model, "predict_proba"):
            raise ModelError(
                f"{kind} gives no probabilities (predict_proba)",
                "Use one that does: SVC(probability=True), SGDClassifier(loss='log_loss').",
            )
        fixed = getattr(model, "n_features_in_", width)
        if fixed != width:
            raise ModelError(f"{kind} was fitted on {fixed} columns, the data has {width}")
        if weighted and not _weight_key(model):
            raise ModelError(
                f"{kind} can't be trained on weighted events: its fit takes no sample_weight",
                "Use one that does, or leave out weights and class_balance.",
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
        """Probabilities of ``rows``."""
        if not len(rows):
            return self.predict(model, np.zeros((1, rows.shape[1]), np.float32))[:0]
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
                proto = _converted(model, width)
        except Exception as error:
            raise NotServable(f"it can't become ONNX: {reason(error)}") from error
        path.write_bytes(proto.SerializeToString())


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
    classes = np.arange(data.n_classes)
    total = data.train_events * plan.epochs
    history: History = {}
    best, best_state = Best(plan), model.__dict__
    for epoch in range(plan.epochs):
        done = epoch * data.train_events
        train = _Score()
        for rows, truth, *weights in data.epoch(epoch):
            for start in range(0, len(truth), plan.batch_size):
                step = slice(start, start + plan.batch_size)
                of_step = dict(zip(["sample_weight"], (w[step] for w in weights), strict=False))
                model.partial_fit(rows[step], truth[step], classes=classes, **of_step)
            train.add(self.predict(model, rows), truth, *weights)
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
    truth = np.empty(data.train_events, np.int64)
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
    train = _Score()
    for start in range(0, len(truth), 65536):
        part = slice(start, start + 65536)
        train.add(self.predict(model, rows[part]), truth[part], *(w[part] for w in weights))
    figures = train.figures("") | _validation(self, model, data)
    refuse_nan(figures.values(), 0)
    shown = {key: figures[key] for key in ("loss", "val_loss") if key in figures}
    progress("training", data.train_events, data.train_events, **shown)
    kind = type(model).__name__
    told = [f"early_stopping has no effect: {kind} is fitted at once, without epochs"]
    return Fit({key: [value] for key, value in figures.items()}, 0, told if plan.patience else [])


def _validation(self: Sklearn, model: Any, data: Batches) -> dict[str, float]:
    score = _Score()
    for rows, truth, *weights in data.validation():
        score.add(self.predict(model, rows), truth, *weights)
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


def _converted(model: Any, width: int) -> Any:
    """The model as ONNX with the probabilities as its only output."""
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = _float32_thresholds(copy.deepcopy(model))
    proto = convert_sklearn(
        model,
        initial_types=[("inputs", FloatTensorType([None, width]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    graph = proto.graph
    k = len(model.classes_)
    source = graph.output[1].name
    if k == 2:
        graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [1], [1]))
        node = helper.make_node("Gather", [source, "class_1"], ["outputs"], axis=1)
    else:
        node = helper.make_node("Identity", [source], ["outputs"])
    graph.node.append(node)
    del graph.output[:]
    shape: list[str | int | None] = ["N", 1 if k == 2 else k]
    graph.output.append(helper.make_tensor_value_info("outputs", TensorProto.FLOAT, shape))
    onnx.checker.check_model(proto)
    return proto
