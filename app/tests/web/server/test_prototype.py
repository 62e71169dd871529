import asyncio
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mlaas4hep.models.bundle import unpack
from mlaas4hep.web.server import create_app
from support.service import Service, packed, small_files
from web.server.asking import BODY, assert_problem, ended, submit, upload


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
        pytest.param(
            {"cpus": "1e-10"},
            400,
            "cpus: 1e-10 is less than 0.01, the least that a training can have",
            marks=pytest.mark.hostile("cpus 1e-10 becomes no limit"),
        ),
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
    assert_problem(http.post("/upload?name=luca", files=files), 413, "1.9 MB", "max_upload_bytes")
    assert list(service.settings.uploads.iterdir()) == []


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
