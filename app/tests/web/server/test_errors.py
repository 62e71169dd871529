import resource

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from support.service import Service, packed
from web.server.asking import assert_problem, upload


def test_a_body_beyond_the_limit_is_413(http: TestClient) -> None:
    assert_problem(http.post("/submit", content=b" " * 2_000_000), 413, "1 MB")


@pytest.mark.parametrize("mode", ["w", "w:gz"])  # while it is received, while it is unpacked
def test_a_full_disk_is_507(service: Service, http: TestClient, mode: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        files = {"file": ("folder.tar", packed({"a.bin": bytes(1_500_000)}, mode=mode))}
        answer = http.post("/upload?name=luca", files=files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_problem(answer, 507, "File too large")
    assert list(service.settings.uploads.iterdir()) == []
    assert upload(http).status_code == 200


def test_a_database_that_fails_is_503(service: Service, http: TestClient) -> None:
    with service.database.write() as session:
        session.execute(text("DROP TABLE folders"))
    assert_problem(http.get("/folders"), 503, "no such table", "Try again later")


def test_the_openapi_document_names_our_errors(http: TestClient) -> None:
    for methods in http.get("/openapi.json").json()["paths"].values():
        for route in methods.values():
            assert "application/problem+json" in route["responses"]["4XX"]["content"]
            assert "422" not in route["responses"]
