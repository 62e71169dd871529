"""The data of a training in a notebook: ``from mlaas4hep import open_data``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError, UsageError, did_you_mean
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import TEST, TRAIN, VALIDATION, Encoder, Specs
from mlaas4hep.data.encode import Mask
from mlaas4hep.data.mixing import block_sizes, in_blocks
from mlaas4hep.frameworks.base import Block, Matrix, Truth
from mlaas4hep.sources.filelist import FileList
from mlaas4hep.training.dataset import BLOCK_BYTES, Dataset
from mlaas4hep.training.inputs import read_files_option, read_labels_option
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import Task, prepare
from mlaas4hep.training.skipping import Skipping

PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
_ROWS = 8192  # read at once, at most


class Rows(NamedTuple):
    """Events of one file in their order, as a model sees them.

    ``x``: float32 of shape (n, columns); ``mask``: int8 of that shape, 1 where a value is missing
    or padding; ``y``: classes, int64, or normalised targets, float32; ``w``: weights as the
    parameters give them, not scaled for a fit, float64; ``part``: uint8, TRAIN, VALIDATION or TEST;
    ``file``: its position; ``entry``: int64, the events' entries in their tree.
    """

    x: Matrix
    mask: Mask
    y: Truth
    w: NDArray[np.float64]
    part: NDArray[np.uint8]
    file: int
    entry: NDArray[np.int64]


class Data:
    """The events of ROOT files as a training with these parameters gets them; see ``open_data``.

    Memory is that of a Dataset without a cache, whatever the size of the files.
    """

    def __init__(self, data: Dataset, stack: ExitStack) -> None:
        self._data, self._stack = data, stack
        self._is_closed = False
        self.specs: Specs = data.task.specs
        self.columns = self.specs.columns
        self.classes = data.task.classes
        self.target = data.task.target
        """Of a regression: how y becomes the branch's values, ``target.restore(y)``."""
        self.files = [file.name for file in data.task.files]
        self.warnings = data.task.warnings
        """What was odd, but allowed."""
        self.y_type: type = data.task.labels.dtype
        counts = data.train_events, data.validation_events, data.test_events
        self.events = dict(zip(PARTS, counts, strict=True))
        """How many events each part has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; arrays stay valid, but nothing more can be read."""
        self._is_closed = True
        self._stack.close()

    def batches(self, size: int = 1000, part: str = "train", epoch: int = 0) -> Iterator[Block]:
        """The events of a part, ``size`` at a time: (x, y), and weights if the parameters give any.

        x is float32 of shape (n, columns), y int64 or, of a regression, float32; the weights are
        float64, those of the fit in training and validation. "train" is shuffled again for each
        ``epoch``. The arrays are the caller's own. Closing the iterator ends the reading. Raises
        UsageError on a ``size`` below 1, an unknown part, and once the data is closed.
        """
        self._check_open()
        if size < 1:
            raise UsageError(f"size is {size}, expected at least 1")
        if part not in PARTS:
            raise UsageError(f"no part {part!r}", did_you_mean(part, PARTS))
        blocks = {
            "train": lambda: self._data.epoch(epoch),
            "validation": self._data.validation,
            "test": self._data.test,
        }[part]()
        return in_blocks(blocks, block_sizes(self.events[part], size))

    def rows(self) -> Iterator[Rows]:
        """All events, file by file in the order of their entries."""
        self._check_open()
        task = self._data.task
        encoder = Encoder(self.specs, dtype=np.float32)
        step = max(1, min(_ROWS, BLOCK_BYTES // (5 * self.specs.width)))
        for index, (file, ranges) in enumerate(zip(task.files, task.use.ranges, strict=True)):
            passing = task.use.passing[index]
            for start, stop, events in file.blocks(task.branches, ranges, step, passing):
                n = passing.count(start, stop)
                mask = np.empty((n, encoder.width), np.int8)
                try:
                    x = encoder.encode(events, mask=mask)
                except EventError as error:
                    raise error.at(passing.nth(start, error.event), file.name) from None
                yield Rows(
                    x,
                    mask,
                    np.broadcast_to(task.labels.of_events(events, index), n).astype(self.y_type),
                    task.weights.of_events(events, index, n) if task.weights else np.ones(n),
                    task.parts(index, start, stop, events),
                    index,
                    passing.rows(np.arange(start, stop), start, stop),
                )

    def tf(self, size: int = 1000, part: str = "train", epoch: int = 0) -> Any:
        """``batches`` as a tf.data.Dataset, which imports TensorFlow and reads when it is used."""
        import tensorflow as tf

        self.batches(size, part, epoch)  # reads nothing yet, but checks what is asked for
        kinds = [tf.TensorSpec((None, len(self.columns)), tf.float32)]
        kinds.append(tf.TensorSpec((None,), self.y_type))
        if self._data.weighted:
            kinds.append(tf.TensorSpec((None,), tf.float64))
        return tf.data.Dataset.from_generator(
            lambda: self.batches(size, part, epoch), output_signature=tuple(kinds)
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("the data is closed", "Read it inside `with open_data(...)`.")


def open_data(
    files: FileList | Sequence[str | Path] | str | Path,
    labels: Sequence[str | int] | str = (),
    params: Mapping[str, Any] | str | Path | None = None,
    progress: Progress = silent,
    specs: Path | None = None,
) -> Data:
    """Open ROOT files as a training does: paths or URLs, a label for each or that of a branch.

    No labels are given if ``params`` name a target.

    A text is what --files and --labels take: a name, names joined by commas, or a list; so is each
    of several names. ``params`` are those of params.json, or its path. Specs are found in one pass,
    or those of the file ``specs``. Raises MlaasError as a training does. With ``skip_bad_files``
    the files that can't be read in that pass are left out; one that fails later is an error.
    """
    cwd = Path.cwd()
    if isinstance(params, str | Path):
        known, told = Params.load(Path(params))
    else:
        known, told = Params.parse(dict(params or {}), "params", cwd)
    listed = read_files_option(files, cwd)
    labels = read_labels_option(labels, cwd) if isinstance(labels, str) else labels
    given, skipping = list(map(str, labels)), Skipping(known.allowed_missing)

    def prepared() -> tuple[Task, ExitStack]:
        with ExitStack() as stack:
            task = prepare(
                listed,
                given,
                known,
                cwd,
                stack,
                specs,
                progress,
                keep_specs=False,
                skipping=skipping,
            )
            return task, stack.pop_all()

    task, stack = skipping.run(prepared)
    task.warnings[:0] = told + skipping.warnings
    return Data(Dataset(task), stack)
