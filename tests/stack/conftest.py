"""The machine that molecule has converged, seen from inside and from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright, sync_playwright
from signed_in import Stack
from vm import VM

from support.user import Files, example


@pytest.fixture(scope="session")
def vm() -> VM:
    """The bare machine on which the roles have run."""
    return VM()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a user has to train with."""
    return example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def stack(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The stack with sign-in, as its users reach it; alice has a folder, job and model there."""
    return Stack(files, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Browsers; a process can have this once."""
    with sync_playwright() as started:
        yield started
