"""How tests ask the server."""

import io
from typing import Any

import httpx
from fastapi.testclient import TestClient

from mlaas4hep.jobs.database import Job
from support.service import Service, packed, small_files

BODY = {
    "name": "luca", "device": "cpu", "memory": "3gb", "cpus": "2", "files": "files.txt",
    "labels": "labels.txt", "model": "model.py", "params": "params.json",
}  # fmt: skip  # fmt: skip


def upload(http: TestClient, name: str = "luca", **files: Any) -> httpx.Response:
    content = {"file": ("folder.tar.gz", io.BytesIO(packed(small_files(**files))))}
    return http.post("/upload", params={"name": name}, files=content)


def submit(http: TestClient, **changes: object) -> str:
    answer = http.post("/submit", json=BODY | changes)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["process_name"])


def ended(service: Service, http: TestClient, **files: Any) -> Job:
    """A job that has ended."""
    assert upload(http, **files).status_code == 200
    [job] = service.run(service.queue.get(submit(http)))
    return job


def assert_problem(answer: httpx.Response, status: int, *texts: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == status
    for expected in texts:
        assert expected in f"{said['title']} {said.get('detail', '')}"
