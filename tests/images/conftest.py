"""The images as `make images` builds them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from containers import LOCKED_DOWN, NAMES, build, docker


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The tag of each image, built unless its sources are the same."""
    assert "DOCKER_HOST" in os.environ, "DOCKER_HOST must name a container engine for these tests"
    lines = build(*NAMES).stdout.splitlines()
    return dict(zip(NAMES, (line.split()[0] for line in lines), strict=True))


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Start a container as the stack does; it is gone after the test."""
    started = []

    def starter(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
        started.append(docker("run", "-d", *LOCKED_DOWN, *options, image, *command).strip())
        return started[-1]

    yield starter
    for container in started:
        docker("rm", "-f", "-v", container)
