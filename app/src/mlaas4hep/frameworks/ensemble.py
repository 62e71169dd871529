"""Several models of one framework as one, whose answer is their mean: those of the folds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.frameworks.base import Batches, Fit, FitPlan, Framework, History, Matrix

OF_FOLDS = "folds"
"""The output of the ONNX graph with all answers: float32 (rows, folds, columns of one answer)."""


class Ensemble(Framework):
    """A model is a list of models of ``framework``; it is trained one by one, elsewhere."""

    def __init__(self, framework: Framework) -> None:
        self._framework = framework
        self.check_answers = framework.check_answers  # type: ignore[method-assign]
        self.name = framework.name  # type: ignore[misc]
        self.probabilities = framework.probabilities  # type: ignore[misc]
        self.packages = framework.packages  # type: ignore[misc]
        self.note = f"The mean of several models. {framework.note}".strip()  # type: ignore[misc]

    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Each as the framework does."""
        for each in model:
            self._framework.check(each, width, n_classes, weighted)

    def fit(self, model: Any, data: Batches, plan: FitPlan, progress: Any) -> Fit:
        """Not possible: each has data of its own."""
        raise TypeError("the models of an ensemble are trained one by one")

    def predict(self, model: Any, rows: Matrix) -> Matrix:
        """The mean of the answers, float32."""
        answers = [self._framework.predict(each, rows) for each in model]
        mean: Matrix = np.mean(answers, axis=0, dtype=np.float32)
        return mean

    def save(self, model: Any, folder: Path, width: int) -> list[str]:
        """Each into a folder of its own, ``fold_0`` and so on."""
        warnings: list[str] = []
        for number, each in enumerate(model):
            own = folder / f"fold_{number}"
            own.mkdir()
            warnings += self._framework.save(each, own, width)
        return list(dict.fromkeys(warnings))

    def to_onnx(self, model: Any, path: Path, width: int) -> None:
        """One graph: "outputs" is the mean, ``OF_FOLDS`` the answer of each."""
        import onnx

        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            graphs = []
            for number, each in enumerate(model):
                own = Path(name) / f"{number}.onnx"
                self._framework.to_onnx(each, own, width)
                graphs.append(onnx.load(own))
        onnx.save(merged(graphs), path)


def merged(models: Sequence[Any]) -> Any:
    """An ONNX model of several, each with "inputs" and "outputs" of the same shapes."""
    import onnx
    from onnx import TensorProto, helper

    parts: list[Any] = [
        onnx.compose.add_prefix(model, f"fold_{number}_") for number, model in enumerate(models)
    ]
    nodes: list[Any] = []
    answers: list[str] = []
    stacked: list[str] = []
    for number, part in enumerate(parts):
        name = f"fold_{number}"
        nodes.append(helper.make_node("Identity", ["inputs"], [f"{name}_inputs"], f"{name}_in"))
        nodes.extend(part.graph.node)
        nodes.append(
            helper.make_node("Unsqueeze", [f"{name}_outputs", "axes"], [f"{name}_stacked"], name)
        )
        answers.append(f"{name}_outputs")
        stacked.append(f"{name}_stacked")
    nodes.append(helper.make_node("Mean", answers, ["outputs"], "mean"))
    nodes.append(helper.make_node("Concat", stacked, [OF_FOLDS], "stack", axis=1))
    first = models[0].graph
    columns = first.output[0].type.tensor_type.shape.dim[1].dim_value
    shape = ["N", len(models), columns or "K"]
    graph = helper.make_graph(
        nodes,
        "ensemble",
        [first.input[0]],
        [first.output[0], helper.make_tensor_value_info(OF_FOLDS, TensorProto.FLOAT, shape)],
        [
            *(each for part in parts for each in part.graph.initializer),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ],
        value_info=[each for part in parts for each in part.graph.value_info],
    )
    opsets: dict[str, int] = {}
    for part in parts:
        for each in part.opset_import:
            opsets[each.domain] = max(opsets.get(each.domain, 0), each.version)
    result: Any = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(k, v) for k, v in opsets.items()]
    )
    result.ir_version = max(model.ir_version for model in models)
    for part in parts:
        result.functions.extend(part.functions)
    return result


def together(fits: Sequence[Fit]) -> Fit:
    """Their histories' mean, as far as all go, and the median of the best epochs."""
    shortest = min(len(values) for fit in fits for values in fit.history.values())
    history: History = {
        key: np.mean([fit.history[key][:shortest] for fit in fits], axis=0).tolist()
        for key in fits[0].history
        if all(key in fit.history for fit in fits)
    }
    best = min(shortest - 1, int(np.median([fit.best for fit in fits])))
    warnings = [f"fold {i}: {warning}" for i, fit in enumerate(fits) for warning in fit.warnings]
    return Fit(history, best, warnings)
