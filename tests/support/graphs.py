"""Graphs that do harm on a bad row, and answer the first value of any other."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH = 2
FIRST, BAD = np.zeros(WIDTH, np.float32).tobytes(), np.ones(WIDTH, np.float32).tobytes()


def when_first_is_set(nodes: list[Any], tensors: list[Any]) -> bytes:
    """A graph that does ``nodes`` (which make ``outputs``) if the first value of a batch is 1.

    Else it answers the first values.
    """
    value = helper.make_tensor_value_info
    out = value("outputs", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["inputs", "zero", "one", "axis1"], ["column"]),
            helper.make_node("ReduceMax", ["inputs"], ["greatest"], keepdims=0),
            helper.make_node("Cast", ["greatest"], ["bad"], to=TensorProto.BOOL),
            helper.make_node(
                "If",
                ["bad"],
                ["outputs"],
                then_branch=helper.make_graph(nodes, "bad", [], [out], tensors),
                else_branch=helper.make_graph(
                    [helper.make_node("Identity", ["column"], ["outputs"])], "good", [], [out]
                ),
            ),
        ],
        "graph",
        [value("inputs", TensorProto.FLOAT, ["N", WIDTH])],
        [value("outputs", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array([n], np.int64), k)
         for k, n in (("zero", 0), ("one", 1), ("axis1", 1))],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()  # type: ignore[no-any-return]


def looping(turns: int) -> bytes:
    """Turns round so often on a bad row."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "state"], ["product"]),
            helper.make_node("Clip", ["product", "low", "high"], ["next"]),
        ],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [64, 64]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [64, 64])],
    )
    tensors = [
        numpy_helper.from_array(np.array(turns, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.ones((64, 64), np.float32), "start"),
        numpy_helper.from_array(np.array(0, np.float32), "low"),
        numpy_helper.from_array(np.array(1, np.float32), "high"),
    ]
    nodes = [
        helper.make_node("Loop", ["turns", "yes", "start"], ["state"], body=body),
        helper.make_node("Slice", ["state", "zero", "one", "zero"], ["row"]),
        helper.make_node("Slice", ["row", "zero", "one", "axis1"], ["outputs"]),
    ]
    return when_first_is_set(nodes, tensors)


def greedy(gigabytes: int) -> bytes:
    """Takes so much memory on a bad row."""
    shape = numpy_helper.from_array(np.array([gigabytes << 28], np.int64), "shape")
    one = numpy_helper.from_array(np.ones(1, np.float32), "ones")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"], value=one),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["column", "sum"], ["outputs"]),
    ]
    return when_first_is_set(nodes, [shape])


ENDLESS = looping(2**62)
