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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import mlaas4hep
from mlaas4hep.core.errors import LimitError, UsageError
from mlaas4hep.core.files import NO_ROOM, remove_tree, write_json
from mlaas4hep.frameworks import Fit, Framework, NotServable
from mlaas4hep.frameworks.base import Matrix
from mlaas4hep.models.bundle import (
    Bundle,
    Manifest,
    card,
    check_name,
    labels_text,
    pack,
    score_meaning,
    seal,
    triton_config,
)
from mlaas4hep.report.page import report_html
from mlaas4hep.report.plots import loss_png, roc_png, scores_png
from mlaas4hep.training.dataset import Dataset
from mlaas4hep.training.params import Params

RTOL, ATOL = 1e-4, 1e-6
PACKAGES = (
    "mlaas4hep",
    "numpy",
    "uproot",
    "awkward",
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "skl2onnx",
)


@dataclass(frozen=True)
class Trained:
    """All that a bundle is made of."""

    name: str
    framework: Framework
    model: Any
    fit: Fit
    data: Dataset
    params: Params
    params_file: Path
    model_file: Path
    metrics: dict[str, Any]
    seconds: dict[str, float]
    warnings: list[str]


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


def publish(trained: Trained, folder: Path, target: Path) -> tuple[Bundle, Path]:
    """Write the bundle into ``folder``, then put it and its tar.gz in place by renames.

    An older bundle at ``target`` is replaced. Raises OSError when the disk is full.
    """
    new = folder / target.name
    new.mkdir()
    sealed = _write(trained, new)
    archive = pack(new, folder / f"{target.name}.tar.gz")
    final = target.with_name(archive.name)
    if target.exists():
        target.rename(folder / "old")
    new.rename(target)
    archive.replace(final)
    return Bundle(target, sealed.manifest), final


def _write(trained: Trained, folder: Path) -> Bundle:
    data, framework = trained.data, trained.framework
    specs, classes, width = data.specs, data.classes, data.width
    created = datetime.now(UTC).isoformat(timespec="seconds")
    trained.warnings.extend(framework.save(trained.model, folder, width))
    comparison, why_not = _onnx(trained, folder)

    write_json(folder / "columns.json", specs.columns)
    write_json(folder / "metrics.json", trained.metrics)
    history = {"epochs": trained.fit.history, "best": trained.fit.best}
    write_json(folder / "history.json", history)
    specs.save(folder / "specs.json")
    (folder / "labels.txt").write_text(labels_text(classes))
    what = f"{framework.name} model, {width} columns; {score_meaning(classes)}."
    if framework.name == "scikit-learn":
        what += " model.pkl is a pickle: loading it runs code, so load only what you trust."
    write_json(folder / "params.json", card(trained.name, framework.name, what, created))
    outputs = 1 if len(classes) == 2 else len(classes)
    if not why_not:
        (folder / "config.pbtxt").write_text(triton_config(trained.name, width, outputs))

    title = f"{trained.name}, {trained.metrics['events']} test events"
    pictures = {
        "roc": roc_png(trained.metrics, title),
        "scores": scores_png(trained.metrics, title),
        "loss": loss_png(trained.fit.history, trained.fit.best, trained.name),
    }
    for picture, content in pictures.items():
        (folder / f"{picture}.png").write_bytes(content)
    manifest = Manifest(
        name=trained.name,
        framework=framework.name,
        servable=not why_not,
        why_not=why_not,
        classes=classes,
        columns=width,
        created=created,
        comparison=comparison,
    )
    values = {
        **asdict(manifest),
        "metrics": trained.metrics,
        "warnings": trained.warnings,
        "counts": data.counts.tolist(),
        "tree": specs.tree,
        "flat": specs.flat,
        "jagged": specs.jagged,
        "files": specs.files,
        "best": trained.fit.best,
        "epochs": len(next(iter(trained.fit.history.values()), [])),
        "seed": trained.params.seed,
    }
    (folder / "report.html").write_text(report_html(values, pictures))
    _provenance(trained, folder / "provenance")
    return seal(folder, manifest)


def _onnx(trained: Trained, folder: Path) -> tuple[dict[str, Any], str]:
    """Write 1/model.onnx if the model can be served: the comparison, and why it can't be."""
    path = folder / "1" / "model.onnx"
    path.parent.mkdir()
    rows = trained.data.sample()
    # Native first: a model that draws random numbers must not answer from the state that ONNX got.
    native = trained.framework.predict(trained.model, rows)
    try:
        trained.framework.to_onnx(trained.model, path, rows.shape[1])
        comparison = compare(path, rows, native)
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


def compare(path: Path, rows: Matrix, native: Matrix) -> dict[str, Any]:
    """How far the ONNX model at ``path`` is from what the native model answered to ``rows``.

    ``outside``: rows with |onnx - native| > ATOL + RTOL |native|, or not a number. Raises
    NotServable when the ONNX model can't be run or has another shape.
    """
    import onnxruntime

    try:
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answer: Matrix = session.run(["outputs"], {"inputs": rows})[0]
    except Exception as error:
        first = str(error).strip().splitlines()[0][:300]
        raise NotServable(f"its ONNX form can't be run: {first}") from None
    if answer.shape != native.shape or answer.dtype != np.float32:
        raise NotServable(
            f"its ONNX form answers {answer.dtype} {answer.shape}, not float32 {native.shape}"
        )
    difference = np.abs(answer.astype(np.float64) - native)
    near = difference <= ATOL + RTOL * np.abs(native)
    finite = difference[np.isfinite(difference)]
    return {
        "rows": len(rows),
        "outside": int((~near).any(axis=1).sum()),
        "max_abs_difference": float(finite.max()) if finite.size else 0.0,
        "rtol": RTOL,
        "atol": ATOL,
    }


def _provenance(trained: Trained, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(trained.params_file, folder / "params.json")
    shutil.copyfile(trained.model_file, folder / "model.py")
    data = trained.data
    labels = data.labels
    write_json(
        folder / "files.json",
        [
            asdict(record)
            | {"label": labels.names[labels.per_file[index]] if labels.per_file else None}
            for index, record in enumerate(data.specs.files)
        ],
    )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    write_json(folder / "packages.json", versions)
    write_json(
        folder / "run.json",
        {
            "seed": trained.params.seed,
            "code_sha256": code_hash(),
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "label_branch": labels.branch,
            "events": {
                name: dict(zip(("train", "validation", "test"), row, strict=True))
                for name, row in zip(labels.names, data.counts.tolist(), strict=True)
            },
            "seconds": {phase: round(value, 3) for phase, value in trained.seconds.items()},
            "warnings": trained.warnings,
        },
    )


def code_hash() -> str:
    """sha256 over the names and contents of the package's Python files."""
    root = Path(mlaas4hep.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def bundle_name(name: str | None, target: Path, warnings: list[str]) -> str:
    """The model's name: the one given, else the folder's, with what a name can't hold as '_'."""
    if name is not None:
        return check_name(name)
    made = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in target.name)
    if made != target.name:
        warnings.append(
            f"the model of {target.name} is named {made}: names hold letters, digits, _"
        )
    return check_name(made[:128])
