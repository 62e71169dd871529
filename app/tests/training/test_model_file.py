from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlaas4hep.core.errors import ModelError, UsageError
from mlaas4hep.training.model_file import ModelFile

# The listing of the talk: not Python, and Keras 2.
SLIDE = """from tensorflow import keras
from keras.models import Sequential
from keras.layers import Dense, Dropout

def model(idim):
    "Simple Keras model for testing purposes"
    ml_model = Sequential([Dense(128,
                                activation='relu', input_shape=(idim,)),
                            Dropout(0.5),
                            Dense(64, activation='relu'),
                            Dropout(0.5),
                            Dense(1, activation='sigmoid')])
    ml_model.compile(optimizer=keras.optimizers.Adam(lr=1e-3),
                    loss=keras.losses.BinaryCrossentropy(),
                    keras.metrics.AUC(name='auc'))
"""


def write(folder: Path, text: str, name: str = "model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_slides_listing_step_by_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.py:15: not valid Python: positional") as found:
        ModelFile.read(write(tmp_path, SLIDE))
    assert "metrics=[...]" in found.value.remedy
    text = SLIDE.replace("keras.metrics.AUC(name='auc')", "metrics=[keras.metrics.AUC(name='auc')]")
    with pytest.raises(ModelError, match=r"model\.py:13: Adam\(lr=\.\.\.\) is Keras 2") as found:
        ModelFile.read(write(tmp_path, text))
    assert "learning_rate" in found.value.remedy
    text = text.replace("lr=", "learning_rate=")
    read = ModelFile.read(write(tmp_path, text))
    assert read.imported == {"tensorflow", "keras"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def model(idim:\n", r"model\.py:1: not valid Python"),
        ("import os\ndef modle(idim):\n return 1\n", r"has no function model\(idim\)\n.*'modle'"),
        ("x = 1\n", r"has no function model\(idim\)\n  Write: def model"),
        ("a = 1\0\n", "not valid Python"),
    ],
)
def test_what_can_be_seen_without_running(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        ModelFile.read(write(tmp_path, text))


def test_reading_runs_nothing(tmp_path: Path) -> None:
    ModelFile.read(write(tmp_path, "raise SystemExit('run')\ndef model(idim): return 1\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def model(idim):\n  x = 1\n", r"model\.py: model\(4\) returned nothing\n.*return"),
        (
            "def model(idim):\n  x = idim\n  return x / 0\n",
            r"model\.py:3: model\(4\) failed: ZeroDi",
        ),
        ("def model(): return 1\n", r"model\.py: model\(4\) failed: TypeError"),
        (
            "import nonesuch_module\ndef model(i): return 1",
            r"model\.py:1: loading failed: ModuleNot.*\n  nonesuch_module is not .* a .* Keras",
        ),
        (
            "raise SystemExit(3)\ndef model(i): return 1",
            r"model\.py:1: loading failed: SystemExit: 3",
        ),
        ("from os.path import *\nmodel = 3\n", "model is a int, not a function"),
        ("from os.path import *\n", "model is a NoneType, not a function"),
    ],
)
def test_what_running_shows(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        ModelFile.read(write(tmp_path, text)).build(4)


def test_the_users_line_is_in_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, "def inner():\n    raise ValueError('no\\nway')\n", "other_module.py")
    text = "from other_module import inner\ndef model(idim):\n    return inner()\n"
    with pytest.raises(ModelError, match=r"other_module\.py:2: .*ValueError: no way") as found:
        ModelFile.read(write(tmp_path, text)).build(4)
    assert "model.py:3, in model: return inner()" in found.value.remedy


def test_modules_beside_the_file_and_changes_of_sys_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lib").mkdir()
    write(tmp_path, "VALUE = 5\n", "sibling_of_model.py")
    write(tmp_path / "lib", "VALUE = 6\n", "far_from_model.py")
    text = (
        "import os, sys\n"
        "sys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\n"
        "import sibling_of_model, far_from_model\n"
        "def model(idim):\n"
        "    import sibling_of_model as again\n"
        "    return idim, again.VALUE, far_from_model.VALUE\n"
    )
    monkeypatch.chdir("/")
    assert ModelFile.read(write(tmp_path, text, "my-model.py")).build(4) == (4, 5, 6)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*none\.py"):
        ModelFile.read(tmp_path / "none.py")
