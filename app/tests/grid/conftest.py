from __future__ import annotations

from collections.abc import Iterator

import pytest

from parts.xrootd import Pki, Voms


@pytest.fixture(scope="module")
def vo(pki: Pki) -> Iterator[Voms]:
    with Voms(pki) as server:
        yield server
