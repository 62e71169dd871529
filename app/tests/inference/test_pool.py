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
from onnx import TensorProto, helper

from mlaas4hep.core.errors import MlaasError, ModelError, OverdueError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.pool import MOST_ALONE, Graph, Pool
from support.bundles import constant
from support.graphs import BAD, ENDLESS, FIRST, WIDTH, greedy, looping


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
@pytest.mark.parametrize("bad", [ENDLESS, looping(200_000)], ids=["endless", "slow"])
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
