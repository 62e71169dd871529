from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.client.sign_in import SignIn
from mlaas4hep.core.errors import MlaasError, UsageError
from support.device_issuer import DeviceIssuer


@pytest.fixture
def issuer() -> Iterator[DeviceIssuer]:
    issuer = DeviceIssuer()
    yield issuer
    issuer.close()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/mlaas4hep/tokens"


class Person:
    """Signs in without real waiting; keeps what was said and how long each wait was to be."""

    def __init__(self, issuer: DeviceIssuer, **asked: Any) -> None:
        self.said: list[str] = []
        self.waits: list[float] = []
        asked = {"issuer": issuer.url} | asked
        self.sign_in = SignIn(**asked, say=self.said.append, wait=self.waits.append)

    def token(self, fresh: bool = False) -> str:
        return self.sign_in.token(fresh)


def test_a_person_signs_in_and_is_not_asked_again(issuer: DeviceIssuer, state: Path) -> None:
    issuer.answers = ["authorization_pending", "slow_down", "authorization_pending"]
    person = Person(issuer, scope="openid offline_access", audience="https://service")
    token = person.token()
    assert token.startswith("person-")
    assert person.waits == [1, 1, 6, 6]  # RFC 8628: slow_down is five seconds more, for good
    said = "\n".join(person.said)
    assert "WDJB-MJHT" in said
    assert f"{issuer.url}/activate?code=WDJB-MJHT" in said
    assert token not in said
    assert {form["audience"] for form in issuer.forms} == {"https://service"}
    assert issuer.forms[0]["scope"] == "openid offline_access"
    assert issuer.forms[0]["code_challenge_method"] == "S256"  # the issuer checks the verifier

    asked = issuer.asked.copy()
    assert person.token() == token
    assert issuer.asked == asked
    [kept] = state.glob("*.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_without_pkce_where_the_issuer_has_none(issuer: DeviceIssuer) -> None:
    del issuer.configuration["code_challenge_methods_supported"]
    assert Person(issuer).token().startswith("person-")
    assert not any("code" in key for key in issuer.forms[0])


def test_what_is_asked_for_has_its_own_token(issuer: DeviceIssuer) -> None:
    first = Person(issuer).token()
    assert Person(issuer, audience="https://other").token() != first
    assert Person(issuer, scope="openid groups").token() != first
    assert Person(issuer).token() == first


@pytest.mark.parametrize("lifetime", [30, "59", 0, None, "soon"])
def test_a_token_that_ends_soon_is_refreshed(issuer: DeviceIssuer, lifetime: Any) -> None:
    issuer.lifetime = lifetime
    person = Person(issuer)
    tokens = [person.token() for _ in range(4)]
    assert len(set(tokens)) == 4
    assert (issuer.refreshes, issuer.reuses) == (3, 0)
    assert issuer.asked["/device"] == 1


def test_an_issuer_that_does_not_rotate(issuer: DeviceIssuer) -> None:
    issuer.lifetime = 30
    person = Person(issuer)
    person.token()

    def refresh(token: str) -> tuple[int, Any]:
        return 200, {"access_token": f"again-{token}", "expires_in": 30}

    issuer._refresh = refresh  # type: ignore[method-assign]
    assert person.token() == person.token()
    assert issuer.asked["/device"] == 1


def test_a_session_that_has_ended_means_signing_in_anew(issuer: DeviceIssuer) -> None:
    issuer.lifetime = 30
    person = Person(issuer)
    person.token()
    issuer.current.clear()
    issuer.lifetime = 300
    token = person.token()
    assert issuer.asked["/device"] == 2
    assert person.token() == token


def test_many_processes_use_a_refresh_token_once(issuer: DeviceIssuer) -> None:
    issuer.lifetime = 30
    Person(issuer).token()
    issuer.lifetime, issuer.delay = 300, 1.5
    command = [sys.executable, "-m", "mlaas4hep.cli.main", "token", "--issuer", issuer.url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=60)[0] for process in started]
    assert len(set(printed)) == 1
    assert printed[0].startswith("person-")
    assert (issuer.refreshes, issuer.reuses, issuer.asked["/device"]) == (1, 0, 1)


def test_fresh_and_forget(issuer: DeviceIssuer, state: Path) -> None:
    person = Person(issuer)
    first = person.token()
    assert person.token(fresh=True) != first
    assert issuer.asked["/device"] == 2
    Person(issuer, scope="openid groups").token()
    Person(issuer, client_id="robot", secret=issuer.SECRET).token()
    assert person.sign_in.forget() == 2
    assert len(list(state.glob("*.json"))) == 1
    assert person.sign_in.forget() == 0
    person.token()
    assert issuer.asked["/device"] == 4


@pytest.mark.parametrize("content", ["", "[]", "{", '{"access_token": 1, "expires": "x"}'])
def test_a_damaged_file_is_like_none(issuer: DeviceIssuer, state: Path, content: str) -> None:
    person = Person(issuer)
    person.token()
    [kept] = state.glob("*.json")
    kept.write_text(content)
    assert person.token() == json.loads(kept.read_text())["access_token"]
    assert issuer.asked["/device"] == 2


def test_an_issuer_that_is_away_for_a_moment_is_asked_again(issuer: DeviceIssuer) -> None:
    person = Person(issuer)

    def away(seconds: float) -> None:
        person.waits.append(seconds)
        issuer.away = 1 if len(person.waits) < 3 else 0

    sign_in = SignIn(issuer.url, say=person.said.append, wait=away)
    assert sign_in.token().startswith("person-")
    assert person.waits == [1, 2, 4]


def test_a_code_that_nobody_enters_expires(issuer: DeviceIssuer) -> None:
    issuer.answers = ["authorization_pending"] * 1000
    issuer.begun |= {"expires_in": 3}
    person = Person(issuer)
    with pytest.raises(MlaasError, match="before the code expired"):
        person.token()
    assert person.waits == [1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("access_denied", "was refused"),
        ("expired_token", "before the code expired"),
        ("server_on_fire", "doesn't end the sign-in: server_on_fire"),
    ],
)
def test_polls_that_end_the_sign_in(issuer: DeviceIssuer, answer: str, expected: str) -> None:
    issuer.answers = ["authorization_pending", answer]
    with pytest.raises(MlaasError, match=expected):
        Person(issuer).token()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("unauthorized_client", "allow the client 'mlaas4hep' the device authorization grant"),
        ("unsupported_grant_type", "allow the client 'mlaas4hep' the device authorization grant"),
        ("invalid_client", "know the client 'mlaas4hep'"),
        ("invalid_scope", "--scope"),
        ("else", "the issuer's operator"),
    ],
)
def test_a_client_that_may_not(issuer: DeviceIssuer, error: str, remedy: str) -> None:
    issuer.refused = {"error": error, "error_description": "because\x1b[2J"}
    with pytest.raises(MlaasError, match=re.escape(f"{error} (because[2J)")) as caught:
        Person(issuer).token()
    assert remedy in caught.value.remedy


def test_an_issuer_that_cannot(issuer: DeviceIssuer) -> None:
    del issuer.configuration["device_authorization_endpoint"]
    with pytest.raises(MlaasError, match="no device authorization endpoint"):
        Person(issuer).token()
    issuer.configuration["issuer"] = "https://other"
    with pytest.raises(MlaasError, match="calls itself 'https://other'"):
        Person(issuer).token()
    issuer.configured = lambda: (200, ["what"])  # type: ignore[method-assign]
    with pytest.raises(MlaasError, match="is not an OpenID Connect issuer"):
        Person(issuer).token()
    with pytest.raises(MlaasError, match="answers 404"):
        SignIn(f"{issuer.url}/elsewhere").token()
    with pytest.raises(MlaasError, match=r"can't reach the issuer http://127\.0\.0\.1:9: "):
        SignIn("http://127.0.0.1:9").token()


@pytest.mark.parametrize(
    "url", ["http://issuer.example.org", "ftp://localhost", "issuer", "", "https://[", "https://"]
)
def test_tokens_go_nowhere_without_tls(url: str) -> None:
    with pytest.raises(UsageError, match="not an https address"):
        SignIn(url).token()


def test_the_endpoints_have_tls_too(issuer: DeviceIssuer) -> None:
    issuer.configuration["token_endpoint"] = "http://192.0.2.1/token"
    with pytest.raises(UsageError, match="token_endpoint of the issuer"):
        Person(issuer).token()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_code", "A\x1b]0;title\x07"),
        ("user_code", ""),
        ("user_code", 7),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri_complete", "https://issuer/\n"),
    ],
)
def test_what_would_harm_a_terminal_is_not_printed(
    issuer: DeviceIssuer, name: str, value: Any
) -> None:
    issuer.begun[name] = value
    person = Person(issuer)
    with pytest.raises(MlaasError, match=name):
        person.token()
    assert not any(str(value) in text for text in person.said if value)


@pytest.mark.parametrize("methods", [None, ["client_secret_basic"], ["client_secret_post"]])
def test_a_robot_has_its_own_token(
    issuer: DeviceIssuer, state: Path, methods: list[str] | None
) -> None:
    if methods:
        issuer.configuration["token_endpoint_auth_methods_supported"] = methods
    robot = Person(issuer, client_id="robot", secret=issuer.SECRET)
    token = robot.token()
    assert token.startswith("robot-")
    assert robot.token() == token
    assert issuer.asked["/token"] == 1
    assert robot.token(fresh=True) != token
    assert issuer.SECRET not in "".join(path.read_text() for path in state.iterdir())
    assert issuer.SECRET not in repr(robot.sign_in)
    assert ("client_secret" in issuer.forms[0]) == (methods == ["client_secret_post"])


def test_a_robot_with_the_wrong_secret(issuer: DeviceIssuer) -> None:
    with pytest.raises(MlaasError, match="invalid_client") as caught:
        Person(issuer, client_id="robot", secret="wrong").token()
    assert "MLAAS4HEP_CLIENT_SECRET" in caught.value.remedy
    assert "wrong" not in str(caught.value)


def test_a_folder_that_cannot_be_made(
    issuer: DeviceIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(MlaasError, match="can't keep tokens") as caught:
        Person(issuer).token()
    assert "XDG_STATE_HOME" in caught.value.remedy
