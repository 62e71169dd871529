"""The collection's modules, loaded from their files as Ansible does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
COLLECTION = "ansible_collections.mlaas4hep.stack"
MODULES = ROOT / "plugins/modules"
sys.path.append(str(ROOT))  # where modules find what they share


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data_disk() -> ModuleType:
    return load("data_disk")


@pytest.fixture(scope="session")
def old_images() -> ModuleType:
    return load("old_images")


@pytest.fixture(scope="session")
def preflight() -> ModuleType:
    return load("preflight")


@pytest.fixture(scope="session")
def oidc_client() -> ModuleType:
    return load("oidc_client")


@pytest.fixture(scope="session")
def self_check() -> ModuleType:
    return load("self_check")


@pytest.fixture(scope="session")
def from_registry() -> ModuleType:
    """The filter that names an image."""
    return importlib.import_module(f"{COLLECTION}.plugins.filter.from_registry")


@pytest.fixture(scope="session")
def wrong_data_hosts() -> Callable[[list[str]], list[dict[str, str]]]:
    """The filter that looks at the hosts of remote data."""
    return importlib.import_module(f"{COLLECTION}.plugins.filter.wrong_data_hosts").wrong_data_hosts


@pytest.fixture(scope="session")
def engine() -> ModuleType:
    """What modules know of the container engine's settings."""
    return importlib.import_module(f"{COLLECTION}.plugins.module_utils.engine")
