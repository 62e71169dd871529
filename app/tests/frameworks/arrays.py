"""Batches from two arrays, as the frameworks see a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlaas4hep.frameworks.base import Block, Matrix, Truth


class Arrays:
    """Rows in [0, 1] of ``k`` overlapping classes, with weights if given; uneven chunks."""

    def __init__(
        self,
        train: int = 600,
        validation: int = 200,
        width: int = 6,
        k: int = 2,
        chunk: int = 130,
        weights: np.ndarray | None = None,
    ) -> None:
        self.weighted, self.w = weights is not None, weights
        self.width, self.n_classes, self.chunk = width, k, chunk
        self.train_events, self.validation_events = train, validation
        random = np.random.default_rng(3)
        self.y: Truth = random.integers(0, k, train + validation)
        centre = random.uniform(0.3, 0.7, (k, width))
        noise = random.normal(0, 0.1, (train + validation, width))
        self.x: Matrix = np.clip(centre[self.y] + noise, 0, 1).astype(np.float32)
        self.asked: list[int] = []

    def block(self, part: slice | np.ndarray) -> Block:
        arrays = (self.x, self.y) if self.w is None else (self.x, self.y, self.w)
        return tuple(array[part] for array in arrays)

    def epoch(self, number: int) -> Iterator[Block]:
        self.asked.append(number)
        order = np.random.default_rng(number).permutation(self.train_events)
        for start in range(0, self.train_events, self.chunk):
            part = order[start : start + self.chunk]
            yield self.block(part)

    def validation(self) -> Iterator[Block]:
        for start in range(self.train_events, len(self.y), self.chunk):
            yield self.block(slice(start, start + self.chunk))


class Numbers(Arrays):
    """The same rows with a target of mean 0 and variance 1 each: a linear function, and noise."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.n_classes = 0
        values = self.x @ np.arange(1, self.width + 1) + np.random.default_rng(4).normal(
            0, 0.1, len(self.x)
        )
        self.y: Truth = ((values - values.mean()) / values.std()).astype(np.float32)
