"""A model is a stranger's program: what it does ends its process, and nobody else's answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.core.errors import MlaasError, ModelError, OverdueError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.pool import MOST_ALONE, Graph, Pool
from support.bundles import constant

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


@pytest.fixture
def graph(tmp_path: Path) -> Callable[[str, bytes], Graph]:
    def make(name: str, content: bytes) -> Graph:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        return Graph(name, path, WIDTH)

    return make


def run(work: Callable[[Pool], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        pool = Pool(Settings(**settings))
        pool.start()
        try:
            await work(pool)
        finally:
            pids = pool.processes
            pool.close()
            assert not [pid for pid in pids if psutil.pid_exists(pid)]

    asyncio.run(asyncio.wait_for(main(), 120))


def number(content: bytes) -> float:
    return float(np.frombuffer(content, np.float32)[0])


async def asked_all_the_time(pool: Pool, graph: Graph, until: asyncio.Future[Any]) -> list[float]:
    """Seconds of each answer to a well-behaved model while something else goes on."""
    took = []
    while not until.done():
        start = time.monotonic()
        assert number(await pool.run(graph, FIRST)) == 7
        took.append(time.monotonic() - start)
        await asyncio.sleep(0.01)
    return took


@pytest.mark.hostile("a model that loops stalls all predictions")
@pytest.mark.hostile("a slow model slows the others")
@pytest.mark.parametrize("bad", [ENDLESS, looping(40_000)], ids=["endless", "slow"])
def test_a_model_that_takes_its_time_keeps_no_other_waiting(
    graph: Callable[[str, bytes], Graph], bad: bytes
) -> None:
    async def work(pool: Pool) -> None:
        slow, good = graph("slow", bad), graph("good", constant(WIDTH, 7))
        for each in (slow, good):
            await pool.load(each)
            await pool.run(each, FIRST)
        assert slow.worker is good.worker
        for _ in range(2):
            answer = pool.run(slow, BAD)
            took = await asked_all_the_time(pool, good, answer)
            assert max(took) < 6, "the bound is 8 seconds"
            if bad is ENDLESS:
                with pytest.raises(OverdueError, match="slow took longer than 8 seconds"):
                    await answer
            else:
                assert number(await answer) == 1
            assert number(await pool.run(slow, FIRST)) == 0
        assert slow.alone
        assert not good.alone

    run(work, model_workers=1, max_model_seconds=8 if bad is ENDLESS else 60)


@pytest.mark.hostile("a model that takes all memory ends the service")
def test_a_model_that_takes_too_much_memory_is_refused(
    graph: Callable[[str, bytes], Graph],
) -> None:
    async def work(pool: Pool) -> None:
        large, good = graph("large", greedy(8)), graph("good", constant(WIDTH, 7))
        for each in (large, good):
            await pool.load(each)
        answer = pool.run(large, BAD)
        await asked_all_the_time(pool, good, answer)
        with pytest.raises(ModelError):
            await answer
        assert number(await pool.run(large, FIRST)) == 0

    run(work)


def test_a_worker_that_is_killed_loses_nobody_elses_answer(
    graph: Callable[[str, bytes], Graph],
) -> None:
    async def work(pool: Pool) -> None:
        graphs = [graph(f"m{i}", constant(WIDTH, i)) for i in range(16)]
        for each in graphs:
            await pool.load(each)
        answers = [pool.run(each, FIRST) for each in graphs for _ in range(20)]
        for pid in pool.processes:
            os.kill(pid, signal.SIGKILL)
        found = await asyncio.gather(*answers, return_exceptions=True)
        lost = [each for each in found if isinstance(each, MlaasError)]
        assert len(lost) <= 3  # the one call that each worker was at
        for i, each in enumerate(found):
            assert isinstance(each, ModelError) or number(each) == i // 20
        for i, each in enumerate(graphs):
            assert number(await pool.run(each, FIRST)) == i
        assert len(pool.processes) <= 2 + MOST_ALONE + 1

    run(work)


@pytest.mark.hostile("uploads and loads that never end block the others")
def test_a_load_without_an_end_is_refused_and_others_go_on(
    graph: Callable[[str, bytes], Graph],
) -> None:
    turns = looping(2**62)
    endless = onnx.load_from_string(turns)
    # The rows of zeros that a load tries are bad ones here.
    cast = next(node for node in endless.graph.node if node.op_type == "Cast")
    cast.op_type, cast.input[0] = "Not", "is_bad"
    del cast.attribute[:]
    at = list(endless.graph.node).index(cast)
    endless.graph.node.insert(
        at, helper.make_node("Cast", ["greatest"], ["is_bad"], to=TensorProto.BOOL)
    )
    content = endless.SerializeToString()

    async def work(pool: Pool) -> None:
        stuck = [asyncio.ensure_future(pool.load(graph(f"e{i}", content))) for i in range(2)]
        await asyncio.sleep(1)
        good = graph("good", constant(WIDTH, 7))
        await pool.load(good)
        assert number(await pool.run(good, FIRST)) == 7
        assert not any(each.done() for each in stuck)
        for each in stuck:
            with pytest.raises(OverdueError, match="max_load_seconds"):
                await each

    run(work, max_load_seconds=15)


def test_slow_models_have_a_bounded_number_of_workers(
    graph: Callable[[str, bytes], Graph],
) -> None:
    async def work(pool: Pool) -> None:
        graphs = [graph(f"m{i}", ENDLESS) for i in range(MOST_ALONE + 3)]
        for each in graphs:
            await pool.load(each)
        answers = [pool.run(each, BAD) for each in graphs]
        found = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(each, MlaasError) for each in found)
        assert len(pool.processes) <= 2 + MOST_ALONE + 1
        for each in graphs:
            assert number(await pool.run(each, FIRST)) == 0

    run(work, max_model_seconds=3)
