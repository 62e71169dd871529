from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.core.errors import ConflictError, LimitError, NotFoundError, UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.data import Cuts, Derivation, Specs
from mlaas4hep.data.derivation import Input
from mlaas4hep.inference.events import MOST_DERIVED_AT_ONCE
from mlaas4hep.inference.service import EVENTS_AT_ONCE, Service
from mlaas4hep.models.bundle import pack
from support.bundles import constant, layer, make_bundle, make_specs, onnx_graph

MiB = 1 << 20
ROW = [0.5] * 8
EVENTS = [{"met": 1.0, "nJet": 1, "jet_eta": [1, 2, 3, 4], "jet_pt": [1, 2, 3, 4]}] * 3


def run(folder: Path, work: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        service = Service(Settings(store=folder / "store"))
        await service.start()
        try:
            await work(service)
        finally:
            service.close()

    asyncio.run(main())


async def publish(
    service: Service, folder: Path, name: str, owner: str, value: float = 1, **more: Any
) -> None:
    archive = folder / f"{owner}-{value}"
    archive.mkdir(exist_ok=True)
    graph = more.pop("graph", lambda width: constant(width, value))
    with pack(make_bundle(archive, name, graph, **more)).open("rb") as stream:
        assert (await service.publish(stream, MiB, owner)).name == name


def test_rows_and_events_are_answered(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await publish(service, tmp_path, "luca_1", "luca", 7)
        answers, classes = await service.predict("luca_1", "luca", ROW)
        assert (answers.tolist(), classes) == ([[7]], ["signal"])
        found = await service.predict_events("luca_1", "luca", EVENTS)
        assert found.model == "luca_1"
        assert found.classes == ["background", "signal"]
        assert found.predictions.tolist() == [[7]] * 3
        assert found.truncated == 6  # one of each jagged branch in three events
        assert found.outside == 0
        with pytest.raises(UsageError, match="takes 8 values, 1 were given"):
            await service.predict("luca_1", "luca", [1.0])

    run(tmp_path, work)


LONG = " + ".join(["(" + " + ".join(["sum(jet_pt)"] * 11) + ")"] * 10)


def derived(expression: str) -> Specs:
    cuts = Cuts.parse({"jet": "jet_pt > 30"}, {"n": expression}, "met > 1e6")
    inputs = {"met": Input("flat", "float32"), "jet_pt": Input("jagged", "float32")}
    derivation = Derivation(cuts, inputs, {"jet": ["jet_pt"]})
    return replace(make_specs(("n",), {}), derivation=derivation)


def test_expressions_are_applied_but_for_the_selection(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        identity = [(np.ones((1, 1), np.float32), np.zeros(1, np.float32))]
        graph = onnx_graph(identity, last="Identity")
        specs = derived("100 * count(jet_pt)")
        await publish(service, tmp_path, "luca_1", "luca", graph=graph, specs=specs)
        events = [{"jet_pt": [50, 20, 40]}, {"jet_pt": None}, {"jet_pt": [31]}]
        found = await service.predict_events("luca_1", "luca", events)
        assert found.predictions.tolist() == [[2], [0], [1]]  # of a range from 0 to 100
        with pytest.raises(UsageError, match="event 1 lacks the branch 'jet_pt'"):
            await service.predict_events("luca_1", "luca", [events[0], {"n": 3}])

    run(tmp_path, work)


@pytest.mark.hostile
def test_expressions_that_would_take_long_are_refused(tmp_path: Path) -> None:
    """A model of many operations, asked about a long list, can't occupy the service."""

    async def work(service: Service) -> None:
        specs = derived(LONG)
        await publish(service, tmp_path, "luca_1", "luca", specs=specs)
        with pytest.raises(LimitError, match="too many or too long for the expressions of luca_1"):
            await service.predict_events("luca_1", "luca", {"jet_pt": [[1.0] * 500_000]})
        found = await service.predict_events("luca_1", "luca", {"jet_pt": [[1.0] * 5000]})
        assert len(found.predictions) == 1

    run(tmp_path, work)


@pytest.mark.hostile
def test_expressions_of_long_lists_take_bounded_memory(tmp_path: Path) -> None:
    """What is computed at once is bounded: few events when they are long, one at most too long."""

    async def work(service: Service) -> None:
        identity = [(np.ones((1, 1), np.float32), np.zeros(1, np.float32))]
        graph = onnx_graph(identity, last="Identity")
        specs = derived(f"({LONG}) * 0 + 100 * count(jet_pt)")
        await publish(service, tmp_path, "luca_1", "luca", graph=graph, specs=specs)
        lists = [[50.0] * (1000 + i) for i in range(40)]
        tracemalloc.start()
        found = await service.predict_events("luca_1", "luca", {"jet_pt": lists})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.predictions[:, 0].tolist() == [1000 + i for i in range(40)]
        assert peak < 10 * MOST_DERIVED_AT_ONCE
        with pytest.raises(LimitError, match="too many or too long"):
            await service.predict_events("luca_1", "luca", {"jet_pt": [[1.0] * 40_000]})

    run(tmp_path, work)


def test_each_number_of_an_answer_has_its_class(tmp_path: Path) -> None:
    graph = onnx_graph(layer(8, 3), last="Softmax")

    async def work(service: Service) -> None:
        await publish(service, tmp_path, "m", "", graph=graph, classes=["a", "b", "c"])
        answers, classes = await service.predict("m", "", ROW)
        assert answers.shape == (1, 3)
        assert classes == ["a", "b", "c"]

    run(tmp_path, work)


def test_a_model_of_somebody_else_is_not_there(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await publish(service, tmp_path, "luca_1", "luca", 1)
        await publish(service, tmp_path, "carla_1", "carla", 2)
        with pytest.raises(NotFoundError, match="no model 'luca_1'") as caught:
            await service.predict("luca_1", "carla", ROW)
        assert "carla_1" in caught.value.remedy
        assert "luca" not in caught.value.remedy
        with pytest.raises(NotFoundError):
            await service.predict_events("luca_1", "carla", EVENTS)
        with pytest.raises(NotFoundError), service.reading("luca_1", "carla"):
            pass
        with pytest.raises(NotFoundError):
            await service.delete("luca_1", "carla")
        with pytest.raises(ConflictError, match="belongs to another user"):
            await publish(service, tmp_path, "luca_2", "carla", 3)
        assert [listed.bundle.name for listed in service.bundles("carla")] == ["carla_1"]
        assert [listed.bundle.name for listed in service.bundles("")] == ["carla_1", "luca_1"]
        answers, _ = await service.predict("luca_1", "luca", ROW)
        assert answers.tolist() == [[1]]

    run(tmp_path, work)


def test_a_deleted_model_is_not_there_for_its_owner_either(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await publish(service, tmp_path, "luca_1", "luca", 1)
        await publish(service, tmp_path, "luca_2", "luca", 2)
        await service.delete("luca_1", "luca")
        for attempt in (service.predict("luca_1", "luca", ROW), service.delete("luca_1", "luca")):
            with pytest.raises(NotFoundError, match="no model 'luca_1'") as caught:
                await attempt
            assert "luca_2" in caught.value.remedy

    run(tmp_path, work)


def test_the_turns_of_one_owner_leave_those_of_another(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        turns = [service.turn("carla") for _ in range(EVENTS_AT_ONCE)]
        for turn in turns:
            await asyncio.wait_for(turn.acquire(), 30)
        assert service.turn("carla").locked()
        assert not service.turn("luca").locked()
        turns[0].release()
        assert not service.turn("carla").locked()

    run(tmp_path, work)
