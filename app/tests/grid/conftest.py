from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from grid.process import Renewer, membership
from parts.xrootd import Pki, Voms


@pytest.fixture(scope="module")
def vo(pki: Pki) -> Iterator[Voms]:
    with Voms(pki) as server:
        yield server


@pytest.fixture
def renewer(pki: Pki) -> Iterator[Callable[..., Renewer]]:
    """Start a renewer with these settings; it ends with the test."""
    started: list[Renewer] = []

    def start(vo: Voms | None = None, **settings: object) -> Renewer:
        given = (membership(pki, vo) if vo else {}) | settings
        server = Renewer(pki, **given)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()
