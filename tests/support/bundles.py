"""Real bundles for tests, made without training: a small ONNX graph and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.data.specs import Specs
from mlaas4hep.frameworks.keras import Keras
from mlaas4hep.models.bundle import Manifest, card, labels_text, seal, triton_config

Weights = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Matrix (inputs, outputs) and offsets (outputs,) of each layer."""


def onnx_graph(weights: Weights, *, hidden: str = "Relu", last: str = "Sigmoid") -> bytes:
    """Layers with ``hidden`` between them and ``last`` at the end ("Identity" for none)."""
    nodes, tensors, value = [], [], "inputs"
    for i, (matrix, offsets) in enumerate(weights):
        tensors += [numpy_helper.from_array(matrix, f"w{i}")]
        tensors += [numpy_helper.from_array(offsets, f"b{i}")]
        nodes += [helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"])]
        final = i == len(weights) - 1
        value = "outputs" if final else f"a{i}"
        nodes += [helper.make_node(last if final else hidden, [f"z{i}"], [value])]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", len(weights[0][0])])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", len(weights[-1][1])])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def layer(inputs: int, outputs: int, seed: int = 1) -> Weights:
    """One layer with random weights."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(inputs, outputs)).astype(np.float32)
    return [(matrix, random.normal(size=outputs).astype(np.float32))]


def constant(inputs: int, value: float) -> bytes:
    """A graph that answers ``value``, whatever comes in."""
    offsets = np.full(1, value, np.float32)
    return onnx_graph([(np.zeros((inputs, 1), np.float32), offsets)], last="Identity")


def make_specs(
    flat: Sequence[str] = ("met", "nJet"), jagged: Mapping[str, int] | None = None
) -> Specs:
    """Specs in which every value lies between 0 and 100."""
    jagged = {"jet_eta": 3, "jet_pt": 3} if jagged is None else jagged
    names = [*flat, *(name for name in jagged if jagged[name])]
    return Specs(
        tree="Events",
        flat=sorted(flat),
        jagged=sorted(jagged),
        minv=dict.fromkeys(names, 0.0),
        maxv=dict.fromkeys(names, 100.0),
        jdim=dict(jagged),
    )


def make_bundle(
    folder: Path,
    name: str = "luca_1",
    graph: bytes | Callable[[int], bytes] | None = None,
    *,
    specs: Specs | None = None,
    classes: Sequence[str] = ("background", "signal"),
    why_not: str = "",
    metrics: Mapping[str, float] | None = None,
    report: str = "",
) -> Path:
    """Write the bundle ``folder/name``; ``graph`` gets the number of columns; returns its path.

    ``why_not`` makes it not servable.
    """
    specs = specs or make_specs()
    width, outputs = len(specs.columns), 1 if len(classes) == 2 else len(classes)
    if graph is None:
        last = "Sigmoid" if outputs == 1 else "Softmax"
        graph = onnx_graph(layer(width, outputs), last=last)
    path = folder / name
    (path / "1").mkdir(parents=True)
    (path / "provenance").mkdir()
    specs.save(path / "specs.json")
    created = datetime(2026, 11, 24, 12, tzinfo=UTC).isoformat()
    files = {
        "params.json": json.dumps(card(name, "a test's model", created, Keras.card_names)),
        "columns.json": json.dumps(specs.columns),
        "labels.txt": labels_text(list(classes)),
        "metrics.json": json.dumps(metrics or {"auc": 0.875}),
        "history.json": "{}",
        "config.pbtxt": triton_config(name, width, outputs),
        "provenance/params.json": "{}",
    }
    if report:
        files["report.html"] = report
    for file, text in files.items():
        (path / file).write_text(text)
    if not why_not:
        (path / "1/model.onnx").write_bytes(graph(width) if callable(graph) else graph)
    manifest = Manifest(
        name=name,
        framework="keras",
        servable=not why_not,
        why_not=why_not,
        classes=list(classes),
        columns=width,
        created=created,
        comparison={},
    )
    seal(path, manifest)
    return path
