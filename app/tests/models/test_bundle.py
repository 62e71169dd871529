from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlaas4hep.core.errors import ArchiveError, BundleError, ConflictError, LimitError, UsageError
from mlaas4hep.models.bundle import CARD_KEYS, MOST_FILES, Bundle, card, check_name, pack, unpack
from support.bundles import make_bundle

LIMIT = 10 << 20


def test_open_gives_what_was_sealed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "luca_1", classes=["GG", "GT", "TT"])
    bundle = Bundle.open(path, verify=True)
    assert bundle.name == "luca_1"
    assert bundle.classes == ["GG", "GT", "TT"]
    assert bundle.manifest.outputs == 3
    assert bundle.columns == bundle.specs.columns
    assert bundle.manifest.columns == len(bundle.columns)
    assert list(bundle.card) == list(CARD_KEYS)
    assert bundle.onnx == path / "1/model.onnx"
    digest = hashlib.sha256((path / "specs.json").read_bytes()).hexdigest()
    assert bundle.manifest.files["specs.json"] == digest
    assert "bundle.json" not in bundle.manifest.files


def test_the_card_tells_of_onnx_but_for_what_the_native_model_names() -> None:
    content = card("m_1", "text", "now", {"model": "saved_model.pb", "input_node": "in"})
    assert list(content) == list(CARD_KEYS)
    assert (content["name"], content["model"]) == ("m_1", "saved_model.pb")
    assert (content["input_node"], content["input_name"]) == ("in", "inputs")
    assert card("m_1", "text", "now", {})["model"] == "1/model.onnx"


def test_not_servable_says_why(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path, "m", why_not="it can't become ONNX"))
    with pytest.raises(BundleError, match="m is not servable: it can't become ONNX"):
        _ = bundle.onnx


def rewrite(path: Path, name: str, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads((path / name).read_text())
    change(content)
    (path / name).write_text(json.dumps(content))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda p: (p / "bundle.json").unlink(), "no bundle.json in it"),
    "not JSON": (lambda p: (p / "bundle.json").write_text("{"), "bundle.json is not JSON"),
    "deep JSON": (lambda p: (p / "bundle.json").write_text("[" * 10**5), "not JSON"),
    "a list": (lambda p: (p / "bundle.json").write_text("[]"), "not of format 1"),
    "format": (lambda p: rewrite(p, "bundle.json", lambda c: c.update(format=2)), "format 1"),
    "a key": (lambda p: rewrite(p, "bundle.json", lambda c: c.pop("columns")), "columns must be"),
    "its type": (
        lambda p: rewrite(p, "bundle.json", lambda c: c.update(servable="yes")),
        "servable must be a bool",
    ),
    "name": (
        lambda p: rewrite(p, "bundle.json", lambda c: c.update(name="../x")),
        "'../x' can't be",
    ),
    "classes": (
        lambda p: rewrite(p, "bundle.json", lambda c: c.update(classes=["a"])),
        "at least two",
    ),
    "created": (
        lambda p: rewrite(p, "bundle.json", lambda c: c.update(created="today")),
        "'today' is not a time",
    ),
    "a file outside": (
        lambda p: rewrite(p, "bundle.json", lambda c: c["files"].update({"../a": ""})),  # type: ignore[attr-defined]
        "'../a' is not a file",
    ),
    "the model": (lambda p: (p / "1/model.onnx").unlink(), "lacks 1/model.onnx"),
    "a needed file": (lambda p: (p / "specs.json").unlink(), "lacks specs.json"),
    "columns.json": (
        lambda p: (p / "columns.json").write_text('["a", "b"]'),
        "columns.json has 2 columns, bundle.json says 8",
    ),
    "long lists": (
        lambda p: rewrite(p, "specs.json", lambda c: c["jdim"].update(jet_pt=10**5)),  # type: ignore[attr-defined]
        "specs.json has 100005 columns",
    ),
    "order of columns": (
        lambda p: (p / "columns.json").write_text(
            json.dumps(json.loads((p / "columns.json").read_text())[::-1])
        ),
        "columns.json and specs.json differ",
    ),
    "labels": (lambda p: (p / "labels.txt").write_bytes(b"\xff\n"), "labels.txt and bundle.json"),
    "card": (lambda p: (p / "params.json").write_text("{}"), "not a model card"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_bundle_is_refused(tmp_path: Path, what: str) -> None:
    damage, match = DAMAGE[what]
    path = make_bundle(tmp_path, "m")
    damage(path)
    with pytest.raises(BundleError, match=match):
        Bundle.open(path)


def test_verify_finds_a_changed_byte_and_a_stowaway(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "m")
    model = bytearray((path / "1/model.onnx").read_bytes())
    model[-1] ^= 1
    (path / "1/model.onnx").write_bytes(model)
    Bundle.open(path)
    with pytest.raises(BundleError, match=r"1/model\.onnx in the bundle m is not what"):
        Bundle.open(path, verify=True)
    path = make_bundle(tmp_path, "n")
    (path / "extra.py").write_text("import os")
    with pytest.raises(BundleError, match=r"holds extra\.py, unknown"):
        Bundle.open(path, verify=True)


def test_pack_and_unpack(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "a", "m_1")
    first = pack(path).read_bytes()
    assert pack(path, tmp_path / "again.tar.gz").read_bytes() == first
    with tarfile.open(tmp_path / "a/m_1.tar.gz") as tar:
        folders = {member.name for member in tar if member.isdir()}
        assert all(member.uid == 0 and member.mtime > 1e9 for member in tar.getmembers())
    assert folders == {"m_1", "m_1/1", "m_1/provenance"}

    into = tmp_path / "into"
    into.mkdir()
    target = unpack(io.BytesIO(first), into, LIMIT)
    assert target == into / "m_1"
    assert Bundle.open(target, verify=True).manifest == Bundle.open(path).manifest
    with pytest.raises(ConflictError, match="m_1 exists"):
        unpack(io.BytesIO(first), into, LIMIT)
    assert [p.name for p in into.iterdir()] == ["m_1"]


def test_a_renamed_folder_keeps_the_models_name(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "m_1")
    renamed = path.rename(tmp_path / "my model")
    archive = pack(renamed)
    assert archive.name == "my model.tar.gz"
    with tarfile.open(archive) as tar:
        assert {name.split("/")[0] for name in tar.getnames()} == {"m_1"}


def archive_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (archive_of(("m/saved_model.pb", b"")), BundleError, "one folder NAME/.*found m"),
        (archive_of(("bundle.json", b"{}")), BundleError, "not a bundle"),
        (archive_of(("a/bundle.json", b"{}"), ("b/x", b"")), BundleError, "found a, b"),
        (archive_of(), BundleError, "found nothing"),
        (archive_of(("m/bundle.json", bytes(LIMIT))), LimitError, "10 MB unpacked"),
        (archive_of(("m/bundle.json", b"{}")), BundleError, "format 1"),
        (gzip.compress(b"hello"), ArchiveError, "Send a tar"),
    ],
)
def test_what_is_no_bundle_leaves_nothing(
    tmp_path: Path, data: bytes, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        unpack(io.BytesIO(data), tmp_path, LIMIT - 1)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_bundle_is_not_unpacked(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "a", "m")
    (path / "labels.txt").write_text("signal\nbackground\n")
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["classes"].reverse()
    (path / "bundle.json").write_text(json.dumps(manifest))
    archive = pack(path)
    into = tmp_path / "into"
    into.mkdir()
    with archive.open("rb") as stream, pytest.raises(BundleError, match=r"labels.txt .*sha256"):
        unpack(stream, into, LIMIT)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("name", ["a-b", "", "a" * 129, "é", "a/b", "a\n", "../a"])
def test_names_that_a_model_cannot_have(name: str) -> None:
    with pytest.raises(UsageError, match="can't be the name of a model"):
        check_name(name)


def test_the_module_imports_nothing_heavy() -> None:
    heavy = "tensorflow keras uproot awkward numba sklearn matplotlib sqlalchemy onnxruntime onnx"
    code = (
        "import sys, mlaas4hep.models.bundle;"
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    path = str(Path(sys.modules["mlaas4hep"].__file__ or "").parents[1])
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert out.stdout.strip() == "[]", out.stderr


@pytest.mark.hostile("params.json of 600 MB")
@pytest.mark.parametrize(
    "name",
    ["bundle.json", "params.json", "specs.json", "columns.json", "labels.txt", "metrics.json",
     "report.html"],
)  # fmt: skip
def test_files_that_are_read_whole_are_bounded(tmp_path: Path, name: str) -> None:
    path = make_bundle(tmp_path, "m")
    (path / name).touch()
    os.truncate(path / name, 600 << 20)
    manifest = json.loads((path / "bundle.json").read_text()) if name != "bundle.json" else {}
    if manifest:
        manifest["files"][name] = ""
        (path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(LimitError, match=rf"{name} in the bundle m is larger than \d+ MB"):
        Bundle.open(path, verify=True)


@pytest.mark.hostile("a bundle of 12,000 files")
def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    files = [(f"m/d{i % 100}/f{i}", b"") for i in range(MOST_FILES)]
    with pytest.raises(LimitError, match=f"more than {MOST_FILES} files and folders"):
        unpack(io.BytesIO(archive_of(*files)), tmp_path, LIMIT)
    assert list(tmp_path.iterdir()) == []
    path = make_bundle(tmp_path, "m")
    rewrite(
        path,
        "bundle.json",
        lambda c: c["files"].update({f"f{i}": "" for i in range(MOST_FILES)}),  # type: ignore[attr-defined]
    )
    with pytest.raises(LimitError, match=f"names more than {MOST_FILES} files"):
        Bundle.open(path)
