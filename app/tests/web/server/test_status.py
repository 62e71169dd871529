from __future__ import annotations

import io
import json
import logging
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from mlaas4hep.core.log import JsonFormatter
from mlaas4hep.jobs.presence import only_runner
from mlaas4hep.web.observe import Observe
from mlaas4hep.web.server import create_app
from support.service import Service, packed, small_files

BODY = {
    "name": "luca", "device": "cpu", "memory": "3gb", "cpus": "2", "files": "files.txt",
    "labels": "labels.txt", "model": "model.py", "params": "params.json",
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "store")
    yield service
    service.kill_all()


def client(service: Service) -> TestClient:
    app = create_app(service.settings)
    observed = Observe(app, app.state.requests)
    return TestClient(observed, "http://127.0.0.1:8080", raise_server_exceptions=False)


def figures(http: TestClient) -> dict[str, float]:
    """The samples by name and labels' values."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


def test_ready_while_a_runner_is_at_work(service: Service) -> None:
    http = client(service)
    with only_runner(service.settings.store):
        assert http.get("/readyz").json() == {"status": "ready"}
        assert figures(http)["mlaas4hep_runner_at_work"] == 1
    answer = http.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "not ready: no runner is at work"
    assert "mlaas4hep runner" in answer.json()["detail"]
    assert figures(http)["mlaas4hep_runner_at_work"] == 0
    assert http.get("/healthz").status_code == 200


def test_a_store_that_cannot_be_written(service: Service) -> None:
    http = client(service)
    shutil.rmtree(service.settings.uploads)
    answer = http.get("/readyz")
    assert "the store can't be written: No such file or directory" in answer.json()["title"]
    assert "MLAAS4HEP_STORE" in answer.json()["detail"]


def test_a_store_that_is_full(tmp_path: Path) -> None:
    full = Service(tmp_path / "store", min_free_bytes=10**18)
    assert "less than 931322574.6 GB (min_free_bytes)" in ready_title(full)
    roomy = Service(tmp_path / "store", min_free_bytes=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert "the store can't be written: File too large" in ready_title(roomy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the store" not in ready_title(roomy)


def ready_title(service: Service) -> str:
    return str(client(service).get("/readyz").json()["title"])


def test_a_database_that_is_away(service: Service) -> None:
    http = client(service)
    found = figures(http)
    assert found["mlaas4hep_database_up"] == 1
    assert found["mlaas4hep_jobs waiting"] == 0
    with service.database.write() as session:
        session.execute(text("ALTER TABLE schema_version RENAME TO away"))
        session.execute(text("ALTER TABLE jobs RENAME TO jobs_away"))
    found = figures(http)
    answer = http.get("/readyz")
    with service.database.write() as session:
        session.execute(text("ALTER TABLE jobs_away RENAME TO jobs"))
    assert found["mlaas4hep_database_up"] == 0
    assert "mlaas4hep_jobs waiting" not in found
    assert answer.status_code == 503
    assert "the database can't be used: no such table: schema_version" in answer.json()["title"]
    assert "MLAAS4HEP_DATABASE" in answer.json()["detail"]


def test_metrics_of_jobs_and_lines_about_them(service: Service) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("mlaas4hep")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        http = client(service)
        content = {"file": ("folder.tar.gz", io.BytesIO(packed(small_files())))}
        assert http.post("/upload?name=luca", files=content).status_code == 200
        answer = http.post("/submit", json=BODY, headers={"x-request-id": "submitting"})
        assert answer.headers["x-request-id"] == "submitting"
        assert http.post("/submit", json=BODY | {"model": "x"}).status_code == 400
        assert http.get("/jobs/luca_1").status_code == 200
        assert http.get("/jobs/nobody_7").status_code == 404
        assert figures(http)["mlaas4hep_jobs waiting"] == 1
        service.run(service.queue.get("luca_1"))
    finally:
        logger.removeHandler(handler)
    found = figures(http)
    assert found["mlaas4hep_jobs succeeded"] == 1
    assert found["mlaas4hep_jobs waiting"] == found["mlaas4hep_jobs running"] == 0
    assert found["mlaas4hep_requests_total GET /jobs/{process_name} 200"] == 1
    assert found["mlaas4hep_requests_total GET /jobs/{process_name} 404"] == 1
    assert found["mlaas4hep_requests_total POST /submit 400"] == 1
    assert "luca" not in http.get("/metrics").text

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    seen = [(line["path"], line.get("job")) for line in lines if line["message"] == "request"]
    assert seen == [
        ("/upload", None),
        ("/submit", "luca_1"),
        ("/submit", None),
        ("/jobs/luca_1", "luca_1"),
        ("/jobs/nobody_7", None),
    ]
    of_the_runner = [line for line in lines if line["logger"] == "mlaas4hep.jobs.runner"]
    assert [line["message"] for line in of_the_runner] == ["job started", "job succeeded"]
    assert {line["job"] for line in of_the_runner} == {"luca_1"}


def test_an_error_of_the_server_has_its_request_id(service: Service) -> None:
    app = create_app(service.settings)

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("broken")

    observed = Observe(app, app.state.requests)
    http = TestClient(observed, "http://127.0.0.1:8080", raise_server_exceptions=False)
    answer = http.get("/broken", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
