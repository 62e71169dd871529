"""The ROOT files that tests read: written by ROOT itself, and those that a folder beside has.

That folder is MLAAS4HEP_TEST_DATA, else ../shared/data beside the repository; it may be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from real.write import TREES, folder

REPOSITORY = Path(__file__).resolve().parents[3]
GIVEN_FOLDER = Path(os.environ.get("MLAAS4HEP_TEST_DATA") or REPOSITORY.parent / "shared/data")
GIVEN = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "uproot-HZZ.root": "events",
    "uproot-Zmumu.root": "events",
    "uproot-issue513.root": "Delphes",
}


@cache
def written() -> Path:
    """The folder of the files that ROOT writes; the first call on a machine writes them."""
    if not folder().is_dir():
        python = REPOSITORY / ".venv-root/bin/python"
        assert python.exists(), "ROOT, which writes the tests' files, is missing: make root-files"
        subprocess.run([python, Path(__file__).with_name("write.py")], check=True, timeout=240)
    return folder()


@dataclass(frozen=True)
class RealFile:
    """A file and one of its trees."""

    name: str
    tree: str
    beside: bool = False

    @property
    def path(self) -> Path:
        return (GIVEN_FOLDER if self.beside else written()) / self.name

    def opinion(self) -> dict[str, Any]:
        """What RDataFrame found in the branches of numbers, of files written by ROOT here."""
        return json.loads(self.path.with_suffix(".json").read_text())[self.tree]

    def __str__(self) -> str:
        return f"{self.name}:{self.tree}"


WRITTEN = [RealFile(name, tree) for (name, tree), events in TREES.items() if events]
EMPTY = [RealFile(name, tree) for (name, tree), events in TREES.items() if not events]
REAL = WRITTEN + [
    RealFile(name, tree, beside=True)
    for name, tree in GIVEN.items()
    if (GIVEN_FOLDER / name).is_file()
]


def outcome(name: str) -> dict[str, Any]:
    """What RDataFrame found in one of ANALYSES."""
    return json.loads((written() / f"{name}.analysis.json").read_text())


def each(like: str = "", files: list[RealFile] = REAL) -> pytest.MarkDecorator:
    """Run a test for each of the files, or for those whose name holds ``like``."""
    chosen = [file for file in files if like in file.name.lower()]
    assert chosen, f"no file is like {like}"
    return pytest.mark.parametrize("real", chosen, ids=str)
