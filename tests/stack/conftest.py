"""The machine that molecule has converged, seen from inside and from outside."""

from __future__ import annotations

import pytest
from machine import Machine


@pytest.fixture(scope="session")
def vm() -> Machine:
    """The bare machine on which the roles have run."""
    return Machine()
