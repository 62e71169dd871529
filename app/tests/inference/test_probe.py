from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlaas4hep.models.repository import Repository
from support.bundles import constant, make_bundle


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def publish(store: Path, name: str, value: float = 7) -> None:
    bundle = make_bundle(store.parent / name, name, lambda width: constant(width, value))
    Repository(store / "models").put(bundle, name)


def damage(store: Path, name: str) -> None:
    Repository(store / "models").get(name).onnx.write_bytes(b"no graph")


def probed(store: Path) -> tuple[int, str]:
    """Exit status and words, as the check of a deployment gets them."""
    ended = subprocess.run(
        [sys.executable, "-m", "mlaas4hep.inference.probe"],
        env=os.environ | {"MLAAS4HEP_STORE": str(store)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return ended.returncode, ended.stdout.strip()


def test_no_model_is_well(store: Path) -> None:
    assert probed(store) == (0, "there is no model")


def test_the_first_that_answers_is_enough(store: Path) -> None:
    publish(store, "anna_1")
    damage(store, "anna_1")
    publish(store, "luca_1")
    assert probed(store) == (0, "the model luca_1 answers [7.0]")


def test_when_none_answers_the_reason_is_said(store: Path) -> None:
    publish(store, "anna_1")
    damage(store, "anna_1")
    status, said = probed(store)
    assert status == 1
    assert said.startswith("no model answers: anna_1: can't serve anna_1")
