from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlaas4hep.cli import main, train
from mlaas4hep.demo.simulate import write_files


@dataclass
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch):
    """Run ``mlaas4hep ARGUMENTS`` (or workflow.py) as its entry point does."""

    def run(*arguments: str | Path, script: str = "mlaas4hep") -> Ended:
        entry = {"mlaas4hep": main.main, "workflow.py": train.main}[script]
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        try:
            entry()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


MODEL = """\
from sklearn.linear_model import SGDClassifier


def model(idim):
    return SGDClassifier(loss="log_loss", random_state=0)
"""


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    write_files(folder, n=1_500)
    return folder


@pytest.fixture
def five_files(tmp_path, simulated, monkeypatch) -> Path:
    """The working directory: signal, background, and the other files, fit to train quickly."""
    for name in ("signal.root", "background.root", "mixture.root"):
        (tmp_path / name).symlink_to(simulated / name)
    (tmp_path / "files.txt").write_text("# signal first\nsignal.root\nbackground.root\n\n")
    (tmp_path / "labels.txt").write_text("1\n0\n")
    (tmp_path / "model.py").write_text(MODEL)
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, **more: object) -> None:
    params = {
        "branch": "events",
        "identifier": ["runNo", "evtNo", "lumi"],
        "epochs": 10,
        "chunk_size": 1000,
    }
    (folder / "params.json").write_text(json.dumps(params | more))
