"""Small ROOT files, and their rows as a plain loop over numpy makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import awkward as ak
import numpy as np
import uproot


def content(events: int, seed: int, shift: float = 0.0) -> dict[str, Any]:
    """Branches of a tree: an id, flat numbers, a bool, texts, lists; a NaN here and there."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, events)
    met = random.exponential(30, events).astype(np.float32) + np.float32(shift)
    met[::37] = np.nan
    return {
        "run": np.full(events, seed, np.int32),
        "id": np.arange(events, dtype=np.float64) + 10_000 * seed,
        "met": met,
        "constant": np.full(events, 7, np.int32),
        "kind": random.integers(-1, 2, events).astype(np.int32),
        "good": random.uniform(0, 1, events) < 0.4,
        "half": random.integers(0, 2, events).astype(np.float32),
        "jet_pt": ak.unflatten(random.exponential(20, counts.sum()).astype(np.float32), counts),
        "jet_id": ak.unflatten(random.integers(0, 9, counts.sum()).astype(np.int32), counts),
    }


def write(
    path: Path, branches: dict[str, Any], tree: str = "Events", compression: Any = None
) -> Path:
    """By default zlib. The UUID, by which events have parts, comes from what is written."""
    uuid = uuid5(NAMESPACE_OID, f"{path.name} {branches}")
    compression = compression or uproot.ZLIB(1)
    with uproot.recreate(path, uuid_function=lambda: uuid, compression=compression) as file:
        types = {
            name: f"var * {v.layout.content.dtype}" if isinstance(v, ak.Array) else v.dtype
            for name, v in branches.items()
        }
        file.mktree(tree, types)
        if len(branches["run"]):
            file[tree].extend(branches)
    return path


def two(folder: Path, events: tuple[int, int] = (900, 600), seed: int = 1) -> list[Path]:
    """Background and signal."""
    return [
        write(folder / "background.root", content(events[0], seed)),
        write(folder / "signal.root", content(events[1], seed + 1, shift=25)),
    ]


def sorted_by_class(path: Path, clusters: int, events: int = 20_000) -> Path:
    """As hadd joins a file per class: ``lab`` is 1 in the first half, 0 in the second."""
    random = np.random.default_rng(0)
    lab = np.repeat([1, 0], events // 2).astype(np.int32)
    branches = {
        "x": random.normal(1.5 * lab, 1),
        "y": random.normal(1.5 * lab, 1),
        "lab": lab,
        "entry": np.arange(events, dtype=np.float64),
    }
    step = events // clusters
    with uproot.recreate(path, uuid_function=lambda: uuid5(NAMESPACE_OID, path.name)) as file:
        file.mktree("Events", {name: v.dtype for name, v in branches.items()})
        for start in range(0, events, step):
            file["Events"].extend({k: v[start : start + step] for k, v in branches.items()})
    return path


def rows_of(
    files: list[Path], branches: list[str], jagged: list[str]
) -> tuple[np.ndarray, list[str]]:
    """All events of all files, file after file: normalised rows, and the columns' names."""
    events: list[dict[str, Any]] = []
    for path in files:
        with uproot.open(path) as file:
            events += file["Events"].arrays(branches + jagged).to_list()
    columns: list[tuple[str, int]] = [(name, -1) for name in sorted(branches)]
    for name in sorted(jagged):
        columns += [(name, i) for i in range(max(len(e[name]) for e in events))]
    values = {
        name: [x for e in events for x in (e[name] if name in jagged else [e[name]])]
        for name in branches + jagged
    }
    low = {name: min(x for x in v if np.isfinite(x)) for name, v in values.items()}
    high = {name: max(x for x in v if np.isfinite(x)) for name, v in values.items()}
    rows = np.zeros((len(events), len(columns)))
    for i, event in enumerate(events):
        for j, (name, at) in enumerate(columns):
            if at >= len(np.atleast_1d(event[name])):
                continue
            value = event[name] if at < 0 else event[name][at]
            if np.isfinite(value) and high[name] > low[name]:
                rows[i, j] = (value - low[name]) / (high[name] - low[name])
    return rows, [name if at < 0 else f"{name}_{at}" for name, at in columns]
