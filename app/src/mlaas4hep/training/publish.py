"""Writing the bundle of a trained model: whole, or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import mlaas4hep
from mlaas4hep.core.errors import LimitError, UsageError, first_line
from mlaas4hep.core.files import NO_ROOM, remove_tree, write_json
from mlaas4hep.core.secrets import without_secrets
from mlaas4hep.data import Target
from mlaas4hep.frameworks import FRAMEWORKS, Fit, Framework, NotServable
from mlaas4hep.frameworks.base import Matrix
from mlaas4hep.models.bundle import (
    Bundle,
    Folds,
    Manifest,
    card,
    check_name,
    labels_text,
    pack,
    seal,
    triton_config,
)
from mlaas4hep.report.distributions import file_names
from mlaas4hep.report.page import report_html
from mlaas4hep.report.plots import (
    loss_png,
    observer_png,
    predicted_png,
    profile_png,
    residuals_png,
    roc_png,
    scores_png,
)
from mlaas4hep.training.ledger import Ledger
from mlaas4hep.training.prepare import Task

RTOL, ATOL = 1e-4, 1e-6
"""How far ONNX and the native model may be apart; a regression's targets are compared as trained,
where 1 is their standard deviation."""
DISTRIBUTIONS = "distributions"
"""Folder of the bundle that may be there before all else is written."""
OBSERVERS = "observers"
"""Folder of the bundle with their pictures."""
MOST_OBSERVERS = 20
"""Of which pictures are drawn."""
PACKAGES = ("mlaas4hep", "numpy", "uproot", "awkward", "onnx", "onnxruntime")
"""Distributions that every training depends on; each framework names its own."""


@dataclass(frozen=True)
class Trained:
    """All that a bundle is made of; ``to_compare`` are rows, as a FirstPass has them."""

    name: str
    task: Task
    to_compare: Matrix
    framework: Framework
    model: Any
    fit: Fit
    params_file: Path
    model_file: Path
    metrics: dict[str, Any]
    seconds: dict[str, float]
    warnings: list[str]
    ledger: Ledger


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` for what becomes it; gone at the end, come what may.

    Raises UsageError when ``target`` holds something that is no bundle, or nothing can be written
    there; a full disk becomes a LimitError that says where.
    """
    foreign = target.exists() and not (target / "bundle.json").is_file()
    if foreign and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists and is not a bundle", "Name another folder with --fout.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise UsageError(f"can't write in {target.parent}: {error.strerror}") from None
    try:
        yield folder
    except OSError as error:
        where = f"the bundle can't be written in {target.parent}"
        for full in map(os.strerror, NO_ROOM):
            if full in str(error):  # libraries below h5py and TensorFlow give the text alone
                raise LimitError(f"{where}: {full}", "Make room, then train again.") from error
        raise LimitError(f"{where}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            remove_tree(folder)


def publish(trained: Trained, folder: Path, target: Path) -> tuple[Bundle, Path, list[str]]:
    """Write the bundle into ``folder``, then put it and its tar.gz in place by renames.

    An older bundle at ``target`` is replaced. Returns the bundle, its archive, and warnings about
    what could not be written. Raises OSError when the disk is full.
    """
    new = folder / target.name
    new.mkdir(exist_ok=True)
    warnings = trained.framework.save(trained.model, new, trained.task.specs.width)
    if (number := len(trained.task.specs.observers)) > MOST_OBSERVERS:
        warnings.append(
            f"observers: at most {MOST_OBSERVERS} of {number} are drawn, the first ones;"
            " metrics.json has all"
        )
    sealed = _write(replace(trained, warnings=trained.warnings + warnings), new)
    archive = pack(new, folder / f"{target.name}.tar.gz")
    final = target.with_name(archive.name)
    if target.exists():
        target.rename(folder / "old")
    new.rename(target)
    archive.replace(final)
    return Bundle(target, sealed.manifest), final, warnings


def _write(trained: Trained, folder: Path) -> Bundle:
    """All files but the native model's; what shows others comes after them."""
    task, specs, metrics = trained.task, trained.task.specs, trained.metrics
    manifest = _manifest(trained, *_onnx(trained, folder))
    if manifest.servable:
        config = triton_config(manifest.name, manifest.columns, manifest.outputs)
        (folder / "config.pbtxt").write_text(config)
    specs.save(folder / "specs.json")
    write_json(folder / "columns.json", specs.columns)
    (folder / "labels.txt").write_text(labels_text(manifest.labels))
    write_json(folder / "params.json", _card(trained, manifest))
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "history.json", {"epochs": trained.fit.history, "best": trained.fit.best})
    pictures, observers = _pictures(trained), _observers(trained)
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture)
    if observers:
        (folder / OBSERVERS).mkdir()
    for name, file in file_names(observers).items():
        (folder / OBSERVERS / f"{file}.png").write_bytes(observers[name])
    page = report_html(_report(trained, manifest, folder), pictures, observers)
    (folder / "report.html").write_text(without_secrets(page))
    provenance = folder / "provenance"
    provenance.mkdir()
    params = Path(trained.params_file).read_text()
    (provenance / "params.json").write_text(without_secrets(params))
    shutil.copyfile(trained.model_file, provenance / "model.py")
    write_json(provenance / "files.json", _files(task))
    write_json(provenance / "ledger.json", trained.ledger.as_dict())
    write_json(provenance / "packages.json", _packages())
    write_json(provenance / "run.json", _run(trained))
    return seal(folder, manifest)


def _manifest(trained: Trained, comparison: dict[str, Any], why_not: str) -> Manifest:
    return Manifest(
        name=trained.name,
        framework=trained.framework.name,
        servable=not why_not,
        why_not=why_not,
        classes=trained.task.classes,
        columns=trained.task.specs.width,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        comparison=comparison,
        folds=_folds(trained.task),
        target=trained.task.target,
    )


def _folds(task: Task) -> Folds | None:
    split = task.params.parts
    return Folds(split.folds, task.params.seed, list(split.by)) if split.folds else None


def _card(trained: Trained, manifest: Manifest) -> dict[str, Any]:
    framework = trained.framework
    description = f"{framework.name} model, {manifest.columns} columns; {manifest.meaning}."
    if framework.note:
        description += f" {framework.note}"
    return card(trained.name, description, manifest.created, framework.card_names)


def _pictures(trained: Trained) -> dict[str, bytes]:
    """PNGs by name."""
    title = f"{trained.name}, {trained.metrics['events']} test events"
    drawn = {"roc": roc_png, "scores": scores_png}
    if trained.task.target:
        drawn = {"predicted": predicted_png, "residuals": residuals_png, "profile": profile_png}
    return {
        **{name: draw(trained.metrics, title) for name, draw in drawn.items()},
        "loss": loss_png(trained.fit.history, trained.fit.best, trained.name),
    }


def _observers(trained: Trained) -> dict[str, bytes]:
    """PNGs by observer, of the first MOST_OBSERVERS."""
    found = trained.metrics.get("observers", {})
    with_values = [name for name, measured in found.items() if measured["edges"]]
    return {
        name: observer_png(name, trained.metrics, trained.name)
        for name in with_values[:MOST_OBSERVERS]
    }


def _report(trained: Trained, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """What page.html names."""
    specs, labels = trained.task.specs, trained.task.labels
    return {
        **asdict(manifest),
        "metrics": trained.metrics,
        "warnings": trained.warnings,
        "counts": trained.task.counts.tolist(),
        "yields": trained.task.yields,
        "class_balance": trained.task.params.class_balance,
        "cut_flow": trained.task.cut_flow.as_list() if trained.task.cut_flow else [],
        "expressions": _expressions(trained.task),
        "tree": specs.tree,
        "flat": specs.flat,
        "jagged": specs.jagged,
        "files": specs.files,
        "ledger": trained.ledger,
        "labels": [labels.names[index] for index in labels.per_file],
        "best": trained.fit.best,
        "epochs": len(next(iter(trained.fit.history.values()), [])),
        "seed": trained.task.params.seed,
        "distributions": (folder / DISTRIBUTIONS).is_dir(),
    }


def _expressions(task: Task) -> list[tuple[str, str, Any]]:
    """Key, name and text of what is done to lists, and of new variables."""
    found = task.params.cuts.as_dict() | {"max_vec_sizes": task.params.max_vec_sizes}
    keys = ("objects", "order", "new_variables", "max_vec_sizes")
    return [(key, name, text) for key in keys for name, text in (found.get(key) or {}).items()]


def _files(task: Task) -> list[dict[str, Any]]:
    """The ROOT files, each with its label; null where files have none.

    Also its dataset and other URLs, if the list named any: as ``--files`` it is the same list, but
    for credentials in its addresses.
    """
    labels, listed = task.labels, task.listed
    replicas_of = (list(map(without_secrets, file.replicas)) for file in listed.files)
    more = zip(listed.datasets, replicas_of, strict=True)
    return [
        record.to_json()
        | {"label": labels.names[labels.per_file[index]] if labels.per_file else None}
        | {key: value for key, value in (("dataset", dataset), ("replicas", replicas)) if value}
        for index, (record, (dataset, replicas)) in enumerate(
            zip(task.specs.files, more, strict=True)
        )
    ]


def _packages() -> dict[str, str]:
    """Versions of those that are installed."""
    versions = {}
    for package in [*PACKAGES, *(name for each in FRAMEWORKS for name in each.packages)]:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _run(trained: Trained) -> dict[str, Any]:
    task = trained.task
    return {
        "seed": task.params.seed,
        "code_sha256": code_hash(),
        "command": [*map(without_secrets, sys.argv)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "label_branch": task.labels.branch,
        "target": task.target and task.target.branch,
        "weight_branch": task.weights and task.weights.branch,
        "split_by": task.split_by,
        "files": without_secrets(task.listed.source),
        "datasets": task.listed.metadata,
        "yields": task.yields,
        "events": {
            name: dict(zip(("train", "validation", "test"), row, strict=True))
            for name, row in zip(task.labels.shown, task.counts.tolist(), strict=True)
        },
        "cut_flow": task.cut_flow.as_list() if task.cut_flow else [],
        "seconds": {phase: round(value, 3) for phase, value in trained.seconds.items()},
        "warnings": trained.warnings,
    }


def _onnx(trained: Trained, folder: Path) -> tuple[dict[str, Any], str]:
    """Write 1/model.onnx if the model can be served: the comparison, and why it can't be."""
    path = folder / "1" / "model.onnx"
    path.parent.mkdir()
    rows = trained.to_compare
    # Native first: a model that draws random numbers must not answer from the state that ONNX got.
    native = trained.framework.predict(trained.model, rows)
    try:
        trained.framework.to_onnx(trained.model, path, rows.shape[1])
        comparison = compare(path, rows, native, trained.task.target)
    except NotServable as error:
        remove_tree(path.parent)
        return {}, error.message
    if comparison["outside"]:
        remove_tree(path.parent)
        return comparison, (
            f"ONNX and the native model differ by up to {comparison['max_abs_difference']:.2g} "
            f"in {comparison['outside']} of {len(rows)} rows"
        )
    return comparison, ""


def compare(
    path: Path, rows: Matrix, native: Matrix, target: Target | None = None
) -> dict[str, Any]:
    """How far the ONNX model at ``path`` is from what the native model answered to ``rows``.

    ``outside``: rows with |onnx - native| > ATOL + RTOL |native|, or not a number. For a regression
    it is |onnx - native| > RTOL (std + |native - mean|) and more than the 8 nearest numbers of 32
    bits, and ``atol`` says RTOL std. Raises NotServable when the ONNX model can't be run or has
    another shape.
    """
    import onnxruntime

    try:
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answer: Matrix = session.run(["outputs"], {"inputs": rows})[0]
    except Exception as error:
        raise NotServable(f"its ONNX form can't be run: {first_line(error)[:300]}") from None
    if answer.shape != native.shape or answer.dtype != np.float32:
        raise NotServable(
            f"its ONNX form answers {answer.dtype} {answer.shape}, not float32 {native.shape}"
        )
    difference = np.abs(answer.astype(np.float64) - native)
    atol, size = ATOL, np.abs(native)
    if target:
        atol, size = RTOL * target.std, np.abs(native - target.mean)
    near = difference <= atol + RTOL * size
    if target:
        near |= difference <= 8 * np.spacing(np.abs(native))
    finite = difference[np.isfinite(difference)]
    return {
        "rows": len(rows),
        "outside": int((~near).any(axis=1).sum()),
        "max_abs_difference": float(finite.max()) if finite.size else 0.0,
        "rtol": RTOL,
        "atol": atol,
    }


def code_hash() -> str:
    """sha256 over the names and contents of the package's Python files."""
    root = Path(mlaas4hep.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def bundle_name(name: str | None, target: Path) -> tuple[str, list[str]]:
    """The model's name, and warnings: the one given, else the folder's, made to be one.

    Raises UsageError when it can't be a model's.
    """
    if name is not None:
        return check_name(name), []
    made = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in target.name)
    if made == target.name:
        return check_name(made[:128]), []
    told = f"the model of {target.name} is named {made}: names hold letters, digits, _"
    return check_name(made[:128]), [told]
