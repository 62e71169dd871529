import asyncio
import html
import io
import os
import resource
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from starlette.concurrency import run_in_threadpool

from jobs.parts import Service, packed, small_files
from mlaas4hep.jobs.database import Folder, Job, State
from mlaas4hep.jobs.folders import Upload
from mlaas4hep.jobs.presence import only_runner
from mlaas4hep.models.bundle import unpack
from mlaas4hep.web.server import ago, create_app, docker_status

BODY = {
    "name": "luca", "device": "cpu", "memory": "3gb", "cpus": "2", "files": "files.txt",
    "labels": "labels.txt", "model": "model.py", "params": "params.json",
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "store", max_upload_bytes=2_000_000)
    yield service
    service.kill_all()


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    base = "http://127.0.0.1:8080"
    with TestClient(create_app(service.settings), base, raise_server_exceptions=False) as client:
        yield client


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


def test_hello(http: TestClient) -> None:
    assert http.get("/hello").text == "Hello World\n"


def test_the_main_job_through_the_prototypes_routes(service: Service, http: TestClient) -> None:
    answer = upload(http)
    assert (answer.status_code, answer.text) == (200, "Successfully uploaded!\n")
    answer = http.post("/submit", json=BODY)
    assert answer.json() == {"process_name": "luca_1", "job_id": 1}
    job = {"process_name": "luca_1"}
    assert http.get("/status_docker", params=job).json() == job | {"status": "Created"}
    assert http.get("/logs", params=job).text == ""
    assert_problem(http.get("/model", params=job), 409, "luca_1 is waiting", "later")
    service.run(service.queue.get("luca_1"))

    status = http.get("/status_docker", params=job).json()["status"]
    assert status.startswith("Exited (0) ")
    assert status.endswith(" ago")
    log = http.get("/logs", params=job)
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.headers["content-disposition"] == 'attachment; filename="luca_1.txt"'
    assert "training of luca_1" in log.text
    model = http.get("/model", params=job)
    assert model.headers["content-disposition"] == 'attachment; filename="luca_1.tar.gz"'
    into = service.settings.store / "fetched"
    into.mkdir()
    assert unpack(io.BytesIO(model.content), into, 10**7).name == "luca_1"

    assert http.get("/delete_specs?name=luca").text == "Specs deletion completed!\n"
    assert http.get("/delete_folder?name=luca").text == "Folder deletion completed!\n"
    assert_problem(http.get("/delete_folder?name=luca"), 404, "there is no folder 'luca'")


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


def test_what_a_training_warned_of_stands_on_the_page(service: Service, http: TestClient) -> None:
    ended(service, http, mode="warn")
    warnings = http.get("/jobs/luca_1").json()["warnings"]
    assert warnings[0] == "genWeight <b>is</b> a weight"
    assert len(warnings) <= 100
    assert len(warnings[1]) <= 10_000
    page = http.get("/").text
    assert "<strong>Warning:</strong> genWeight &lt;b&gt;is&lt;/b&gt; a weight" in page


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


@pytest.mark.parametrize(
    ("method", "path", "missing"),
    [
        ("POST", "/upload", "name"),
        ("GET", "/status_docker", "process_name"),
        ("GET", "/logs", "process_name"),
        ("GET", "/model", "process_name"),
        ("GET", "/delete_specs", "name"),
        ("GET", "/delete_folder", "name"),
    ],
)
def test_missing_arguments_are_named(
    http: TestClient, method: str, path: str, missing: str
) -> None:
    assert_problem(http.request(method, path), 400, f"missing: {missing}")


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


def test_the_files_of_an_expired_job_are_gone_and_it_says_so(
    service: Service, http: TestClient
) -> None:
    job = ended(service, http)
    with service.database.write() as session:
        session.get_one(Job, job.id).expired = 1_000_000_000
    assert http.get("/jobs/luca_1").json()["expired"] == "2001-09-09T01:46:40+00:00"
    for path in ("/logs?process_name=luca_1", "/model?process_name=luca_1", "/jobs/luca_1/report"):
        assert_problem(http.get(path), 404, "the files of the job luca_1 were deleted", "keep_days")


def test_missing_keys_of_a_submission_are_named(http: TestClient) -> None:
    body = {key: value for key, value in BODY.items() if key not in ("cpus", "model")}
    assert_problem(http.post("/submit", json=body), 400, "missing: cpus, model")
    assert_problem(http.post("/submit", content=b"{"), 400)
    assert_problem(http.post("/submit", json=["luca"]), 400)
    assert_problem(http.post("/submit", json=BODY | {"files": 3}), 400, "files: ")


def test_numbers_in_a_submission_may_be_numbers(http: TestClient) -> None:
    upload(http)
    assert submit(http, cpus=1.5, memory=1073741824) == "luca_1"
    request = http.get("/jobs/luca_1").json()["request"]
    assert (request["cpus"], request["memory"]) == (1.5, 1073741824)


def test_what_is_not_there(http: TestClient) -> None:
    upload(http)
    for path in ("/status_docker", "/logs", "/model"):
        assert_problem(http.get(path, params={"process_name": "luca_1"}), 404, "no job 'luca_1'")
    assert_problem(http.get("/jobs/luca_1"), 404)
    assert_problem(http.delete("/jobs/luca_1"), 404)
    assert_problem(http.post("/submit", json=BODY | {"name": "lucca"}), 404, "Did you mean 'luca'?")
    assert_problem(http.get("/nothing"), 404)
    assert_problem(http.put("/upload"), 405)


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a b", "luca;rm", "моя", "x" * 300, "..%2f..", "a\x00b", "%00"]
)
def test_hostile_names(service: Service, http: TestClient, name: str) -> None:
    upload(http)
    assert_problem(upload(http, name), 400, "can't be used")
    assert_problem(http.post("/submit", json=BODY | {"name": name}), 400, "can't be used")
    for path in ("/delete_folder", "/delete_specs"):
        assert_problem(http.get(path, params={"name": name}), 404)
    for path in ("/status_docker", "/logs", "/model"):
        assert_problem(http.get(path, params={"process_name": name}), 404)
    assert [f.name for f in service.folders.all()] == ["luca"]


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"model": "../../model.py"}, 400, "leads outside"),
        ({"files": "file.txt"}, 400, "Did you mean 'files.txt'"),
        ({"device": "gpu"}, 400, "no GPU"),
        ({"memory": "999tb"}, 413, "max_job_memory_bytes"),
        ({"cpus": "1000"}, 413, "max_job_cpus"),
    ],
)
def test_submissions_that_are_refused(
    http: TestClient, changes: dict[str, str], status: int, text: str
) -> None:
    upload(http)
    assert_problem(http.post("/submit", json=BODY | changes), status, text)


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({}, b"", "not multipart/form-data"),
        ({"content-type": "multipart/form-data"}, b"x", "not multipart/form-data"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"rubbish", "not valid multipart"),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\ncontent-disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n',
            "no field 'file'",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx',
            "ends in the middle",
        ),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
            "the archive can't be read",
        ),
    ],
)
def test_bodies_that_are_no_upload(
    service: Service, http: TestClient, headers: dict[str, str], body: bytes, text: str
) -> None:
    answer = http.post("/upload?name=luca", content=body, headers=headers)
    assert_problem(answer, 400, text)
    assert list(service.settings.uploads.iterdir()) == []


def test_an_upload_with_other_fields_around_the_file(http: TestClient) -> None:
    files = {
        "before": ("b", b"x" * 1000),
        "file": ("f", packed(small_files())),
        "after": ("a", b""),
    }
    assert http.post("/upload?name=luca", files=files).status_code == 200
    assert http.get("/folders").json()[0]["files"] == len(small_files())


def test_an_upload_beyond_the_limit_is_413(service: Service, http: TestClient) -> None:
    files = {"file": ("folder.tar", packed({"zeros": bytes(2_000_001)}, mode="w"))}
    assert_problem(
        http.post("/upload?name=luca", files=files), 413, "2000000 bytes", "max_upload_bytes"
    )
    assert list(service.settings.uploads.iterdir()) == []


def test_a_body_beyond_the_limit_is_413(http: TestClient) -> None:
    assert_problem(http.post("/submit", content=b" " * 2_000_000), 413, "1048576 bytes")


def test_a_client_that_goes_away_leaves_nothing(service: Service) -> None:
    app = create_app(service.settings)
    archive = packed(small_files())
    messages = [
        {
            "type": "http.request",
            "body": b"--b\r\ncontent-disposition: form-data; ",
            "more_body": 1,
        },
        {"type": "http.request", "body": b'name="file"\r\n\r\n' + archive[:200], "more_body": 1},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/upload", "query_string": b"name=luca",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b")], "http_version": "1.1",
        "scheme": "http", "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert list(service.settings.uploads.iterdir()) == []


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


def test_the_page_says_when_no_runner_is_at_work(service: Service, http: TestClient) -> None:
    assert "No runner is at work" in http.get("/").text
    with only_runner(service.settings.store):
        assert "No runner" not in http.get("/").text
        assert http.get("/healthz").json()["runner"] == "at work"
    assert "No runner is at work" in http.get("/").text


def test_the_page_of_an_empty_installation_says_what_to_do(http: TestClient) -> None:
    page = http.get("/").text
    assert "No training yet" in page
    assert "No folder yet" in page
    assert "http://127.0.0.1:8083" in page


def test_the_page_shows_what_a_job_says_as_text(service: Service, http: TestClient) -> None:
    job = ended(service, http, mode="fail")
    with service.database.write() as session:
        session.get_one(Job, job.id).reason = "<script>alert(1)</script>"
    page = http.get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for own in ("http://127.0.0.1:8083", "http://127.0.0.1:8080"):
        page = page.replace(own, "")
    assert "//" not in page  # no asset of elsewhere


def test_the_openapi_document_names_our_errors(http: TestClient) -> None:
    for methods in http.get("/openapi.json").json()["paths"].values():
        for route in methods.values():
            assert "application/problem+json" in route["responses"]["4XX"]["content"]
            assert "422" not in route["responses"]


def test_the_docs_list_every_route(http: TestClient) -> None:
    page, api = html.unescape(http.get("/docs").text), http.get("/openapi.json").json()
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}</code>" in page
            assert route["description"] in page


def test_a_log_that_grows_while_it_is_read_is_whole_up_to_its_length(
    service: Service, http: TestClient
) -> None:
    job = ended(service, http)
    log = service.home(job) / "log.txt"
    log.write_bytes(b"a" * 3_000_000)
    with http.stream("GET", "/logs?process_name=luca_1") as answer:
        with log.open("ab") as more:
            more.write(b"b" * 1_000_000)
        content = answer.read()
    assert content == b"a" * 3_000_000
    assert answer.headers["content-length"] == "3000000"


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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (8.9, "8 seconds"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (180, "3 minutes"),
        (59 * 60, "59 minutes"),
        (60 * 60, "About an hour"),
        (100 * 60, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (731 * 86400, "2 years"),
        (-3, "Less than a second"),
    ],
)
def test_durations_in_dockers_words(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("state", "started", "finished", "exit_code", "status"),
    [
        (State.WAITING, None, None, None, "Created"),
        (State.RUNNING, 92.0, None, None, "Up 8 seconds"),
        (State.SUCCEEDED, 10.0, 40.0, 0, "Exited (0) About a minute ago"),
        (State.FAILED, 10.0, 98.0, 1, "Exited (1) 2 seconds ago"),
        (State.FAILED, 10.0, 98.0, 0, "Exited (1) 2 seconds ago"),
        (State.FAILED, 10.0, 98.0, -9, "Exited (137) 2 seconds ago"),
        (State.FAILED, None, 98.0, None, "Exited (1) 2 seconds ago"),
    ],
)
def test_states_in_dockers_words(
    state: State,
    started: float | None,
    finished: float | None,
    exit_code: int | None,
    status: str,
) -> None:
    job = Job(state=state, started=started, finished=finished, exit_code=exit_code)
    assert docker_status(job, 100.0) == status
