from collections.abc import Iterator
from pathlib import Path

import pytest

from support.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "store")
    yield service
    service.kill_all()
