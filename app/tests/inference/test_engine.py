from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mlaas4hep.core.errors import BundleError, BusyError, ModelError, UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.engine import Model
from mlaas4hep.inference.pool import Pool
from mlaas4hep.models.bundle import Bundle
from support.bundles import layer, make_bundle, make_specs, onnx_graph

Rows = NDArray[np.float32]


def run(
    path: Path,
    work: Callable[[Model], Coroutine[Any, Any, Any]],
    rows: int = 128,
    waiting: int = 1000,
) -> Any:
    """What ``work`` makes with the model of a bundle; what is never answered fails the test."""

    async def main() -> Any:
        pool = Pool(Settings())
        try:
            return await work(await Model.load(Bundle.open(path), "1", pool, rows, waiting))
        finally:
            pool.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def nothing(model: Model) -> None:
    """For models that must not be loaded."""


def unloaded(path: Path) -> Model:
    """A model whose graph is never run."""
    return Model(Bundle.open(path), "1", Pool(Settings()), 128, 1000)


def expected(rows: Rows) -> NDArray[np.float64]:
    ((matrix, offsets),) = layer(rows.shape[1], 1)
    return 1 / (1 + np.exp(-(rows.astype(np.float64) @ matrix + offsets)))


def random_rows(count: int, width: int = 8) -> Rows:
    return np.random.default_rng(7).random((count, width), np.float32)


def square_root(width: int) -> bytes:
    """Answers the square root of the first value: NaN when that is negative."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["inputs", "first"], ["value"], axis=1),
            helper.make_node("Sqrt", ["value"], ["outputs"]),
        ],
        "root",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("first", TensorProto.INT64, [1], [0])],
    )
    return serialized(graph)


def picky(width: int) -> bytes:
    """Fails for a batch in which a row begins with 100 or more: an index out of range."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["inputs", "first"], ["value"], axis=1),
            helper.make_node("Cast", ["value"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["outputs"], axis=0),
        ],
        "picky",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("table", TensorProto.FLOAT, [100], np.arange(100.0)),
        ],
    )
    return serialized(graph)


def serialized(graph: onnx.GraphProto) -> bytes:
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def test_answers_are_numpys(tmp_path: Path) -> None:
    rows = random_rows(300)

    async def answers(model: Model) -> tuple[Rows, Rows]:
        single = await asyncio.gather(*(model.predict(row.tobytes()) for row in rows))
        assert (await model.predict_many(rows[:0])).size == 0
        return np.concatenate(single), await model.predict_many(rows)

    single, many = run(make_bundle(tmp_path), answers)
    assert single.dtype == many.dtype == np.float32
    np.testing.assert_allclose(single, expected(rows), rtol=1e-5)
    np.testing.assert_allclose(many, expected(rows), rtol=1e-5)


def test_rows_gather_while_a_batch_runs(tmp_path: Path) -> None:
    rows = random_rows(121)

    async def answers(model: Model) -> tuple[Rows, list[int]]:
        sizes: list[int] = []
        run_rows = model._pool.run

        def noted(graph: Any, content: bytes) -> Any:
            sizes.append(len(content) // 32)
            return run_rows(graph, content)

        model._pool.run = noted  # type: ignore[method-assign]
        first = model.predict(rows[0].tobytes())
        await asyncio.sleep(0)
        others = [model.predict(row.tobytes()) for row in rows[1:]]
        return np.concatenate(await asyncio.gather(first, *others)), sizes

    found, sizes = run(make_bundle(tmp_path), answers, rows=50)
    np.testing.assert_allclose(found, expected(rows), rtol=1e-5)
    assert sizes == [1, 50, 50, 20]


def test_a_client_that_goes_away_does_not_break_its_batch(tmp_path: Path) -> None:
    rows = random_rows(10)

    async def answers(model: Model) -> Rows:
        futures = [model.predict(row.tobytes()) for row in rows]
        futures[3].cancel()
        await asyncio.sleep(0)
        futures[4].cancel()
        return np.concatenate([await futures[i] for i in (0, 1, 2, 5, 9)])

    np.testing.assert_allclose(
        run(make_bundle(tmp_path), answers), expected(rows[[0, 1, 2, 5, 9]]), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("graph", "bad", "message"),
    [(square_root, -1.0, "isn't finite"), (picky, 1000.0, "failed")],
)
def test_a_bad_row_spoils_no_other(
    tmp_path: Path, graph: Callable[[int], bytes], bad: float, message: str
) -> None:
    rows = np.full((9, 8), 4, np.float32)
    rows[5, 0] = bad

    async def answers(model: Model) -> list[Any]:
        futures = [model.predict(row.tobytes()) for row in rows]
        return await asyncio.gather(*futures, return_exceptions=True)

    found = run(make_bundle(tmp_path, "m", graph), answers)
    assert isinstance(found[5], ModelError)
    assert message in str(found[5])
    good = {float(answer[0, 0]) for i, answer in enumerate(found) if i != 5}
    assert good == {2.0 if graph is square_root else 4.0}


def test_too_many_waiting_are_refused(tmp_path: Path) -> None:
    rows = random_rows(6)

    async def answers(model: Model) -> Rows:
        futures = [model.predict(row.tobytes()) for row in rows[:5]]
        with pytest.raises(BusyError, match="5 requests wait for the model luca_1"):
            model.predict(rows[5].tobytes())
        return np.concatenate(await asyncio.gather(*futures))

    np.testing.assert_allclose(
        run(make_bundle(tmp_path), answers, waiting=5), expected(rows[:5]), rtol=1e-5
    )


def test_row_puts_values_into_their_columns(tmp_path: Path) -> None:
    specs = make_specs(("a", "b"), {"c": 2})
    model = unloaded(make_bundle(tmp_path, specs=specs))
    assert model.columns == ["a", "b", "c_0", "c_1"]

    def row(*arguments: Any) -> list[float]:
        return np.frombuffer(model.row(*arguments), np.float32).tolist()

    assert row([1, 2.5, True, None]) == [1, 2.5, 1, 0]
    assert row([1, 2, 3, 4], ["a", "b", "c_0", "c_1"]) == [1, 2, 3, 4]
    assert row([1, 2, 3, None], ["c_1", "b", "a", "c_0"]) == [3, 2, 0, 1]


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        ([1.0] * 3, [], "takes 4 values, 3 were given"),
        ([1.0] * 5, [], "takes 4 values, 5 were given"),
        ([], [], "takes 4 values, 0 were given"),
        ([1.0] * 4, ["a"], "1 key but 4 values"),
        ([1.0] * 4, ["a", "b", "c_0", "c1"], "no column 'c1'.*c_1"),
        ([1.0] * 4, ["a", "b", "c_0", "a"], "key 'a' is given twice"),
        ([1.0] * 3, ["a", "b", "c_0"], "takes 4 values, 3 were given.*c_1"),
        ([1.0, "2", 3.0, 4.0], [], "value '2' of b"),
        ([1.0, 1e39, 3.0, 4.0], [], r"value 1e\+39 of b"),
        ([1.0, [2.0], 3.0, 4.0], [], r"value \[2.0\] of b"),
        ([1.0, 2.0, 3.0, {}], ["c_1", "c_0", "b", "a"], "value {} of a"),
    ],
)
def test_row_names_what_is_wrong(
    tmp_path: Path, values: list[Any], keys: list[str], message: str
) -> None:
    model = unloaded(make_bundle(tmp_path, specs=make_specs(("a", "b"), {"c": 2})))
    with pytest.raises(UsageError, match=f"(?s){message}"):
        model.row(values, keys)


def test_what_does_not_fit_is_found_when_loading(tmp_path: Path) -> None:
    def fails(name: str, graph: bytes, message: str, **more: Any) -> None:
        with pytest.raises(BundleError, match=f"(?s){message}"):
            run(make_bundle(tmp_path, name, graph, **more), nothing)

    fails("garbage", b"no graph", "can't be loaded")
    fails("width", onnx_graph(layer(7, 1)), r"can't be run.*inputs \[N, 8\]")
    fails("outputs", onnx_graph(layer(8, 3)), "has 3 outputs, its bundle.json says 1")
    fails("classes", onnx_graph(layer(8, 1)), "has 1 outputs, .* says 3", classes="abc")
    fails("unserved", b"", "slow tree", why_not="slow tree")


def test_weights_in_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.ones(8, np.float32).tofile("weights")
    for location in ("weights", str(tmp_path / "weights"), "../weights"):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["inputs", "w"], ["outputs"])],
            "outside",
            [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", 8])],
            [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", 1])],
            [tensor],
        )
        name = f"m{len(location)}"
        with pytest.raises(BundleError, match="can't be loaded"):
            run(make_bundle(tmp_path, name, serialized(graph)), nothing)
