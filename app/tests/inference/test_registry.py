from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.errors import BundleError, ConflictError, NotFoundError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference import pool
from mlaas4hep.inference.engine import Model
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.bundle import Bundle, pack
from mlaas4hep.models.repository import Repository
from support.bundles import constant, layer, make_bundle, make_specs, onnx_graph

MiB = 1 << 20


def source(folder: Path, name: str, value: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return make_bundle(folder, name, lambda width: constant(width, value))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models as they are loaded."""
    names: list[str] = []
    load = Model.load

    async def count(bundle: Bundle, *rest: Any) -> Model:
        names.append(bundle.name)
        return await load(bundle, *rest)

    monkeypatch.setattr(Model, "load", count)
    return names


def run(
    repository: Repository, work: Callable[[Registry], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    async def main() -> None:
        registry = Registry(repository, Settings(**settings))
        try:
            await work(registry)
        finally:
            registry.close()

    asyncio.run(main())


async def answer(registry: Registry, name: str) -> float:
    model = await registry.get(name)
    return float((await model.predict(model.row([0.0] * model.width)))[0, 0])


def test_a_cold_model_is_loaded_once(
    repository: Repository, tmp_path: Path, loads: list[str]
) -> None:
    repository.put(source(tmp_path, "m", 5), "m")

    async def work(registry: Registry) -> None:
        assert registry.loaded("m") is None
        assert await asyncio.gather(*(answer(registry, "m") for _ in range(100))) == [5] * 100
        assert registry.loaded("m") is not None

    run(repository, work)
    assert loads == ["m"]


def test_the_next_look_up_finds_what_another_process_published(
    repository: Repository, tmp_path: Path
) -> None:
    sources = [source(tmp_path / str(value), "m", value) for value in range(4)]

    async def work(registry: Registry) -> None:
        for value, path in enumerate(sources):
            Repository(repository.root).put(path, "m")
            assert await answer(registry, "m") == value
        Repository(repository.root).delete("m")
        with pytest.raises(NotFoundError, match="no model 'm'"):
            await answer(registry, "m")
        Repository(repository.root).put(sources[2], "m")
        assert await answer(registry, "m") == 2

    run(repository, work)


def test_the_least_recently_used_makes_room(
    repository: Repository, tmp_path: Path, loads: list[str]
) -> None:
    for value, name in enumerate("abc"):
        repository.put(source(tmp_path, name, value), name)

    async def work(registry: Registry) -> None:
        for name, value in [("a", 0), ("b", 1), ("a", 0), ("c", 2), ("a", 0), ("b", 1)]:
            assert await answer(registry, name) == value
        together = await asyncio.gather(*(answer(registry, name) for name in "abcabc"))
        assert together == [0, 1, 2, 0, 1, 2]

    run(repository, work, max_loaded_models=2)
    assert loads[:4] == ["a", "b", "c", "b"]


@pytest.mark.hostile
def test_models_of_very_many_columns_make_room_for_others(
    repository: Repository, tmp_path: Path
) -> None:
    """14 bundles of a million columns and 2.3 MB filled the 2 GiB of TFaaS, which was killed."""
    for name in "abcde":
        specs = make_specs((), {"x": 100_000})
        repository.put(make_bundle(tmp_path, name, b"", specs=specs), name)

    async def work(registry: Registry) -> None:
        for name in "abcde":
            bundle = Bundle.open(repository.root / name)
            model = Model(bundle, repository.version(name), registry.pool, 1, 1)
            registry._keep(name, model)
        assert [name for name in "abcde" if registry.loaded(name)] == ["d", "e"]

    run(repository, work, max_loaded_bytes=50 * MiB)


def test_a_broken_model_breaks_no_other(
    repository: Repository, tmp_path: Path, loads: list[str]
) -> None:
    repository.put(source(tmp_path, "good", 1), "good")
    repository.put(make_bundle(tmp_path, "narrow", constant(3, 1)), "narrow")
    repository.put(make_bundle(tmp_path, "garbage", b"no graph"), "garbage")
    repository.put(make_bundle(tmp_path, "unserved", why_not="it has a Lambda"), "unserved")
    repository.put(source(tmp_path, "damaged", 1), "damaged")
    (repository.root / "damaged/columns.json").unlink()

    async def work(registry: Registry) -> None:
        for name, why in [
            ("narrow", "can't be run"),
            ("garbage", "can't be loaded"),
            ("unserved", "it has a Lambda"),
            ("damaged", "lacks columns.json"),
        ]:
            for _ in range(3):
                with pytest.raises(ConflictError, match=f"can't serve {name}: .*{why}"):
                    await registry.get(name)
            assert await answer(registry, "good") == 1
        repository.put(source(tmp_path / "repaired", "narrow", 7), "narrow")
        assert await answer(registry, "narrow") == 7

    run(repository, work)
    assert loads.count("narrow") == 2  # broken once, repaired once


def test_publish_is_seen_at_once_and_loads_nothing_again(
    repository: Repository, tmp_path: Path, loads: list[str]
) -> None:
    archives = [pack(source(tmp_path / str(value), "m", value)) for value in range(3)]

    async def work(registry: Registry) -> None:
        for value, archive in enumerate(archives):
            with archive.open("rb") as stream:
                bundle = await registry.publish(stream, MiB)
            assert bundle.path.is_relative_to(repository.root)
            assert await answer(registry, "m") == value
        await registry.delete("m")
        with pytest.raises(NotFoundError):
            await answer(registry, "m")

    run(repository, work)
    assert loads == ["m"] * 3


def test_a_refused_bundle_leaves_the_old_one(repository: Repository, tmp_path: Path) -> None:
    repository.put(source(tmp_path, "m", 5), "m")
    broken = pack(make_bundle(tmp_path / "broken", "m", b"no graph"))
    unserved = pack(make_bundle(tmp_path / "unserved", "n", why_not="it has a Lambda"))

    async def work(registry: Registry) -> None:
        with broken.open("rb") as stream, pytest.raises(BundleError, match="can't be loaded"):
            await registry.publish(stream, MiB)
        assert await answer(registry, "m") == 5
        with unserved.open("rb") as stream:
            await registry.publish(stream, MiB)
        with pytest.raises(ConflictError, match="it has a Lambda"):
            await registry.get("n")

    run(repository, work)
    assert list(repository.names()) == ["m", "n"]


@pytest.mark.parametrize("graph", [lambda width: constant(width, 1), onnx_graph(layer(8, 3))])
def test_a_slow_model_that_is_not_published_keeps_no_worker(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    graph: bytes | Callable[[int], bytes],
) -> None:
    monkeypatch.setattr(pool, "PATIENCE", 0)  # every load is slow, and gives a worker of its own
    archive = pack(make_bundle(tmp_path, "m", graph))

    def taken(name: str) -> None:
        raise ConflictError(f"{name} belongs to another user")

    async def work(registry: Registry) -> None:
        for _ in range(pool.MOST_ALONE + 1):
            with archive.open("rb") as stream, pytest.raises((ConflictError, BundleError)):
                await registry.publish(stream, MiB, taken)
        assert len(registry.pool.processes) <= 1  # one for who comes next

    run(repository, work)
