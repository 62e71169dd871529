"""The collection's modules, loaded from their files as Ansible does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

MODULES = Path(__file__).parents[2] / "plugins/modules"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data_disk() -> ModuleType:
    return load("data_disk")


@pytest.fixture(scope="session")
def preflight() -> ModuleType:
    return load("preflight")
