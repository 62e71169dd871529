import asyncio
import os
import resource
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient
from starlette.concurrency import run_in_threadpool

from mlaas4hep.core.files import remove_tree
from mlaas4hep.jobs.database import Folder, Job
from mlaas4hep.jobs.folders import Upload
from mlaas4hep.web.server import create_app
from support.service import Service, packed, small_files
from web.server.asking import BODY, assert_problem, ended, submit, upload


def test_a_failed_job_says_why_everywhere(service: Service, http: TestClient) -> None:
    ended(service, http, mode="fail")
    name = {"process_name": "luca_1"}
    assert http.get("/status_docker", params=name).json()["status"].startswith("Exited (1) ")
    assert_problem(http.get("/model", params=name), 404, "no branch 'mett'", "Did you mean 'met'?")
    assert_problem(http.get("/jobs/luca_1/report"), 409, "luca_1 is failed")
    assert http.get("/jobs/luca_1").json()["reason"] == "no branch 'mett' in a.root"
    page = http.get("/").text
    assert "no branch &#39;mett&#39; in a.root" in page


def test_a_model_that_can_not_be_served_can_be_fetched(service: Service, http: TestClient) -> None:
    ended(service, http, mode="not servable")
    job = http.get("/jobs/luca_1").json()
    assert (job["model"], job["servable"]) == (None, False)
    assert job["why_not"] == "no ONNX operator does that"
    assert http.get("/model?process_name=luca_1").status_code == 200
    assert "no ONNX operator does that" in http.get("/").text


def test_a_running_job(service: Service, http: TestClient) -> None:
    upload(http, mode="hang")
    job = service.queue.get(submit(http))
    service.until(job, condition=lambda job: job.progress)
    status = http.get("/status_docker?process_name=luca_1").json()["status"]
    assert status.startswith("Up ")
    assert "training of luca_1" in http.get("/logs?process_name=luca_1").text
    assert_problem(http.get("/delete_folder?name=luca"), 409, "in use by the job luca_1")
    assert_problem(http.get("/delete_specs?name=luca"), 409, "in use by the job luca_1")
    assert_problem(http.delete("/folders/luca"), 409)
    page = http.get("/").text
    assert "data-active" in page
    assert "training: 3 of 10, loss 0.5" in page
    answer = http.delete("/jobs/luca_1")
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    service.run(job)
    assert http.get("/jobs/luca_1").json()["reason"] == "cancelled by its user"
    assert (
        http.get("/status_docker?process_name=luca_1").json()["status"].startswith("Exited (137)")
    )
    assert_problem(http.delete("/jobs/luca_1"), 409, "has ended already")
    assert "data-active" not in http.get("/").text


def test_the_files_of_an_expired_job_are_gone_and_it_says_so(
    service: Service, http: TestClient
) -> None:
    job = ended(service, http)
    with service.database.write() as session:
        session.get_one(Job, job.id).expired = 1_000_000_000
    assert http.get("/jobs/luca_1").json()["expired"] == "2001-09-09T01:46:40+00:00"
    for path in ("/logs?process_name=luca_1", "/model?process_name=luca_1", "/jobs/luca_1/report"):
        assert_problem(http.get(path), 404, "the files of the job luca_1 were deleted", "keep_days")


def test_what_is_not_there(http: TestClient) -> None:
    upload(http)
    for path in ("/status_docker", "/logs", "/model"):
        assert_problem(http.get(path, params={"process_name": "luca_1"}), 404, "no job 'luca_1'")
    assert_problem(http.get("/jobs/luca_1"), 404)
    assert_problem(http.delete("/jobs/luca_1"), 404)
    assert_problem(http.post("/submit", json=BODY | {"name": "lucca"}), 404, "Did you mean 'luca'?")
    assert_problem(http.get("/nothing"), 404)
    assert_problem(http.put("/upload"), 405)


def asked(service: Service, talk: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """Let ``talk`` ask the application, as many things at once as it likes."""

    async def run() -> None:
        transport = httpx.ASGITransport(create_app(service.settings))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8080", timeout=60
        ) as client:
            await talk(client)

    asyncio.run(run())


@pytest.mark.hostile("45 small uploads of 15,000 files")
def test_health_is_answered_while_every_thread_is_busy(service: Service) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        free = threading.Event()
        count = int(current_default_thread_limiter().total_tokens)
        busy = [asyncio.create_task(run_in_threadpool(free.wait, 60)) for _ in range(count + 5)]
        try:
            answer = await asyncio.wait_for(client.get("/healthz"), 30)
        finally:
            free.set()
        assert answer.json() == {"status": "ok", "runner": "none"}
        await asyncio.gather(*busy)

    asked(service, talk)


@pytest.mark.hostile("45 small uploads of 15,000 files")
def test_uploads_that_are_unpacked_leave_room_for_all_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, lock = threading.Event(), threading.Lock()
    now = most = 0
    finish = Upload.finish

    def slow(self: Upload) -> Folder:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        free.wait(60)
        with lock:
            now -= 1
        return finish(self)

    monkeypatch.setattr(Upload, "finish", slow)

    async def talk(client: httpx.AsyncClient) -> None:
        archive = packed(small_files())
        uploads = [
            asyncio.create_task(
                client.post("/upload", params={"name": f"u{i}"}, files={"file": ("f", archive)})
            )
            for i in range(45)
        ]
        try:
            while len(list(service.settings.uploads.glob("*/archive"))) < 45:
                await asyncio.sleep(0.01)
            for path in ("/jobs", "/healthz", "/metrics", "/"):
                assert (await asyncio.wait_for(client.get(path), 30)).status_code == 200
            assert (await client.delete("/folders/none")).status_code == 404
        finally:
            free.set()
        assert {answer.status_code for answer in await asyncio.gather(*uploads)} == {200}

    asked(service, talk)
    assert most == 2
    assert len(service.folders.all()) == 45


@pytest.mark.hostile("full disk: DELETE answers 503")
def test_delete_makes_room_on_a_full_disk(
    service: Service, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for this process until the folder's files are gone."""
    upload(http)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room(path: Path) -> None:
        remove_tree(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr("mlaas4hep.jobs.folders.remove_tree", make_room)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        assert_problem(http.post("/submit", json=BODY), 503, "disk")
        answer = http.delete("/folders/luca")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status_code, answer.content) == (204, b"")
    assert http.get("/folders").json() == []
    assert list(service.settings.uploads.iterdir()) == []


def test_strangers_pages_are_refused(service: Service, http: TestClient) -> None:
    upload(http)
    foreign = {"origin": "https://evil.example"}
    assert_problem(http.get("/jobs", headers={"host": "evil.example"}), 403, "evil.example")
    assert_problem(http.post("/submit", json=BODY, headers=foreign), 403, "evil.example")
    assert_problem(http.get("/delete_folder?name=luca", headers=foreign), 403, "evil.example")
    assert_problem(http.get("/delete_specs?name=luca", headers=foreign), 403)
    assert_problem(
        http.get("/delete_folder?name=luca", headers={"sec-fetch-site": "cross-site"}), 403
    )
    assert_problem(http.delete("/folders/luca", headers=foreign), 403)
    assert [f.name for f in service.folders.all()] == ["luca"]
    own = {"origin": "http://127.0.0.1:8080"}
    assert http.delete("/folders/luca", headers=own).status_code == 204


def test_every_answer_has_the_security_headers(http: TestClient) -> None:
    for path in ("/", "/hello", "/nothing", "/openapi.json", "/docs", "/page.css"):
        headers = http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "absent"])
def test_user_code_can_not_make_the_server_read_other_files(
    service: Service, http: TestClient, kind: str
) -> None:
    job = ended(service, http)
    home = service.home(job)
    report, archive = home / "luca_1/report.html", home / "luca_1.tar.gz"
    for path in (report, archive):
        path.unlink()
        match kind:
            case "link":
                path.symlink_to("/etc/passwd")
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
    assert_problem(http.get("/jobs/luca_1/report"), 404)
    assert_problem(http.get("/model?process_name=luca_1"), 404)
