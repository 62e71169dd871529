"""Tasks and data sets of small files, as a training makes them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlaas4hep.training.dataset import CACHE_BYTES, Dataset, FirstPass
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import Task, prepare


def prepared(
    stack: ExitStack,
    files: list[Path],
    labels: list[str] | None = None,
    cwd: Path | None = None,
    specs: Path | None = None,
    **params: Any,
) -> Task:
    """By default each file is a class, and specs lie beside the first one."""
    folder = files[0].parent
    parsed, _ = Params.parse(params, "params.json", folder)
    if labels is None:
        labels = [str(i) for i in range(len(files))]
    return prepare([str(file) for file in files], labels, parsed, cwd or folder, stack, specs)


def streamed(
    stack: ExitStack, files: list[Path], *args: Any, cache_bytes: int = CACHE_BYTES, **given: Any
) -> tuple[Dataset, FirstPass]:
    """The events of ``prepared``, after the first pass."""
    data = Dataset(prepared(stack, files, *args, **given))
    return data, data.first_pass(cache_bytes)
