from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.base import ClassifierMixin

from frameworks.arrays import Arrays
from mlaas4hep.core.errors import DataError, ModelError
from mlaas4hep.core.progress import silent
from mlaas4hep.frameworks import FRAMEWORKS, FitPlan, NotServable, framework_of, set_up
from mlaas4hep.frameworks.base import Classes, Matrix
from mlaas4hep.frameworks.keras import Keras, _blocks

set_up({"keras"}, 21)
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

framework = Keras()


def network(
    width: int = 6,
    outputs: int = 1,
    loss: Any = "binary_crossentropy",
    activation: str | None = None,
    rate: float = 0.02,
    metrics: Any = (),
    layers: Any = (),
) -> Any:
    activation = activation or ("sigmoid" if outputs == 1 else "softmax")
    model = keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(8, activation="relu"),
            *layers,
            keras.layers.Dense(outputs, activation=activation),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=rate), loss=loss, metrics=metrics)
    return model


def plan(epochs: int = 3, batch_size: int = 50) -> FitPlan:
    return FitPlan(epochs=epochs, batch_size=batch_size, seed=21)


def answers(path: Path, rows: Matrix) -> Matrix:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["inputs"]
    assert [o.name for o in session.get_outputs()] == ["outputs"]
    return session.run(["outputs"], {"inputs": rows})[0]  # type: ignore[no-any-return]


def test_fit_learns_and_tells_how(tmp_path: Path) -> None:
    data = Arrays(train=630, validation=170)
    seen: list[tuple[str, int, int, dict[str, float]]] = []
    model = network(metrics=[keras.metrics.AUC(name="auc")])
    framework.check(model, 6, 2)
    fit = framework.fit(
        model, data, plan(), lambda phase, done, total, **f: seen.append((phase, done, total, f))
    )
    assert set(fit.history) == {"loss", "auc", "val_loss", "val_auc"}
    assert all(len(values) == 3 for values in fit.history.values())
    assert fit.history["val_loss"][-1] < fit.history["val_loss"][0]
    assert data.asked == [0, 1, 2]
    assert [s[1] for s in seen] == [630, 1260, 1890]
    assert all(s[0] == "training" and s[2] == 1890 for s in seen)
    assert seen[-1][3]["val_loss"] == pytest.approx(fit.history["val_loss"][-1])
    scores = framework.predict(model, data.x[630:])
    assert scores.shape == (170, 1)
    assert ((scores[:, 0] > 0.5) == data.y[630:]).mean() > 0.8


@pytest.mark.parametrize("batch_size", [3, 50, 700])
def test_several_batches_at_once_train_the_same(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for steps in (1, 32):
        monkeypatch.setattr("mlaas4hep.frameworks.keras._STEPS", steps)
        framework.set_up(21)
        model = network(metrics=["accuracy"])
        fit = framework.fit(model, Arrays(train=331), plan(batch_size=batch_size), silent)
        found.append((fit.history, model.get_weights()))
    for key, values in found[0][0].items():
        np.testing.assert_allclose(values, found[1][0][key], rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_users_own_steps_per_execution_stay() -> None:
    model = network()
    model.compile(optimizer="adam", loss="binary_crossentropy", steps_per_execution=2)
    framework.fit(model, Arrays(train=331), plan(), silent)
    assert model.steps_per_execution == 2


def test_a_model_that_runs_eagerly_trains() -> None:
    model = network()
    model.compile(optimizer="adam", loss="binary_crossentropy", run_eagerly=True)
    fit = framework.fit(model, Arrays(train=331), plan(), silent)
    assert fit.history["loss"][-1] < fit.history["loss"][0]


def test_the_best_epoch_is_kept() -> None:
    framework.set_up(21)
    model = network()
    rate = iter([0.05, 0.05, 500.0, 500.0, 500.0])

    class Spoiled(Arrays):
        def epoch(self, number: int) -> Iterator[tuple[Matrix, Classes]]:
            model.optimizer.learning_rate.assign(next(rate))
            return super().epoch(number)

    data = Spoiled()
    fit = framework.fit(model, data, plan(epochs=5), silent)
    assert fit.best == int(np.argmin(fit.history["val_loss"])) == 1
    x, y = data.x[600:], data.y[600:]
    kept = model.evaluate(x, y[:, None].astype("float32"), verbose=0)
    assert kept == pytest.approx(fit.history["val_loss"][1], rel=1e-4)


def test_without_validation_the_loss_decides() -> None:
    fit = framework.fit(network(), Arrays(validation=0), plan(epochs=2), silent)
    assert set(fit.history) == {"loss"}
    assert fit.best == int(np.argmin(fit.history["loss"]))


def test_every_event_is_seen_once_an_epoch() -> None:
    seen: list[float] = []

    class Counting(keras.Model):  # type: ignore[misc]
        """A user's own train_step, which must be honoured."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1, activation="sigmoid")

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, data: Any) -> Any:
            tf.numpy_function(lambda x: seen.extend(x[:, 0].tolist()), [data[0]], [])
            return super().train_step(data)

    model = Counting()
    model.compile(optimizer="sgd", loss="binary_crossentropy", jit_compile=False)
    data = Arrays(train=1003, chunk=97)
    framework.check(model, 6, 2)
    framework.fit(model, data, plan(epochs=2, batch_size=64), silent)
    assert sorted(seen[:1003]) == sorted(data.x[:1003, 0].tolist()) == sorted(seen[1003:])


@pytest.mark.parametrize("rows", [1, 7, 100, 5000])
def test_blocks_hold_the_same_events(rows: int) -> None:
    data = Arrays(train=1003, validation=0, chunk=97)
    blocks = list(_blocks(data.epoch(0), rows))
    assert all(len(y) % rows == 0 for _, y in blocks[:-1])
    whole = list(data.epoch(0))
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in blocks]), np.concatenate([x for x, _ in whole])
    )
    np.testing.assert_array_equal(
        np.concatenate([y for _, y in blocks]), np.concatenate([y for _, y in whole])
    )


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights() -> list[Any]:
        set_up({"keras"}, 5)
        model = network(layers=[keras.layers.Dropout(0.3)])
        framework.fit(model, Arrays(), plan(epochs=2), silent)
        return model.get_weights()  # type: ignore[no-any-return]

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


LOSSES: dict[str, tuple[int, int, Any, str | None]] = {
    "binary": (2, 1, "binary_crossentropy", None),
    "binary from logits": (
        2,
        1,
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        "linear",
    ),
    "two neurons": (2, 2, "sparse_categorical_crossentropy", None),
    "two neurons, one-hot": (2, 2, "binary_crossentropy", None),
    "one-hot": (3, 3, "categorical_crossentropy", None),
    "sparse": (3, 3, lambda: keras.losses.SparseCategoricalCrossentropy(), None),
    "sparse, logits": (
        3,
        3,
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "linear",
    ),
    "in a list": (3, 3, lambda: ["sparse_categorical_crossentropy"], None),
    "own function": (3, 3, lambda: _own_loss, None),
}


def _own_loss(truth: Any, answer: Any) -> Any:
    return keras.losses.categorical_crossentropy(truth, answer)


@pytest.mark.parametrize("what", LOSSES)
def test_losses_and_what_is_served(tmp_path: Path, what: str) -> None:
    k, outputs, loss, activation = LOSSES[what]
    data = Arrays(k=k)
    model = network(outputs=outputs, loss=loss() if callable(loss) else loss, activation=activation)
    framework.check(model, 6, k)
    framework.fit(model, data, plan(epochs=8), silent)
    scores = framework.predict(model, data.x)
    assert scores.shape == (800, 1 if k == 2 else k)
    assert scores.min() >= 0
    assert scores.max() <= 1
    guess = scores[:, 0] > 0.5 if k == 2 else scores.argmax(axis=1)
    assert (guess == data.y).mean() > 0.75
    framework.to_onnx(model, tmp_path / "m.onnx", 6)
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", data.x), scores, rtol=1e-4, atol=1e-6)
    assert answers(tmp_path / "m.onnx", data.x[:0]).shape == (0, scores.shape[1])
    assert framework.predict(model, data.x[:0]).shape == (0, scores.shape[1])


def test_the_saved_model_is_one_that_the_original_tfaas_serves(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    data = Arrays()
    model = network()
    assert framework.save(model, tmp_path, 6) == []
    assert {p.name for p in tmp_path.iterdir()} >= {
        "saved_model.pb", "variables", "assets", "model.keras",
    }  # fmt: skip
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    assert "serve" in meta.meta_info_def.tags
    ops = {node.name: node for node in meta.graph_def.node}
    assert ops["serving_default_inputs_input"].op == "Placeholder"
    assert ops["StatefulPartitionedCall"].op == "StatefulPartitionedCall"
    assert "serving_default_inputs_input" in ops["StatefulPartitionedCall"].input
    signature = meta.signature_def["serving_default"]
    assert [o.name for o in signature.outputs.values()] == ["StatefulPartitionedCall:0"]

    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (answer,) = served(inputs_input=tf.constant(data.x)).values()
    np.testing.assert_allclose(answer.numpy(), framework.predict(model, data.x), rtol=1e-6)
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(data.x, verbose=0), answer.numpy(), rtol=1e-5)


def test_a_model_that_cannot_become_onnx(tmp_path: Path) -> None:
    model = network(layers=[keras.layers.Lambda(_by_python, output_shape=(8,))])
    with pytest.raises(NotServable, match="it can't become ONNX"):
        framework.to_onnx(model, tmp_path / "m.onnx", 6)
    assert list(tmp_path.iterdir()) == []


def _by_python(x: Any) -> Any:
    result = tf.numpy_function(lambda a: 2 * a, [x], tf.float32)
    result.set_shape((None, 8))
    return result


def hidden_output() -> Any:
    """A subclass: its layers are unknown, and near zero its answers lie in [0, 1]."""

    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(0.5))

        def call(self, rows: Any) -> Any:
            return self.dense(rows * 1e-3)

    model = Own()
    model.compile(optimizer="adam", loss="mse")
    return model


def zero_output() -> Any:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(optimizer="adam", loss="mse")
    return model


def uncompiled() -> Any:
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("make", "k", "match"),
    [
        (uncompiled, 2, "not compiled"),
        (lambda: network(width=5), 2, "rows of 6 columns: ValueError: .*expected .* 5"),
        (lambda: network(outputs=3), 2, "output has 3 columns, but there are 2 classes"),
        (lambda: network(outputs=1), 3, "output has 1 column, but there are 3 classes"),
        (lambda: network(outputs=2), 3, "output has 2 columns, but there are 3 classes"),
        (lambda: network(layers=[keras.layers.Reshape((2, 4))]), 2, "the shape"),
        (lambda: network(activation="linear", loss="mse"), 2, "dense.*activation linear"),
        (lambda: network(activation="relu"), 2, "not a probability.*activation relu"),
        (lambda: network(activation="tanh", loss="hinge"), 2, "not a probability.*activation tanh"),
        (
            lambda: network(outputs=2, activation="linear"),
            2,
            "not a probability.*activation linear",
        ),
        (lambda: network(outputs=3, activation="sigmoid"), 3, r"add up to [\d.]+, not to 1"),
        (lambda: hidden_output(), 2, "not a probability: the model answers"),
        (lambda: zero_output(), 2, "not a probability.*activation linear"),
    ],
)
def test_models_that_are_refused(make: Callable[[], Any], k: int, match: str) -> None:
    with pytest.raises(ModelError, match=match) as found:
        framework.check(make(), 6, k)
    assert found.value.remedy


@pytest.mark.parametrize(
    "last",
    [
        keras.layers.Activation("sigmoid"),
        keras.layers.Lambda(keras.ops.sigmoid),
        keras.layers.Dense(1, activation=lambda x: 0.5 + 0.5 * keras.ops.tanh(x)),
        keras.layers.Dense(1, activation="hard_sigmoid"),
    ],
)
def test_other_ways_to_a_probability_are_accepted(last: Any) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1), last])
    model.compile(optimizer="adam", loss="binary_crossentropy")
    framework.check(model, 6, 2)


def test_an_operation_without_counterpart_is_named_with_the_way_out(tmp_path: Path) -> None:
    model = network(layers=[keras.layers.Lambda(keras.ops.log1p)])
    with pytest.raises(NotServable, match=r"operation Log1p .*; write log\(1 \+ x\)"):
        framework.to_onnx(model, tmp_path / "m.onnx", 6)


def test_a_diverging_training_names_epoch_and_remedy() -> None:
    model = network(activation="linear", loss="mean_squared_error")

    class Bad(Arrays):
        def epoch(self, number: int) -> Iterator[tuple[Matrix, Classes]]:
            if number == 1:
                model.optimizer.learning_rate.assign(1e30)
            return super().epoch(number)

    with pytest.raises(ModelError, match="not a number in epoch 2") as found:
        framework.fit(model, Bad(), plan(), silent)
    assert "learning rate" in found.value.remedy


def test_a_failure_of_reading_comes_out_as_it_is() -> None:
    class Gone(Arrays):
        def epoch(self, number: int) -> Iterator[tuple[Matrix, Classes]]:
            if number == 1:
                raise DataError("a.root is gone")
            return super().epoch(number)

    with pytest.raises(DataError, match=r"^a\.root is gone$"):
        framework.fit(network(), Gone(), plan(), silent)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ("keras.optimizers.Own(lr=1)", r"^model\.py:2: Own\(lr=\.\.\.\) is Keras 2"),
        ("o.Adam(1, lr=1)", r"^model\.py:2: Adam"),
        ("own(lr=1)", ""),
        ("Adam(learning_rate=1)", ""),
    ],
)
def test_what_keras_3_does_not_know_is_seen_in_the_source(call: str, match: str) -> None:
    tree = ast.parse(f"def model(idim):\n    return {call}\n")
    if not match:
        framework.check_source(tree, "model.py")
        return
    with pytest.raises(ModelError, match=match) as found:
        framework.check_source(tree, "model.py")
    assert "learning_rate" in found.value.remedy


def test_a_users_subclass_is_keras_and_others_are_nothing() -> None:
    class Mine(keras.Model):  # type: ignore[misc]
        pass

    class Mixed(ClassifierMixin, keras.Model):  # type: ignore[misc]
        pass

    assert framework_of(Mine()).name == framework_of(Mixed()).name == "keras"
    with pytest.raises(
        ModelError, match=r"builtins\.dict, which is not a model of keras or scikit"
    ):
        framework_of({})
    assert len({f.name for f in FRAMEWORKS}) == len(FRAMEWORKS)


@pytest.mark.parametrize("outputs", [1, 2])
def test_weights_count_in_the_fit_and_in_the_loss(outputs: int) -> None:
    """What is labelled wrongly has the weight 0, a part of the rest a negative one."""
    random = np.random.default_rng(8)
    weights = random.choice([1.6, -0.2], 800)
    data = Arrays(weights=weights)
    right = data.y.copy()
    wrong = np.flatnonzero(random.random(800) < 0.6)
    data.y[wrong] = 1 - data.y[wrong]
    weights[wrong] = 0
    weights /= weights[:600].mean()
    model = network(outputs=outputs, loss="binary_crossentropy" if outputs == 1
                    else "sparse_categorical_crossentropy")  # fmt: skip
    fit = framework.fit(model, data, plan(6, batch_size=60), silent)
    scores = framework.predict(model, data.x[600:])[:, 0].astype(float)
    assert ((scores > 0.5) == right[600:]).mean() > 0.8
    losses = -np.log(np.where(data.y[600:] == 1, scores, 1 - scores))
    expected = (weights[600:] * losses).mean()
    assert fit.history["val_loss"][fit.best] == pytest.approx(expected, rel=1e-4)


def test_early_stopping_keeps_the_best_epoch() -> None:
    data = Arrays()
    model = network(rate=0.3)
    stopping = FitPlan(epochs=40, batch_size=50, seed=21, patience=2, min_delta=0.01)
    fit = framework.fit(model, data, stopping, silent)
    losses = fit.history["val_loss"]
    assert fit.best == int(np.argmin(losses))
    assert len(losses) < 40
    scores = framework.predict(model, data.x[600:])[:, 0].astype(float)
    own = -np.log(np.where(data.y[600:] == 1, scores, 1 - scores)).mean()
    assert own == pytest.approx(min(losses), rel=1e-3)
