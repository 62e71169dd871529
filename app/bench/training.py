"""How fast a Keras network trains on a streamed data set: ratios to `model.fit` on one array.

The reference is Keras's own loop over the same rows, all in memory, in the same run. An epoch is
timed from its start to its end, the first (TensorFlow compiles in it) left out.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uproot

from data_path import NAMES, TREE, write
from mlaas4hep.frameworks import FitPlan, set_up
from mlaas4hep.frameworks.keras import Keras
from mlaas4hep.training.dataset import Dataset
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import prepare

EVENTS = 50_000
EPOCHS = 4


def network(width: int) -> Any:
    import keras

    layers = [keras.layers.Dense(n, activation="relu") for n in (128, 64)]
    model = keras.Sequential(
        [keras.Input((width,)), *layers, keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def per_second(events: int, ends: list[float]) -> float:
    """The median over all epochs but the first."""
    return events / median(np.diff(ends))


def in_memory(data: Dataset, batch_size: int) -> float:
    import keras

    parts = list(data.epoch(0))
    rows = np.concatenate([x for x, _ in parts])
    classes = np.concatenate([y for _, y in parts])[:, None].astype(np.float32)
    ends: list[float] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    network(data.width).fit(
        rows, classes, batch_size=batch_size, epochs=EPOCHS, verbose=0, callbacks=[note]
    )
    return per_second(len(rows), ends)


def streamed(data: Dataset, batch_size: int) -> float:
    ends: list[float] = []

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        if done % data.train_events == 0:
            ends.append(time.perf_counter())

    plan = FitPlan(epochs=EPOCHS, batch_size=batch_size, seed=21)
    Keras().fit(network(data.width), data, plan, progress)
    return per_second(data.train_events, ends)


def main() -> None:
    set_up({"keras"}, 21)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        files = [
            str(write(folder / f"{seed}.root", EVENTS, seed, uproot.LZ4(1))) for seed in (1, 2)
        ]
        params = Params(
            branch=TREE,
            selected_branches=tuple(NAMES),
            chunk_size=10_000,
            split={"train": 1.0, "validation": 0.0, "test": 0.0},
        )
        task = prepare(files, ["1", "0"], params, folder, stack)
        cached, read = Dataset(task), Dataset(task)
        cached.first_pass()
        print(f"training: {2 * EVENTS} events, {cached.width} columns, network 128-64-1")
        for batch_size in (100, 1000):
            reference = in_memory(cached, batch_size)
            for what, data in (("cached", cached), ("read each epoch", read)):
                found = streamed(data, batch_size)
                print(
                    f"  batch {batch_size:4d}  {what:15}  {found / reference:.2f} x model.fit"
                    f" in memory  ({found / 1000:.0f}k events/s here)"
                )


if __name__ == "__main__":
    main()
