import html

from fastapi.testclient import TestClient

from mlaas4hep.jobs.database import Job
from mlaas4hep.jobs.presence import only_runner
from support.service import Service
from web.server.asking import ended


def test_what_a_training_warned_of_stands_on_the_page(service: Service, http: TestClient) -> None:
    ended(service, http, mode="warn")
    warnings = http.get("/jobs/luca_1").json()["warnings"]
    assert warnings[0] == "genWeight <b>is</b> a weight"
    assert len(warnings) <= 100
    assert len(warnings[1]) <= 10_000
    page = http.get("/").text
    assert "<strong>Warning:</strong> genWeight &lt;b&gt;is&lt;/b&gt; a weight" in page


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


def test_the_docs_list_every_route(http: TestClient) -> None:
    page, api = html.unescape(http.get("/docs").text), http.get("/openapi.json").json()
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}</code>" in page
            assert route["description"] in page
