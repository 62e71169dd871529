"""One model in memory: rows gather while the previous batch runs, without any timer."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from reprlib import repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import (
    BundleError,
    BusyError,
    MlaasError,
    ModelError,
    UsageError,
    did_you_mean,
)
from mlaas4hep.core.units import many
from mlaas4hep.data.encode import Encoder
from mlaas4hep.data.limits import Limits
from mlaas4hep.inference.pool import FailedError, Graph, Pool
from mlaas4hep.models.bundle import Bundle

_log = logging.getLogger(__name__)

Answers = NDArray[np.float32]
"""float32 of shape (rows, outputs)."""

_PER_COLUMN, _PER_SPECS_BYTE = 200, 8
"""Bytes, measured: a name in a list and a dictionary; dictionaries, names and numbers of JSON."""


class Counts:
    """What all models have answered: integers that only the event loop's thread raises."""

    SIZES = 16

    def __init__(self) -> None:
        self.rows = 0
        self.batches = [0] * self.SIZES
        """Batches by size: of at most 2^i rows at i, larger ones at the end."""

    def add(self, rows: int) -> None:
        """Count a batch."""
        self.rows += rows
        self.batches[min((rows - 1).bit_length(), self.SIZES - 1)] += 1


class Model:
    """A bundle in memory: nothing of its folder is needed afterwards.

    Its graph runs in the workers of ``pool``. All methods belong to the event loop's thread.
    """

    @classmethod
    async def load(
        cls,
        bundle: Bundle,
        version: str,
        pool: Pool,
        rows: int,
        waiting: int,
        counts: Counts | None = None,
    ) -> Model:
        """The model of a bundle whose graph could be loaded; the arguments are those of the class.

        BundleError when it can't be run or isn't what the bundle says.
        """
        model = cls(bundle, version, pool, rows, waiting, counts)
        try:
            answers = await pool.load(model.graph)
        except MlaasError as error:
            raise BundleError(
                f"model.onnx of {model.name} can't be run: {error.message}",
                f"It must take inputs [N, {model.width}] and give outputs [N, k], both float32.",
            ) from None
        if (outputs := len(answers) // 8) != model.outputs:
            model.close()
            raise BundleError(
                f"model.onnx of {model.name} has {outputs} outputs, "
                f"its bundle.json says {model.outputs}"
            )
        return model

    def __init__(
        self,
        bundle: Bundle,
        version: str,
        pool: Pool,
        rows: int,
        waiting: int,
        counts: Counts | None = None,
    ) -> None:
        """At most ``rows`` run as one batch in ``pool``, ``waiting`` requests wait for it."""
        self.name = bundle.name
        self.version = version
        self.classes = bundle.classes
        self.labels = bundle.manifest.labels
        self.columns = bundle.columns
        self.specs = bundle.specs
        self.width = len(self.columns)
        self.outputs = bundle.manifest.outputs
        self.graph = Graph(bundle.name, bundle.onnx, self.width)
        specs_bytes = (bundle.path / "specs.json").stat().st_size
        self.memory = self.graph.size + _PER_COLUMN * self.width + _PER_SPECS_BYTE * specs_bytes
        """Bytes, about: its graph, and what this process keeps of columns and specs."""
        self._pack = struct.Struct(f"<{self.width}f").pack
        self._index = {column: i for i, column in enumerate(self.columns)}
        self._pool = pool
        self._rows = rows
        self._limit = waiting
        self._counts = counts or Counts()
        self._waiting: deque[_Request] = deque()
        self._busy = False
        self._closed = False

    def close(self) -> None:
        """Forget the graph once nobody waits for an answer any more."""
        self._closed = True
        if not self._busy:
            self._pool.drop(self.graph)

    def row(self, values: Sequence[Any], keys: Sequence[str] = ()) -> bytes:
        """``values`` as one normalised row, in the order of ``keys`` if given, else of the columns.

        None is a missing value (0). UsageError names both numbers, the column and the value.
        """
        try:
            if not keys or keys == self.columns:
                return self._pack(*values)
        except (struct.error, OverflowError):
            pass
        return self._pack(*self._explained(values, keys))

    def predict(self, rows: bytes) -> asyncio.Future[Answers]:
        """The answers to ``rows`` (float32, C order, whole rows), from one of the next batches.

        Raises BusyError when too many wait already. The future fails with ModelError when the
        model's answer isn't finite, for these rows only.
        """
        if len(self._waiting) >= self._limit:
            raise BusyError(
                f"{self._limit} requests wait for the model {self.name} already",
                "Try again in a second.",
            )
        request = _Request(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)
        return request.answers

    async def predict_many(self, rows: NDArray[np.float32]) -> Answers:
        """The answers to any number of rows, in slices between which others have their turn."""
        answers = [np.empty((0, 0), np.float32)] if not len(rows) else []
        for start in range(0, len(rows), self._rows):
            answers.append(await self.predict(rows[start : start + self._rows].tobytes()))
        return np.concatenate(answers)

    @property
    def waiting(self) -> int:
        """Requests that wait for the next batch."""
        return len(self._waiting)

    def encoder(self) -> Encoder:
        """What turns events, as they are in the tree, into rows; one for each use."""
        return Encoder(self.specs)

    @cached_property
    def limits(self) -> Limits:
        """What tells which values of rows the training didn't reach."""
        return Limits(self.specs)

    def _next(self) -> None:
        """Start the next batch from what waits."""
        batch: list[_Request] = []
        size = 0
        while self._waiting:
            rows = len(self._waiting[0].rows) // (4 * self.width)
            if batch and size + rows > self._rows:
                break
            request = self._waiting.popleft()
            if not request.answers.cancelled():
                batch.append(request)
                size += rows
        if not batch:
            self._busy = False
            if self._closed:
                self._pool.drop(self.graph)
            return
        self._counts.add(size)
        content = b"".join([request.rows for request in batch])
        answers = self._pool.run(self.graph, content)
        answers.add_done_callback(lambda done: self._done(batch, done))

    def _done(self, batch: list[_Request], done: asyncio.Future[bytes]) -> None:
        """Answer the requests of a batch; one that fails is run one by one, to spare the rest."""
        error = done.exception()
        if error is None:
            self._answer(batch, done.result())
        elif isinstance(error, FailedError) and len(batch) > 1:
            asyncio.get_running_loop().create_task(self._one_by_one(batch))
            return
        else:
            for request in batch:
                request.fail(self._failed(error))
        self._next()

    async def _one_by_one(self, batch: list[_Request]) -> None:
        for request in batch:
            try:
                self._answer([request], await self._pool.run(self.graph, request.rows))
            except MlaasError as error:
                request.fail(self._failed(error))
        self._next()

    def _failed(self, error: BaseException) -> BaseException:
        if not isinstance(error, FailedError):
            return error
        _log.warning("the model %s failed: %s", self.name, error)
        return ModelError(f"the model {self.name} failed: {error}")

    def _answer(self, batch: list[_Request], content: bytes) -> None:
        answers = np.frombuffer(content, np.float32)
        size = sum(len(request.rows) for request in batch) // (4 * self.width)
        if len(answers) != size * self.outputs:
            found = len(answers) / max(size, 1)
            error = ModelError(f"the model {self.name} answers {found:g} outputs for a row, not "
                               f"{self.outputs}")  # fmt: skip
            for request in batch:
                request.fail(error)
            return
        answers = answers.reshape(size, self.outputs)
        finite = bool(np.isfinite(answers).all())
        start = 0
        for request in batch:
            stop = start + len(request.rows) // (4 * self.width)
            part = answers[start:stop]
            start = stop
            if finite or np.isfinite(part).all():
                if not request.answers.done():
                    request.answers.set_result(part)
            else:
                message = f"the model {self.name} answers with a number that isn't finite"
                request.fail(ModelError(message, "Check the values of this event."))

    def _explained(self, values: Sequence[Any], keys: Sequence[str]) -> list[float]:
        """The values in the model's order, missing ones 0; UsageError says what is wrong."""
        if keys and len(keys) != len(values):
            raise UsageError(f"{many(len(keys), 'key')} but {many(len(values), 'value')}")
        seen: set[str] = set()
        for key in keys:
            if key not in self._index:
                raise UsageError(
                    f"the model {self.name} has no column {repr(key)}",
                    did_you_mean(key[:200], self.columns),
                )
            if key in seen:
                raise UsageError(f"the key {key!r} is given twice")
            seen.add(key)
        if len(values) != self.width:
            lacking = [c for c in self.columns if c not in seen][:5] if keys else []
            raise UsageError(
                f"the model {self.name} takes {many(self.width, 'value')},"
                f" {len(values)} were given",
                f"Missing: {', '.join(lacking)}."
                if lacking
                else f"GET /params/{self.name} and columns.json of its bundle describe them.",
            )
        row = [0.0] * self.width
        for i, value in enumerate(values):
            column = keys[i] if keys else self.columns[i]
            if value is None:
                continue
            try:
                struct.pack("<f", value)
            except (struct.error, OverflowError):
                raise UsageError(
                    f"the value {repr(value)} of {column} is not a 32-bit number",
                    "null stands for a missing value.",
                ) from None
            row[self._index[column]] = value
        return row


class _Request:
    """Rows that wait, and where their answers go."""

    __slots__ = ("answers", "rows")

    def __init__(self, rows: bytes, answers: asyncio.Future[Answers]) -> None:
        self.rows = rows
        self.answers = answers

    def fail(self, error: BaseException) -> None:
        """Answer with an error, if somebody still waits."""
        if not self.answers.done():
            self.answers.set_exception(error)
