from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mlaas4hep.web.observe import Observe
from mlaas4hep.web.server import create_app
from support.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "store", max_upload_bytes=2_000_000)
    yield service
    service.kill_all()


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    app = create_app(service.settings)
    observed = Observe(app, app.state.requests)
    with TestClient(observed, "http://127.0.0.1:8080", raise_server_exceptions=False) as client:
        yield client
