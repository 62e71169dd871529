from datetime import datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from mlaas4hep.jobs.database import Job
from mlaas4hep.web.server import create_app
from support.service import Service, small_files
from web.server.asking import BODY, assert_problem, ended, submit, upload


def test_the_json_api(service: Service, http: TestClient) -> None:
    upload(http)
    submit(http)
    [waiting] = http.get("/jobs").json()
    assert waiting["state"] == "waiting"
    assert waiting["progress"] == {"phase": "", "done": 0, "total": 0, "figures": {}}
    service.run(service.queue.get("luca_1"))
    job = http.get("/jobs/luca_1").json()
    times = [datetime.fromisoformat(job.pop(key)) for key in ("created", "started", "finished")]
    assert times == sorted(times)
    assert job == {
        "process_name": "luca_1",
        "job_id": 1,
        "name": "luca",
        "state": "succeeded",
        "progress": {"phase": "training", "done": 3, "total": 10, "figures": {"loss": 0.5}},
        "reason": "",
        "remedy": "",
        "exit_code": 0,
        "metrics": {"auc": 0.75, "data": ""},
        "warnings": [],
        "model": "luca_1",
        "servable": True,
        "why_not": "",
        "expired": None,
        "request": {
            "files": "files.txt",
            "labels": "labels.txt",
            "model": "model.py",
            "params": "params.json",
            "cpus": 2.0,
            "memory": 3 * 1024**3,
            "device": "cpu",
            "environment": "default",
        },
    }
    [folder] = http.get("/folders").json()
    assert (folder["name"], folder["files"]) == ("luca", len(small_files()))
    assert http.get("/healthz").json() == {"status": "ok", "runner": "none"}
    assert http.delete("/folders/luca/specs").status_code == 204
    assert http.delete("/folders/luca").status_code == 204
    assert http.get("/folders").json() == []


def test_the_report_may_run_nothing(service: Service, http: TestClient) -> None:
    ended(service, http)
    report = http.get("/jobs/luca_1/report")
    assert report.text == "<h1>report</h1>"
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_the_environments_that_are_offered(tmp_path: Path, http: TestClient) -> None:
    assert http.get("/environments").json() == [{"name": "default", "devices": ["cpu"]}]
    environments = {"default": "a/job:1", "gpu": {"image": "a/gpu:1", "gpus": 1}}
    service = Service(tmp_path / "other", executor="container", environments=environments)
    service.upload("luca")
    with TestClient(create_app(service.settings), "http://127.0.0.1:8080") as other:
        assert other.get("/environments").json() == [
            {"name": "default", "devices": ["cpu"]},
            {"name": "gpu", "devices": ["cpu", "gpu"]},
        ]
        submit(other, environment="gpu", device="gpu")
        request = other.get("/jobs/luca_1").json()["request"]
        assert (request["environment"], request["device"]) == ("gpu", "gpu")
        answer = other.post("/submit", json=BODY | {"environment": "gpt"})
        assert_problem(answer, 400, "'gpt' is not offered here", "'gpu'")


def test_secrets_in_the_names_of_files_are_not_shown(service: Service, http: TestClient) -> None:
    """They are in the database, as the training needs them."""
    url = "https://anna:password@host/a.root?authz=SECRET"
    upload(http)
    with pytest.MonkeyPatch.context() as patch:  # files of which are none here
        patch.setattr("mlaas4hep.jobs.queue.check_files", lambda *_: None)
        submit(http, files=url)
    assert service.queue.get("luca_1").files == url
    assert (
        http.get("/jobs/luca_1").json()["request"]["files"] == "https://...@host/a.root?authz=..."
    )
    for said in (http.get(path).text for path in ("/", "/jobs", "/jobs/luca_1")):
        assert "a.root?authz=..." in said
        assert "SECRET" not in said
        assert "password@" not in said


@pytest.mark.hostile("six jobs with 60 MB of text each")
def test_a_list_of_jobs_with_long_texts_is_short(service: Service, http: TestClient) -> None:
    upload(http)
    for _ in range(120):
        submit(http)
    with service.database.write() as session:
        for job in session.scalars(select(Job)):
            job.why_not, job.progress = "x" * 1_000_000, {"phase": "training"}
    answer = http.get("/jobs")
    assert answer.headers["content-type"] == "application/json"
    assert [job["job_id"] for job in answer.json()] == list(range(120, 0, -1))
    assert len(answer.content) < 120 * 3000
    assert len(http.get("/jobs?limit=70").json()) == 70
    assert http.get("/").status_code == 200
