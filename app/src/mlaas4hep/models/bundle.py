"""The bundle: what a trained model is, one directory NAME/ and its NAME.tar.gz.

bundle.json       the manifest: what this is, and the sha256 of every other file
params.json       the model card of TFaaS (12 keys)
specs.json        how events become rows: ranges, lengths, files
columns.json      the names of the input's columns, in order
labels.txt        the classes, one per line, in the order of the outputs; else "prediction"
metrics.json      measured on the test part; history.json: per epoch
roc.png scores.png loss.png report.html; of a regression predicted.png residuals.png profile.png
config.pbtxt      with 1/model.onnx: the layout of a Triton model repository
1/model.onnx      what is served: "inputs" float32 [N, columns] -> "outputs" float32 [N, k]
the native model, in the files of its framework; of folds, in fold_0/, fold_1/, ...
observers/        OBSERVER.png, if params.json names some
distributions/    of a job with hist: BRANCH.png, distributions.root
provenance/       params.json model.py files.json packages.json run.json
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from mlaas4hep.core.archives import unpack_tar
from mlaas4hep.core.errors import ArchiveError, BundleError, ConflictError, LimitError, UsageError
from mlaas4hep.core.files import temporary_folder, walk, write_json
from mlaas4hep.core.units import size
from mlaas4hep.data.specs import Specs
from mlaas4hep.data.split import MOST_FOLDS
from mlaas4hep.data.target import Target

FORMAT = 1
NAME = re.compile(r"[a-zA-Z0-9_]{1,128}")
CARD_KEYS = (
    "name",
    "model",
    "labels",
    "op",
    "input_name",
    "output_name",
    "img_channels",
    "options",
    "input_node",
    "output_node",
    "description",
    "timestamp",
)
"""The keys of TFaaS's params.json, in the order in which it prints them."""
MOST_FILES = 1000
"""Files and folders of a bundle; a large SavedModel has some ten."""
_MOST_BYTES = {
    "bundle.json": 4 << 20,
    "params.json": 1 << 20,
    "labels.txt": 1 << 20,
    "metrics.json": 4 << 20,
    "specs.json": 16 << 20,
    "columns.json": 16 << 20,
    "report.html": 16 << 20,
}
"""Of the files that are read as a whole: a bundle comes from where user code ran."""
_ALWAYS = ("params.json", "specs.json", "columns.json", "labels.txt", "metrics.json")
_ONNX = "1/model.onnx"
SELECTED = "selected"
"""The column of predictions that says whether an event passes the training's selection."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
PREDICTION = "prediction"
"""What a regression's answer is called, wherever a class has its name."""
_SHOWN = 10  # classes that a text names
MAX_UNPACKED = 4 << 30
"""Bytes of the largest bundle that ``opened`` unpacks."""


def check_name(name: str) -> str:
    """The name itself when it can be a model's, else UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a model",
            "Use letters without accents, digits and '_', at most 128 of them.",
        )
    return name


@dataclass(frozen=True)
class Folds:
    """What tells the fold of an event: their ``number``, the seed, and the branches ``by``."""

    number: int
    seed: int
    by: list[str]

    @classmethod
    def from_json(cls, value: Any) -> Folds:
        """From what bundle.json says; ValueError says what is wrong."""
        if not isinstance(value, dict) or value.keys() != {"number", "seed", "by"}:
            raise ValueError("expected number, seed and by")
        number, seed, by = value["number"], value["seed"], value["by"]
        if type(number) is not int or not 2 <= number <= MOST_FOLDS:
            raise ValueError(f"{number!r} folds")
        if type(seed) is not int or seed < 0:
            raise ValueError(f"the seed {seed!r}")
        if not isinstance(by, list) or not all(isinstance(name, str) for name in by):
            raise ValueError("by must be names of branches")
        return cls(number, seed, by)


@dataclass(frozen=True)
class Manifest:
    """What bundle.json says. ``outputs`` is the number of columns of the answer: 1 for binary."""

    name: str
    framework: str
    servable: bool
    why_not: str
    classes: list[str]
    columns: int
    created: str
    comparison: dict[str, Any]
    """How ONNX and the native model compare: rows, max_abs_difference, rtol, atol; or empty."""
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    folds: Folds | None = None
    """How events were put into folds, if the model is the mean of one for each."""
    target: Target | None = None
    """What the model predicts, if it is a regression; then there are no ``classes``."""

    @property
    def outputs(self) -> int:
        """Columns of the model's answer: 1 (probability of class 1) for two classes, else k.

        1 for a regression.
        """
        return len(self.score_names)

    @property
    def labels(self) -> list[str]:
        """The lines of labels.txt: the classes, or what a regression's answer is called."""
        return [PREDICTION] if self.target else self.classes

    @property
    def score_names(self) -> list[str]:
        """Names of the columns of answers: of the second of two classes, else of each class."""
        if self.target:
            return [PREDICTION]
        return score_names(self.classes)

    @property
    def meaning(self) -> str:
        """What the answers are, in the words that stand wherever they do."""
        return prediction_meaning(self.target) if self.target else score_meaning(self.classes)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that was found whole when it was opened."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> Bundle:
        """Open the bundle in the directory ``path``; with ``verify``, compare every sha256 too.

        BundleError names what is missing or differs.
        """
        bundle = cls(path, _read_manifest(path))
        manifest = bundle.manifest
        needed = [*_ALWAYS, *([_ONNX] if manifest.servable else [])]
        for name in dict.fromkeys([*needed, *manifest.files]):
            file = path / name
            if name not in manifest.files or not file.is_file():
                raise BundleError(f"the bundle {path.name} lacks {name}", "Train or upload again.")
            check_size(file, name)
            if verify and _sha256(file) != manifest.files[name]:
                raise BundleError(
                    f"{name} in the bundle {path.name} is not what bundle.json says (sha256)",
                    "It is damaged or was changed: train or upload again.",
                )
        if verify and (extra := set(_files(path)) - set(manifest.files)):
            raise BundleError(f"the bundle {path.name} holds {min(extra)}, unknown to bundle.json")
        for what, found in (
            ("columns.json", len(bundle.columns)),
            ("specs.json", bundle.specs.width),
        ):
            if found != manifest.columns:
                raise BundleError(
                    f"the bundle {path.name} contradicts itself: {what} has {found} columns, "
                    f"bundle.json says {manifest.columns}"
                )
        if bundle.columns != bundle.specs.columns:
            raise BundleError(f"the bundle {path.name}: columns.json and specs.json differ")
        if (path / "labels.txt").read_bytes() != labels_text(manifest.labels).encode():
            raise BundleError(f"the bundle {path.name}: labels.txt and bundle.json differ")
        if not isinstance(_read_json(path / "metrics.json"), dict):
            raise BundleError(f"the bundle {path.name}: metrics.json is not an object")
        if not isinstance(bundle.card.get("name"), str):
            raise BundleError(f"the bundle {path.name}: params.json is not a model card")
        return bundle

    @property
    def name(self) -> str:
        """The name under which it was trained."""
        return self.manifest.name

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the outputs; none of a regression."""
        return self.manifest.classes

    @property
    def servable(self) -> bool:
        """Whether there is an ONNX model that agrees with the native one."""
        return self.manifest.servable

    @property
    def onnx(self) -> Path:
        """The model that is served; BundleError when this bundle has none."""
        if not self.servable:
            raise BundleError(f"{self.name} is not servable: {self.manifest.why_not}")
        return self.path / _ONNX

    @cached_property
    def specs(self) -> Specs:
        """How events become rows."""
        return Specs.load(self.path / "specs.json")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the input's columns, in order."""
        names = _read_json(self.path / "columns.json")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BundleError(f"{self.path.name}/columns.json is not a list of names")
        return names

    @cached_property
    def card(self) -> dict[str, Any]:
        """TFaaS's model card, the content of params.json."""
        card = _read_json(self.path / "params.json")
        if not isinstance(card, dict):
            raise BundleError(f"{self.path.name}/params.json is not an object")
        return card


def check_size(file: Path, name: str) -> None:
    """LimitError when ``name`` of a bundle is too large to be read as a whole."""
    if name in _MOST_BYTES and file.stat().st_size > _MOST_BYTES[name]:
        raise LimitError(
            f"{name} in the bundle {file.parent.name} is larger than {size(_MOST_BYTES[name])}",
            "Leave out whatever predictions don't need.",
        )


def card(name: str, description: str, timestamp: str, native: Mapping[str, str]) -> dict[str, Any]:
    """TFaaS's model card: all 12 keys, of the ONNX model but for those in ``native``."""
    of_onnx: dict[str, Any] = {
        "name": name,
        "model": _ONNX,
        "labels": "labels.txt",
        "op": "",
        "input_name": "inputs",
        "output_name": "outputs",
        "img_channels": 0,
        "options": None,
        "input_node": "inputs",
        "output_node": "outputs",
        "description": description,
        "timestamp": timestamp,
    }
    return of_onnx | dict(native)


def score_names(classes: Sequence[str]) -> list[str]:
    """Names of the columns of scores: of the second of two classes, else of each class."""
    return [f"score_{name}" for name in (classes[1:] if len(classes) == 2 else classes)]


def refuse_names(observers: Sequence[str], others: Sequence[str]) -> None:
    """UsageError when an observer has the name of another column of the predictions."""
    if both := [name for name in observers if name in others]:
        raise UsageError(
            f"the observer {both[0]} has the name of a column that predictions write",
            "Leave it out of observers, or write it into the files under another name.",
        )


def score_meaning(classes: Sequence[str]) -> str:
    """What the answers are, in the words that stand wherever scores do."""
    if len(classes) == 2:
        return f"score = probability of class {classes[1]}"
    more = ", ..." if len(classes) > _SHOWN else ""
    return f"scores = probability of each of {', '.join(classes[:_SHOWN])}{more}"


def prediction_meaning(target: Target) -> str:
    """The same of a regression's answers."""
    return f"{PREDICTION} = {target.branch}, in its own units"


def labels_text(labels: list[str]) -> str:
    """labels.txt: one class per line."""
    return "".join(f"{name}\n" for name in labels)


def triton_config(name: str, columns: int, outputs: int) -> str:
    """config.pbtxt: NAME/ can be put into a Triton model repository as it is."""
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 1024\n"
        f'input [ {{ name: "inputs", data_type: TYPE_FP32, dims: [ {columns} ] }} ]\n'
        f'output [ {{ name: "outputs", data_type: TYPE_FP32, dims: [ {outputs} ] }} ]\n'
        "dynamic_batching { }\n"
    )


def seal(path: Path, manifest: Manifest) -> Bundle:
    """Write bundle.json with the sha256 of every file that lies in ``path``, and open the bundle.

    ``manifest.files`` is replaced; nothing may be changed in the directory afterwards.
    """
    check_name(manifest.name)
    digests = {name: _sha256(path / name) for name in _files(path)}
    write_json(path / "bundle.json", asdict(manifest) | {"files": digests})
    return Bundle.open(path)


def pack(path: Path, archive: Path | None = None) -> Path:
    """Write the bundle ``path`` as tar.gz (default: NAME.tar.gz beside it), atomically.

    The same bundle gives the same bytes. Directories have their own entries, as the original
    TFaaS needs them.
    """
    bundle = Bundle.open(path)
    archive = archive or path.with_name(f"{path.name}.tar.gz")
    when = int(datetime.fromisoformat(bundle.manifest.created).timestamp())
    descriptor, temporary = tempfile.mkstemp(dir=archive.parent, prefix=f".{archive.name}.")
    try:
        with (
            os.fdopen(descriptor, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=when, compresslevel=6) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            inside = sorted((found.path for found in walk(path)), key=lambda name: name.split("/"))
            for item in [path, *(path / name for name in inside)]:
                info = tarfile.TarInfo(Path(bundle.name, item.relative_to(path)).as_posix())
                info.mtime = when
                if item.is_dir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                else:
                    info.size, info.mode = item.stat().st_size, 0o644
                    with item.open("rb") as content:
                        tar.addfile(info, content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(archive)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return archive


def unpack(stream: IO[bytes], into: Path, max_bytes: int, max_files: int = MOST_FILES) -> Path:
    """Unpack a bundle's tar or tar.gz from a stranger into the folder ``into``; returns into/NAME.

    The archive holds one top folder, NAME, which is one of our bundles and whole (every sha256).
    Nothing is left after a failure: ArchiveError, BundleError, LimitError, or ConflictError when
    into/NAME is there already.
    """
    with temporary_folder(into, ".unpack.") as folder:
        files = unpack_tar(stream, folder / "archive", max_bytes, max_files)
        tops = sorted({name.split("/")[0] for name in files})
        if len(tops) != 1 or f"{tops[0]}/bundle.json" not in files:
            raise BundleError(
                "the archive is not a bundle of MLaaS4HEP: it must hold one folder NAME/ "
                f"with bundle.json; found {', '.join(tops[:5]) or 'nothing'}",
                "Upload the NAME.tar.gz that a training wrote.",
            )
        unpacked = folder / "archive" / tops[0]
        name = Bundle.open(unpacked, verify=True).name
        target = into / name
        if target.exists():
            raise ConflictError(f"{name} exists already")
        unpacked.rename(target)
    return target


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at ``path``: its folder, the bundle.json in it, or its archive.

    An archive is unpacked to a temporary folder, which is gone at the end.
    """
    if path.is_file() and path.name == "bundle.json":
        path = path.parent
    if path.is_dir():
        yield Bundle.open(path.resolve())
        return
    if not path.exists():
        raise BundleError(
            f"no such file or folder: {path}", "Give the folder of a bundle, or its NAME.tar.gz."
        )
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as folder:
        try:
            with path.open("rb") as stream:
                unpacked = unpack(stream, Path(folder), MAX_UNPACKED)
        except (ArchiveError, BundleError) as error:
            raise BundleError(
                f"{path} is neither the folder of a bundle nor its archive: {error.message}",
                "Give the folder that 'mlaas4hep train' wrote, or its NAME.tar.gz.",
            ) from None
        yield Bundle.open(unpacked)


def _read_manifest(path: Path) -> Manifest:
    where = f"{path.name}/bundle.json"
    try:
        content = _read_json(path / "bundle.json")
    except FileNotFoundError:
        raise BundleError(
            f"{path.name} is not a bundle: no bundle.json in it",
            "A bundle is a directory that 'mlaas4hep train' wrote.",
        ) from None
    kinds = {
        "format": int,
        "name": str,
        "framework": str,
        "servable": bool,
        "why_not": str,
        "classes": list,
        "columns": int,
        "created": str,
        "comparison": dict,
        "files": dict,
    }
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(
            f"{where} is not of format {FORMAT}", "Train again with this version of MLaaS4HEP."
        )
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise BundleError(f"{where}: {key} must be a {kind.__name__}")
    manifest = Manifest(**{key: content[key] for key in kinds})
    if (folds := content.get("folds")) is not None:
        try:
            manifest = replace(manifest, folds=Folds.from_json(folds))
        except ValueError as error:
            raise BundleError(f"{where}: folds: {error}") from None
    if (target := content.get("target")) is not None:
        try:
            manifest = replace(manifest, target=Target.from_json(target))
        except ValueError as error:
            raise BundleError(f"{where}: target: {error}") from None
    if not NAME.fullmatch(manifest.name):
        raise BundleError(f"{where}: {manifest.name!r} can't be the name of a model")
    if manifest.target and manifest.classes:
        raise BundleError(f"{where}: there are classes and a target")
    few = not manifest.target and len(manifest.classes) < 2
    if few or not all(isinstance(c, str) for c in manifest.classes):
        raise BundleError(f"{where}: classes must be at least two names")
    if len(manifest.files) > MOST_FILES:
        raise LimitError(f"{where} names more than {MOST_FILES} files")
    for name, digest in manifest.files.items():
        if name.startswith("/") or ".." in name.split("/") or not isinstance(digest, str):
            raise BundleError(f"{where}: {name!r} is not a file of the bundle")
    try:
        year = datetime.fromisoformat(manifest.created).year
    except ValueError:
        year = 0
    if not 1980 <= year < 2100:  # which an archive can hold
        raise BundleError(f"{where}: {manifest.created!r} is not a time from 1980 to 2099")
    return manifest


def _read_json(path: Path) -> Any:
    check_size(path, path.name)
    try:
        text = path.read_text()
        value = json.loads(text)
        if _SURROGATE.search(text):  # half a character can't be shown or sent
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.parent.name}/{path.name} is not JSON: {error}") from None
    return value


def _files(path: Path) -> list[str]:
    """Relative names of all files of a bundle but bundle.json, sorted."""
    return sorted(
        name for found in walk(path) if found.is_file and (name := found.path) != "bundle.json"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
