"""Both services with a real issuer: who gets in, and what they find there."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.models.bundle import pack
from mlaas4hep.web.observe import Observe
from mlaas4hep.web.server import create_app
from mlaas4hep.web.sign_in import Admission, why_refused
from mlaas4hep.web.tfaas import TFaaS
from mlaas4hep.web.tfaas.tfaas_pb2 import Row
from support import issuer as parts
from support.bundles import constant, make_bundle
from support.issuer import ALLOWED, Issuer, rsa
from support.service import Service, packed, small_files
from support.tfaas_process import TFaaSProcess, error_of, tfaas_process

PUBLIC = "https://ml.example.org"
BODY = {
    "name": "luca", "device": "cpu", "memory": "3gb", "cpus": "2", "files": "files.txt",
    "labels": "labels.txt", "model": "model.py", "params": "params.json",
}  # fmt: skip
FORGED = {
    "x-forwarded-user": "alice",
    "x-forwarded-email": "alice@example.org",
    "x-forwarded-groups": "physicists",
    "x-forwarded-preferred-username": "alice",
    "x-auth-request-user": "alice",
    "x-auth-request-access-token": "x",
    "remote-user": "alice",
    "x-remote-user": "alice",
    "gap-auth": "alice@example.org",
    "x-forwarded-for": "127.0.0.1",
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with parts.issuer() as started:
        yield started


@pytest.fixture
def service(tmp_path: Path, issuer: Issuer) -> Iterator[Service]:
    service = Service(tmp_path / "store", issuer=issuer.url, public_url=PUBLIC, **ALLOWED)
    yield service
    service.kill_all()


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_app(service.settings)


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    observed = Observe(app, app.state.requests)
    with TestClient(observed, PUBLIC, raise_server_exceptions=False) as client:
        yield client


def bearer(issuer: Issuer, sub: str = "alice", **changes: Any) -> dict[str, str]:
    token = issuer.token(sub=sub, preferred_username=sub, **changes)
    return {"authorization": f"Bearer {token}"}


def session(issuer: Issuer, sub: str = "alice", **headers: str) -> dict[str, str]:
    """The headers of a browser's request, as the gateway makes them."""
    token = issuer.token(sub=sub, preferred_username=sub)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"x-forwarded-access-token": token} | named


def upload(http: TestClient, headers: dict[str, str], name: str = "luca") -> httpx.Response:
    file = {"file": ("folder.tar.gz", io.BytesIO(packed(small_files())))}
    return http.post("/upload", params={"name": name}, files=file, headers=headers)


def everything(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the server's API, and its pages."""
    paths = app.openapi()["paths"]
    routes = [(m.upper(), p) for p, methods in paths.items() for m in methods]
    filled = [(m, re.sub(r"\{\w+\}", "luca_1", p)) for m, p in routes]
    return [*filled, ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nothing")]


OPEN = {"/healthz", "/readyz", "/metrics"}


def test_without_a_token_nothing_but_health_is_answered(http: TestClient, app: FastAPI) -> None:
    for method, path in everything(app):
        for headers in ({}, FORGED, {"authorization": "Basic YTpi"}, {"authorization": "Bearer"}):
            answer = http.request(method, path, headers=headers)
            if path in OPEN:
                no_runner = path == "/readyz"  # there is none here, and whoever asks may know
                assert answer.status_code == (503 if no_runner else 200), path
                assert not no_runner or "runner" in answer.text
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == 'Bearer realm="mlaas4hep"'
            assert answer.headers["content-type"] == "application/problem+json"
            assert "needs a token" in answer.json()["title"]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert http.get("/page.css").status_code == http.get("/page.js").status_code == 200
    assert http.post("/page.css").status_code == http.delete("/healthz").status_code == 401
    assert http.get("/healthz/").status_code == http.get("//healthz").status_code == 401


def test_a_bad_token_is_told_why(http: TestClient, issuer: Issuer) -> None:
    for headers, text in [
        (bearer(issuer, exp=1_000_000_000), "the token has expired"),
        (bearer(issuer, aud="other"), "the token is for 'other'"),
        (bearer(issuer, iss='https://"evil"\\'), "the token was issued by"),
        (bearer(issuer, iss="https://é"), "the token was issued by"),
        (bearer(issuer, key=rsa("first")), "the token is not signed by the issuer"),
        ({"authorization": "Bearer rubbish"}, "the token is not a signed JWT"),
        ({"x-forwarded-access-token": "rubbish"}, "the token is not a signed JWT"),
    ]:
        answer = http.get("/jobs", headers=headers)
        assert answer.status_code == 401
        assert text in answer.json()["title"]
        challenge = answer.headers["www-authenticate"]
        assert re.fullmatch(
            r'Bearer realm="mlaas4hep", error="invalid_token", error_description="[^"\\]+"',
            challenge,
        )


def test_a_good_token_says_hello(http: TestClient, issuer: Issuer) -> None:
    assert http.get("/hello", headers=bearer(issuer)).text == "Hello World\n"
    lower = {"authorization": bearer(issuer)["authorization"].replace("Bearer", "bearer")}
    assert http.get("/hello", headers=lower).status_code == 200


def test_two_tokens_are_one_too_many(http: TestClient, issuer: Issuer) -> None:
    both = bearer(issuer) | session(issuer, "bob")
    assert http.get("/jobs", headers=both).status_code == 400
    twice = [("authorization", bearer(issuer, sub)["authorization"]) for sub in ("alice", "bob")]
    assert http.get("/jobs", headers=twice).status_code == 400


def test_no_allowed_group_is_403(http: TestClient, issuer: Issuer) -> None:
    answer = http.get("/jobs", headers=bearer(issuer, "mallory", groups=["visitors"]) | FORGED)
    assert answer.status_code == 403
    assert "mallory is in none of the groups" in answer.json()["title"]


@pytest.mark.parametrize(
    ("create", "path"),
    [
        (create_app, "/submit"),
        (create_app, "/upload"),
        (TFaaS, "/json"),
        (TFaaS, "/predict/events"),
        (TFaaS, "/upload"),
    ],
)
def test_the_body_of_a_stranger_is_not_read(
    service: Service, create: Callable[[Settings], Any], path: str
) -> None:
    happened: list[Any] = []

    async def receive() -> Any:
        happened.append("read")
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(message: Any) -> None:
        happened.append(message.get("status", "answered"))

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"name=luca",
        "headers": [(b"content-length", b"9000")], "http_version": "1.1",
        "scheme": "http", "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(create(service.settings)(scope, receive, send))
    assert happened == [401, "answered"]
    assert list(service.settings.uploads.iterdir()) == []


def test_someone_elses_things_are_not_there(
    service: Service, http: TestClient, issuer: Issuer
) -> None:
    alice, bob = bearer(issuer), bearer(issuer, "bob")
    assert upload(http, alice).status_code == 200
    assert upload(http, bob, "mario").status_code == 200
    for headers, name in ((alice, "luca"), (bob, "mario")):
        answer = http.post("/submit", json=BODY | {"name": name}, headers=headers)
        assert answer.json()["process_name"] == f"{name}_1"
    service.run(service.queue.get("luca_1"))

    own = {"process_name": "luca_1"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/status_docker", {"params": own}),
        ("GET", "/logs", {"params": own}),
        ("GET", "/model", {"params": own}),
        ("GET", "/jobs/luca_1", {}),
        ("GET", "/jobs/luca_1/report", {}),
        ("DELETE", "/jobs/luca_1", {}),
        ("POST", "/submit", {"json": BODY}),
        ("DELETE", "/folders/luca", {}),
        ("DELETE", "/folders/luca/specs", {}),
        ("GET", "/delete_folder", {"params": {"name": "luca"}}),
        ("GET", "/delete_specs", {"params": {"name": "luca"}}),
    ]
    for method, path, more in calls:
        answer = http.request(method, path, headers=bob | FORGED, **more)
        assert answer.status_code == 404, path
        assert "luca" not in answer.json()["detail"]
        assert "mario" in answer.json()["detail"]
    answer = upload(http, bob)
    assert answer.status_code == 409
    assert answer.json()["title"] == "the name 'luca' belongs to another user"

    for path in ("/jobs/LUCA_1", "/jobs/luca_1%2F", "/jobs/..%2Fluca_1", "/jobs/mario_1/../luca_1",
                 "/jobs//luca_1", "/jobs/luca_1/", "//jobs/luca_1"):  # fmt: skip
        assert http.get(path, headers=bob).status_code == 404, path
    assert [job["process_name"] for job in http.get("/jobs", headers=bob).json()] == ["mario_1"]
    assert [folder["name"] for folder in http.get("/folders", headers=bob).json()] == ["mario"]
    assert "luca" not in http.get("/", headers=bob).text

    for method, path, more in calls[:5]:
        assert http.request(method, path, headers=alice, **more).status_code == 200, path
    assert http.delete("/folders/luca", headers=alice).status_code == 204
    assert upload(http, bob).status_code == 409


def test_a_robot_is_another_owner(http: TestClient, issuer: Issuer) -> None:
    robot = bearer(issuer, "bot", client_id="bot")
    assert upload(http, robot, "nightly").status_code == 200
    assert http.get("/folders", headers=bearer(issuer, "bot")).json() == []
    assert http.get("/folders", headers=robot).json()[0]["name"] == "nightly"


def test_a_browsers_session_changes_things_from_our_own_pages_only(
    http: TestClient, issuer: Issuer
) -> None:
    upload(http, bearer(issuer))
    assert http.get("/folders", headers=session(issuer, origin="https://evil")).status_code == 200
    for headers in (
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://ml.example.org"},
        {"origin": f"{PUBLIC}:8443"},
        {"origin": f"{PUBLIC}.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": PUBLIC, "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example", "sec_fetch_site": "same-origin"},
    ):
        given = session(issuer, **headers)
        for method, path in (("POST", "/submit"), ("DELETE", "/folders/luca"), ("POST", "/upload")):
            answer = http.request(method, path, headers=given)
            assert answer.status_code == 403, headers
            assert "the request comes from" in answer.json()["title"]
    for headers in (
        {"origin": PUBLIC},
        {"sec_fetch_site": "same-origin"},
        {"origin": PUBLIC, "sec_fetch_site": "same-origin"},
    ):
        assert upload(http, session(issuer, **headers)).status_code == 200
    # A script has no session that a page could use.
    script = bearer(issuer) | {"origin": "https://notebook.example"}
    assert http.delete("/folders/luca", headers=script).status_code == 204


@pytest.mark.parametrize("path", ["/delete_folder", "/delete_specs", "/delete%5Ffolder"])
def test_a_browsers_session_changes_nothing_by_get(
    http: TestClient, issuer: Issuer, path: str
) -> None:
    upload(http, bearer(issuer))
    for headers in ({}, {"origin": PUBLIC}, {"sec_fetch_site": "same-origin"}):
        answer = http.get(f"{path}?name=luca", headers=session(issuer, **headers))
        assert answer.status_code == 403
        assert "DELETE /folders/NAME" in answer.json()["detail"]
    assert len(http.get("/folders", headers=bearer(issuer)).json()) == 1
    assert http.get(f"{path}?name=luca", headers=bearer(issuer)).status_code == 200


def test_the_page_says_who_i_am(service: Service, http: TestClient, issuer: Issuer) -> None:
    upload(http, bearer(issuer))
    http.post("/submit", json=BODY, headers=bearer(issuer))
    assert service.queue.get("luca_1").groups == ["physicists"]
    service.run(service.queue.get("luca_1"))
    page = http.get("/", headers=session(issuer)).text
    assert "Signed in as <strong>alice</strong>" in page
    assert '<a href="/oauth2/sign_out">Sign out</a>' in page
    assert f"TOKEN=$(mlaas4hep token --issuer {issuer.url})" in page
    assert f"{PUBLIC}/upload?name=NAME" in page
    assert "Authorization: Bearer $TOKEN" in page
    for link in ("logs?process_name=luca_1", "model?process_name=luca_1", "jobs/luca_1/report"):
        assert f'href="{link}"' in page
        assert http.get(f"/{link}", headers=session(issuer)).status_code == 200
    assert 'href="http://127.0.0.1:8083/report/luca_1"' in page
    assert "oauth2" not in http.get("/", headers=bearer(issuer)).text
    named = issuer.token(preferred_username="<b>x</b>")
    assert "<b>x" not in http.get("/", headers={"authorization": f"Bearer {named}"}).text


PAGE = {"accept": "text/html,*/*;q=0.8"}


def test_a_browser_shows_why_somebody_is_not_let_in(http: TestClient, issuer: Issuer) -> None:
    token = issuer.token(preferred_username="mallory", groups=["<b>strangers</b>"])
    stranger = {"x-forwarded-access-token": token}
    answer = http.get("/", headers=stranger | PAGE)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "Mallory is in none of the groups" in answer.text
    assert "known groups: &lt;b&gt;strangers&lt;/b&gt;" in answer.text
    assert '<a href="/oauth2/sign_out">Sign out</a>' in answer.text
    script = {"authorization": f"Bearer {token}"}
    for path, headers in (
        ("/jobs", stranger | PAGE),
        ("/", stranger),
        ("/", script | PAGE),
        ("/", PAGE),
    ):
        answer = http.get(path, headers=headers)
        assert answer.headers["content-type"] == "application/problem+json"
        assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


def test_while_the_issuer_is_away_the_answer_is_503(tmp_path: Path) -> None:
    with parts.issuer() as away:
        away.go_away()
        try:
            settings = Settings(store=tmp_path, issuer=away.url, **ALLOWED)  # type: ignore[arg-type]
            with TestClient(create_app(settings), raise_server_exceptions=False) as http:
                answer = http.get("/jobs", headers=bearer(away))
                assert answer.status_code == 503
                assert f"the keys of {away.url} can't be fetched" in answer.json()["title"]
                assert answer.headers["retry-after"] == "5"
                assert http.get("/healthz").status_code == 200
                assert http.get("/jobs").status_code == 401
        finally:
            away.come_back()


def test_settings_that_can_not_be_right_stop_the_start(tmp_path: Path) -> None:
    for wrong in (
        {"issuer": "https://iam.example"},
        {"issuer": "http://iam.example", "allowed_groups": "*"},
        {"public_url": "ml.example.org"},
    ):
        with pytest.raises(UsageError, match="MLAAS4HEP_"):
            Admission(Settings(store=tmp_path, **wrong))  # type: ignore[arg-type]


# TFaaS


@pytest.fixture(scope="module")
def tfaas(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[TFaaSProcess]:
    store = tmp_path_factory.mktemp("tfaas") / "store"
    with tfaas_process(store, issuer=issuer.url, public_url=PUBLIC, **ALLOWED) as process:
        yield process


def test_tfaas_shows_a_browser_why_somebody_is_not_let_in(
    tfaas: TFaaSProcess, issuer: Issuer
) -> None:
    token = issuer.token(preferred_username="mallory", groups=["strangers"])
    stranger = {"x-forwarded-access-token": token}
    page = tfaas.http.get("/", headers=stranger | PAGE)
    assert (page.status_code, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "Mallory is in none of the groups" in page.text
    assert tfaas.http.get("/", headers=stranger).json()["error"].startswith("mallory is in none")


def archive(folder: Path, name: str) -> bytes:
    report = "<h1>report</h1>"
    made = make_bundle(folder, name, lambda width: constant(width, 1), report=report)
    return pack(made).read_bytes()


VALUES = {"values": [0.5] * 8}


def test_tfaas_answers_nobody_without_a_token(tfaas: TFaaSProcess) -> None:
    for method, path in [
        ("GET", "/"), ("GET", "/models"), ("GET", "/status"), ("GET", "/params/m"),
        ("GET", "/download/m.tar.gz"), ("GET", "/report/m"), ("POST", "/upload"),
        ("DELETE", "/delete/m"), ("DELETE", "/delete"), ("POST", "/json"), ("POST", "/proto"),
        ("POST", "/predict/json"), ("POST", "/predict/proto"), ("POST", "/predict/events"),
        ("GET", "/nothing"), ("POST", "/healthz"),
    ]:  # fmt: skip
        for headers in ({}, FORGED):
            answer = tfaas.http.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == 'Bearer realm="mlaas4hep"'
            assert "needs a token" in error_of(answer)
    assert tfaas.http.get("/healthz").status_code == 200
    assert tfaas.http.get("/page.css").status_code == 200


def test_models_of_tfaas_are_their_owners(
    tfaas: TFaaSProcess, issuer: Issuer, tmp_path: Path
) -> None:
    http = tfaas.http
    alice, bob = bearer(issuer), bearer(issuer, "bob")
    for headers, name in ((alice, "luca_1"), (bob, "mario_1")):
        answer = http.post("/upload", content=archive(tmp_path, name), headers=headers)
        assert answer.json() == {"model": name}
    row = Row(model="luca_1", value=[0.5] * 8).SerializeToString()
    values = {"met": 1, "nJet": 1, "jet_eta": [], "jet_pt": []}
    event = {"model": "luca_1", "events": [values]}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/json", {"json": VALUES | {"model": "luca_1"}}),
        ("POST", "/predict/json", {"json": VALUES | {"model": "luca_1"}}),
        ("POST", "/proto", {"content": row}),
        ("POST", "/predict/events", {"json": event}),
        ("GET", "/params/luca_1", {}),
        ("GET", "/download/luca_1.tar.gz", {}),
        ("GET", "/report/luca_1", {}),
        ("DELETE", "/delete/luca_1", {}),
        ("DELETE", "/delete", {"params": {"model": "luca_1"}}),
        ("DELETE", "/delete", {"data": {"model": "luca_1"}}),
        ("POST", "/json", {"json": VALUES | {"model": "luca_2"}}),
        ("POST", "/json", {"json": VALUES | {"model": "LUCA_1"}}),
        ("POST", "/json", {"json": VALUES | {"model": "mario_1/../luca_1"}}),
        ("POST", "/json", {"json": VALUES | {"model": "mario_2"}}),
        ("GET", "/params/mario_2", {}),
        ("DELETE", "/delete/mario_2", {}),
    ]
    for method, path, more in calls:
        answer = http.request(method, path, headers=bob | FORGED, **more)
        assert answer.status_code == 404, path
        assert error_of(answer).endswith(("Did you mean 'mario_1'?", "There are: 'mario_1'."))
    for name in ("luca_1", "luca_2", "luca"):
        answer = http.post("/upload", content=archive(tmp_path / name, name), headers=bob)
        assert answer.status_code == 409
        assert error_of(answer) == "the name 'luca' belongs to another user. Choose another name."
    assert [card["name"] for card in http.get("/models", headers=bob).json()] == ["mario_1"]
    assert "luca" not in http.get("/", headers=bob).text

    for method, path, more in calls[:8]:
        assert http.request(method, path, headers=alice, **more).status_code == 200, path
    assert http.get("/models", headers=alice).json() == []
    answer = http.post("/upload", content=archive(tmp_path / "x", "luca_1"), headers=bob)
    assert answer.status_code == 409


def test_the_owner_is_answered(tfaas: TFaaSProcess, issuer: Issuer, tmp_path: Path) -> None:
    carol = bearer(issuer, "carol")
    content = archive(tmp_path, "carols_1")
    assert tfaas.http.post("/upload", content=content, headers=carol).status_code == 200
    body = VALUES | {"model": "carols_1"}
    assert tfaas.http.post("/json", json=body, headers=carol).json() == [1]
    assert tfaas.http.post("/json", json=body, headers=session(issuer, "carol")).status_code == 403
    own = session(issuer, "carol", origin=PUBLIC)
    assert tfaas.http.post("/json", json=body, headers=own).json() == [1]
    for path in ("/params/carols_1", "/download/carols_1.tar.gz", "/report/carols_1"):
        assert tfaas.http.get(path, headers=carol).status_code == 200
    page = tfaas.http.get("/", headers=session(issuer, "carol")).text
    assert "Signed in as <strong>carol</strong>" in page
    assert "/oauth2/sign_out" in page
    assert "Authorization: Bearer $TOKEN" in page
    mallory = bearer(issuer, "mallory", groups=None)
    assert tfaas.http.post("/json", json=body, headers=mallory).status_code == 403


def test_a_token_expires_under_tfaas_too(
    tfaas: TFaaSProcess, issuer: Issuer, tmp_path: Path
) -> None:
    """One that is known, and within the leeway when it is first seen."""
    short = bearer(issuer, "dora", exp=int(time.time()) - 20)
    assert tfaas.http.get("/models", headers=short).status_code == 200
    deadline = time.monotonic() + 60
    while (answer := tfaas.http.get("/models", headers=short)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.status_code == 401
    assert "expired" in error_of(answer)


def test_tfaas_starts_while_the_issuer_is_away(tmp_path: Path) -> None:
    with parts.issuer() as away:
        away.go_away()
        with tfaas_process(tmp_path / "store", issuer=away.url, **ALLOWED) as process:
            answer = process.http.get("/models", headers=bearer(away))
            assert answer.status_code == 503
            assert "nobody can sign in" in error_of(answer)
            assert answer.headers["retry-after"] == "5"
            away.come_back()
            deadline = time.monotonic() + 60
            while process.http.get("/models", headers=bearer(away)).status_code == 503:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert process.http.get("/models", headers=bearer(away)).json() == []


def request(method: str = "GET", **headers: str) -> dict[str, Any]:
    encoded = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"method": method, "headers": encoded}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8083",
        "localhost",
        "LocalHost:80",
        "[::1]",
        "[::1]:8080",
        "127.9.9.9",
    ],
)
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert why_refused(request(host=host)) == ""
    assert why_refused(request("POST", host=host, origin=f"http://{host}")) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "0.0.0.0", "10.0.0.1", "[::2]", "a]b",
     "[", "é", "2130706433", "localhost@evil.org"],
)  # fmt: skip
def test_names_that_only_resolve_to_it_are_refused(host: str) -> None:
    assert "is not this machine" in why_refused(request(host=host))


def test_pages_of_others_change_nothing() -> None:
    here = "127.0.0.1:8083"
    for origin in ("http://evil.org", "null", "http://127.0.0.1:3000", "http://localhost:8083"):
        for method in ("POST", "PUT", "DELETE"):
            assert origin in why_refused(request(method, host=here, origin=origin))
        assert why_refused(request(host=here, origin=origin)) == ""
        assert why_refused(request(host=here, origin=origin), changes_state=True)
    assert why_refused(request("POST", host=here, sec_fetch_site="cross-site"))
    assert why_refused(request("POST", host=here, sec_fetch_site="same-site"))
    assert not why_refused(request("POST", host=here, sec_fetch_site="same-origin"))
    assert not why_refused(request("POST", host=here))
