"""Keras 3 on TensorFlow: compiled models, trained by their own ``fit``."""

from __future__ import annotations

import ast
import contextlib
import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlaas4hep.core.errors import ModelError
from mlaas4hep.core.progress import Progress
from mlaas4hep.core.units import many
from mlaas4hep.data.target import Target
from mlaas4hep.frameworks.base import (
    Batches,
    Best,
    Block,
    Fit,
    FitPlan,
    Framework,
    History,
    Matrix,
    NotServable,
    Regression,
    reason,
    refuse_improper,
    refuse_nan,
)

BLOCK = 8192
"""Rows that are predicted at once."""
OPSET = 17
_UNBOUNDED = frozenset(
    (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("tanh", "softplus", "softsign", "exponential", "log_softmax", "log_sigmoid"),
    )
)
"""Activations whose values are no probabilities."""
_BOUNDED = frozenset(
    (
        *("sigmoid", "hard_sigmoid", "softmax", "tanh", "softsign", "relu", "relu6", "elu", "selu"),
        *("celu", "gelu", "silu", "swish", "mish", "softplus", "exponential", "log_sigmoid"),
        *("log_softmax", "hard_silu", "hard_swish", "hard_tanh", "sparsemax", "squareplus"),
    )
)
"""Activations that some numbers can't be the values of."""
_NOT_OF_NUMBERS = (
    *("crossentropy", "hinge", "divergence", "dice", "tversky"),
    *("poisson", "logarithmic", "msle", "percentage", "mape"),
)
"""What the names of losses hold that compare classes; or numbers, but only those above 0."""
_WAYS = {
    "Log1p": "write log(1 + x)",
    "Expm1": "write exp(x) - 1",
    "Atan2": "write it with atan and where",
}
"""Operations of TensorFlow without a counterpart in ONNX, and what to write instead."""
_OPTIMIZERS = frozenset(
    (
        *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"),
        *("Nadam", "Ftrl", "Lion", "Lamb", "Muon"),
    )
)
_REPORT = 20_000  # events between two calls of progress
_STEPS = 32  # batches that TensorFlow trains on between two calls of Python; 1.7 times faster


class Keras(Framework):
    """Compiled Keras models with one input (n, columns) and one output (n, 1) or (n, k)."""

    name = "keras"
    wanted = "a compiled Keras model"
    modules = frozenset({"keras", "tensorflow", "tf_keras"})
    packages = ("tensorflow-cpu", "tensorflow", "keras", "tf2onnx")
    probabilities = (
        "Give the last layer a sigmoid (two classes) or a softmax, or the model a loss with"
        " from_logits=True, such as keras.losses.BinaryCrossentropy(from_logits=True)."
    )
    card_names = {  # noqa: RUF012
        "model": "saved_model.pb",
        "input_name": "serving_default_inputs_input",
        "output_name": "StatefulPartitionedCall",
        "input_node": "serving_default_inputs_input",
        "output_node": "StatefulPartitionedCall",
    }

    def check_source(self, tree: ast.Module, name: str) -> None:
        """Refuse ``lr=``, which Keras 3's optimizers don't know."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                _refuse_lr(node, name)

    truth: ClassVar[str] = "int64"
    """The type of a block's truth."""

    def regression(self, target: Target) -> Framework:
        """Models with one output, (n, 1), that is not bounded."""
        return KerasRegression(target)

    def set_up(self, seed: int) -> None:
        """Import TensorFlow without its chatter, and seed Python, numpy and TensorFlow.

        A training that begins again in this process is the same as in a new one.
        """
        _quiet_import()
        import keras

        keras.backend.clear_session()
        keras.utils.set_random_seed(seed % 2**32)

    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Raise ModelError unless the model is compiled, takes ``width`` and fits the classes."""
        shape, output = _shape(model, width)
        widths = (1, 2) if n_classes == 2 else (n_classes,)
        if len(shape) != 2 or shape[1] not in widths:
            wanted = "1 (sigmoid), or 2 (softmax)" if n_classes == 2 else f"{n_classes} (softmax)"
            raise ModelError(
                f"the model's output has {output}, but there are {n_classes} classes",
                f"Give the last Dense layer {wanted} units.",
            )
        _check_probabilities(model, width)

    def fit(self, model: Any, data: Batches, plan: FitPlan, progress: Progress) -> Fit:
        """One ``model.fit`` over the streamed events; the best epoch's weights are put back."""
        watch = _watch(data.train_events, plan, progress)
        encode = self._encode(model, data)
        failures: list[BaseException] = []

        def stream(source: Callable[[], Iterator[Block]], events: int) -> Any:
            return _dataset(source, encode, data, self.truth, events, plan.batch_size, failures)

        if model.steps_per_execution == 1 and not model.run_eagerly:
            model.steps_per_execution = max(1, min(_STEPS, _REPORT // plan.batch_size))
        try:
            result = model.fit(
                stream(lambda: data.epoch(watch.epoch), data.train_events),
                epochs=plan.epochs,
                validation_data=(
                    stream(data.validation, data.validation_events)
                    if data.validation_events
                    else None
                ),
                callbacks=[watch],
                shuffle=False,  # the data set does it
                verbose=2 if plan.verbose else 0,
            )
        except Exception:
            if failures:  # TensorFlow shows what our reading raised as an error of its own
                raise failures[0] from None
            raise
        if watch.weights is not None:
            model.set_weights(watch.weights)
        history: History = {
            key: [float(value) for value in values] for key, values in result.history.items()
        }
        return Fit(history, watch.best.epoch)

    def predict(self, model: Any, rows: Matrix) -> Matrix:
        """The answers to ``rows``, by the same function that is exported."""
        answer = _compiled(self, model, rows.shape[1])
        if not len(rows):
            return self.predict(model, np.zeros((1, rows.shape[1]), np.float32))[:0]
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        return np.concatenate([answer(block).numpy() for block in blocks])

    def save(self, model: Any, folder: Path, width: int) -> list[str]:
        """A SavedModel at the folder's root, as the original TFaaS reads it, and model.keras."""
        import keras
        import tensorflow as tf

        said: list[str] = []
        try:
            with _quiet():
                archive = keras.export.ExportArchive()
                archive.track(model)
                archive.add_endpoint(
                    "serving_default",
                    self.answer(model),
                    input_signature=[_signature(width, "inputs_input")],
                )
                archive.write_out(str(folder), verbose=False)
                try:
                    model.save(folder / "model.keras")
                except (TypeError, ValueError, NotImplementedError) as error:
                    (folder / "model.keras").unlink(missing_ok=True)
                    said.append(f"no model.keras: Keras can't write this model: {reason(error)}")
        except tf.errors.OpError as error:
            raise OSError(errno.EIO, error.message, str(folder)) from error
        return said

    def to_onnx(self, model: Any, path: Path, width: int) -> None:
        """Convert by tf2onnx; NotServable when an operation has no counterpart."""
        import tensorflow as tf

        signature = [_signature(width, "inputs")]
        answer = tf.function(self.answer(model), input_signature=signature)
        with _quiet():
            import onnx
            import tf2onnx  # type: ignore[import-untyped]

            try:
                proto, _ = tf2onnx.convert.from_function(
                    answer, input_signature=signature, opset=OPSET
                )
                _rename_output(proto.graph)
                onnx.checker.check_model(proto)
            except Exception as error:
                raise NotServable(f"it can't become ONNX: {_why_no_onnx(error)}") from error
        path.write_bytes(proto.SerializeToString())

    def answer(self, model: Any) -> Callable[[Any], Any]:
        """The model as a function from rows to what ``predict`` gives."""
        return _probabilities(model)

    def _encode(self, model: Any, data: Batches) -> Callable[[Any], Any]:
        """What makes of a block's truth that with which the model's loss compares."""
        return _targets(model, data.width, data.n_classes)


class KerasRegression(Regression, Keras):
    """Compiled Keras models with one output, (n, 1), that any number can be."""

    truth = "float32"
    native = "model.keras"

    def check(self, model: Any, width: int, n_classes: int, weighted: bool = False) -> None:
        """Raise ModelError unless the model is compiled, takes ``width`` and predicts a number."""
        shape, output = _shape(model, width)
        if shape[1:] != (1,):
            raise ModelError(
                f"the model's output has {output}, but the target {self.target.branch} is one"
                " number per event",
                "Give the last Dense layer 1 unit.",
            )
        if (last := _last(model)) is not None and last[1] in _BOUNDED:
            raise ModelError(
                f"the last layer, {last[0]}, has the activation {last[1]}, which can't reach all"
                f" values: the model is trained on the target {self.target.branch} less its mean,"
                " divided by its standard deviation",
                "Give the last layer no activation.",
            )
        if any(word in (name := _loss_name(model)).lower() for word in _NOT_OF_NUMBERS):
            raise ModelError(
                f"the loss {name} is for classes or for numbers above 0, but the model is trained"
                f" on the target {self.target.branch} less its mean, divided by its standard"
                " deviation",
                'Compile the model with a loss for numbers: loss="mse", "mae" or "huber".',
            )

    def answer(self, model: Any) -> Callable[[Any], Any]:
        """The model, and back to the target's own units."""
        import tensorflow as tf

        mean, std = self.target.mean, self.target.std

        def answer(rows: Any) -> Any:
            return tf.cast(model(rows, training=False), tf.float32) * std + mean

        return answer

    def _encode(self, model: Any, data: Batches) -> Callable[[Any], Any]:
        return lambda targets: targets[:, None]


def _shape(model: Any, width: int) -> tuple[tuple[int, ...], str]:
    """The shape of a compiled model's output, and how it is told; ModelError unless it has one."""
    if not getattr(model, "compiled", False):
        raise ModelError(
            "model(idim) returned a Keras model that is not compiled",
            "Call .compile(optimizer=..., loss=...) on it before you return it.",
        )
    try:
        output = model(np.zeros((2, width), np.float32), training=False)
    except Exception as error:
        raise ModelError(
            f"the model does not take rows of {width} columns: {reason(error)}",
            "Give the first layer the shape (idim,): keras.Input((idim,)).",
        ) from error
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) == 2:
        return shape, many(shape[1], "column")
    return shape, f"the shape {shape or type(output).__name__}"


def _refuse_lr(call: ast.Call, name: str) -> None:
    *path, called = ast.unparse(call.func).split(".")
    for keyword in call.keywords:
        if keyword.arg == "lr" and (called in _OPTIMIZERS or "optimizers" in path):
            raise ModelError(
                f"{name}:{keyword.lineno}: {called}(lr=...) is Keras 2",
                "Write learning_rate=... instead of lr=...",
            )


def _signature(width: int, name: str) -> Any:
    import tensorflow as tf

    return tf.TensorSpec((None, width), tf.float32, name=name)


def _probabilities(model: Any) -> Callable[[Any], Any]:
    """The model as a function from rows to probabilities: (n, 1) for two classes."""
    import tensorflow as tf

    logits = bool(getattr(_loss_of(model), "from_logits", False))

    def answer(rows: Any) -> Any:
        output = tf.cast(model(rows, training=False), tf.float32)
        if logits:
            output = tf.sigmoid(output) if output.shape[1] == 1 else tf.nn.softmax(output)
        return output[:, 1:] if output.shape[1] == 2 else output

    return answer


@lru_cache(maxsize=1)
def _compiled(framework: Keras, model: Any, width: int) -> Any:
    import tensorflow as tf

    return tf.function(framework.answer(model), input_signature=[_signature(width, "inputs")])


def _check_probabilities(model: Any, width: int) -> None:
    """ModelError unless the untrained model's answers are probabilities, and will remain so."""
    if getattr(_loss_of(model), "from_logits", False):
        return
    if (last := _last(model)) is not None and last[1] in _UNBOUNDED:
        raise ModelError(
            f"the output is not a probability: the last layer, {last[0]}, has the activation"
            f" {last[1]}",
            Keras.probabilities,
        )
    # Rows as in the training, and such that what isn't bounded leaves [0, 1] for sure.
    rows = np.random.default_rng(0).random((64, width), np.float32)
    for factor in (1, 1e4, -1e4):
        try:
            answers = np.asarray(model(rows * np.float32(factor), training=False), np.float32)
        except Exception:
            if factor == 1:
                raise
            continue  # some layers take numbers in [0, 1] only
        refuse_improper(answers[np.isfinite(answers).all(axis=1)], Keras.probabilities)


def _last(model: Any) -> tuple[str, str] | None:
    """Name and activation of the last layer; None where the model says nothing of its layers."""
    try:
        last = model.outputs[0]._keras_history.operation
    except (AttributeError, IndexError, TypeError, ValueError):
        return None  # a subclass of Model
    kind = {"ReLU": "relu", "Softmax": "softmax"}.get(type(last).__name__, "")
    return last.name, getattr(getattr(last, "activation", None), "__name__", kind)


def _loss_name(model: Any) -> str:
    loss = _loss_of(model)
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def _loss_of(model: Any) -> Any:
    loss = model.loss
    while isinstance(loss, list | tuple | dict) and len(loss) == 1:
        loss = next(iter(loss.values() if isinstance(loss, dict) else loss))
    return loss


def _targets(model: Any, width: int, n_classes: int) -> Callable[[Any], Any]:
    """What the model's loss compares with: (n, 1) floats, integers (n,), or one-hot (n, k)."""
    import tensorflow as tf

    if model(np.zeros((1, width), np.float32), training=False).shape[1] == 1:
        return lambda classes: tf.cast(classes, tf.float32)[:, None]
    if "sparse" in _loss_name(model).lower():
        return lambda classes: classes
    return lambda classes: tf.one_hot(classes, n_classes, dtype=tf.float32)


def _dataset(
    source: Callable[[], Iterator[Block]],
    encode: Callable[[Any], Any],
    data: Batches,
    truth: str,
    events: int,
    batch_size: int,
    failures: list[BaseException],
) -> Any:
    """A tf.data of batches. Python is called once a chunk; TensorFlow cuts the batches.

    In memory at once: three chunks and four batches. TensorFlow's own tuning is off: it made this
    pipeline three times slower.
    """
    import tensorflow as tf

    def blocks() -> Iterator[Block]:
        try:
            yield from _blocks(source(), batch_size)
        except Exception as error:
            failures.append(error)
            raise

    def cut(block: Any, classes: Any, *weights: Any) -> Any:
        steps = tf.cast((tf.shape(block)[0] + batch_size - 1) // batch_size, tf.int64)

        def batch(step: Any) -> Any:
            start = step * batch_size
            stop = start + batch_size
            return block[start:stop], encode(classes[start:stop]), *(w[start:stop] for w in weights)

        return tf.data.Dataset.range(steps).map(batch)

    signature = (
        tf.TensorSpec((None, data.width), tf.float32),
        tf.TensorSpec((None,), truth),
        *([tf.TensorSpec((None,), tf.float64)] if data.weighted else []),
    )
    stream = tf.data.Dataset.from_generator(blocks, output_signature=signature)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    batches = stream.prefetch(1).flat_map(cut).prefetch(4).with_options(options)
    return batches.apply(tf.data.experimental.assert_cardinality(-(-events // batch_size)))


def _blocks(chunks: Iterator[Block], batch_size: int) -> Iterator[Block]:
    """The same events in blocks of whole batches, but for the last; views where it can be."""
    held: list[Block] = []
    count = 0
    for chunk in chunks:
        start, size = 0, len(chunk[0])
        if held:
            start = min(batch_size - count, size)
            held.append(tuple(array[:start] for array in chunk))
            count += start
            if count < batch_size:
                continue
            yield _joined(held)
        stop = start + (size - start) // batch_size * batch_size
        if stop > start:
            yield tuple(array[start:stop] for array in chunk)
        count = size - stop
        held = [tuple(array[stop:].copy() for array in chunk)] if count else []
    if held:
        yield _joined(held)


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _watch(events: int, plan: FitPlan, progress: Progress) -> Any:
    """A callback that reports, refuses NaN, and keeps the best epoch's weights."""
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        epoch = 0
        best = Best(plan)
        weights: list[Any] | None = None
        next_report = 0
        async_safe = False

        def report(self, done: int, **figures: float) -> None:
            refuse_nan(figures.values(), self.epoch)
            done += self.epoch * events
            progress("training", done, plan.epochs * events, epoch=self.epoch + 1, **figures)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch
            self.next_report = _REPORT

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            done = (batch + 1) * plan.batch_size
            if done >= self.next_report and done < events:
                self.next_report = done + _REPORT
                self.report(done, loss=float(logs["loss"]))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            shown = {key: float(logs[key]) for key in ("loss", "val_loss") if key in logs}
            self.report(events, **shown)
            if self.best.add(epoch, shown.get("val_loss", shown["loss"])):
                self.weights = self.model.get_weights()
            self.model.stop_training |= self.best.is_over

    return Watch()


def _why_no_onnx(error: Exception) -> str:
    """Names the operation and the way out where the converter names one."""
    found = re.search(r"No Op registered for (\w+)|Tensorflow op \[.*: (\w+)\] is not", str(error))
    if not found:
        return reason(error)
    name = found[1] or found[2]
    way = _WAYS.get(name, "write it with operations that ONNX has")
    return f"the operation {name} has no counterpart there; {way}"


def _rename_output(graph: Any) -> None:
    """Give the only output the name "outputs"; NotServable unless there is one of each."""
    from onnx import helper

    if len(graph.input) != 1 or len(graph.output) != 1:
        raise NotServable("it has more than one input or output")
    graph.node.append(helper.make_node("Identity", [graph.output[0].name], ["outputs"]))
    graph.output[0].name = "outputs"


def _quiet_import() -> None:
    """Import TensorFlow; what its C++ side prints before it can be configured is dropped."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as hole:
            os.dup2(hole.fileno(), 2)
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and log lines of converters."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
