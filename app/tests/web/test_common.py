from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from mlaas4hep.core.errors import (
    ArchiveError,
    BundleError,
    BusyError,
    ConflictError,
    ForbiddenError,
    LimitError,
    MlaasError,
    ModelError,
    NotFoundError,
    SignInError,
    UsageError,
)
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.common import (
    address,
    listen,
    problem,
    require_loopback,
    status_of,
    why_refused,
)


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


def test_without_sign_in_only_loopback_is_listened_on() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org", ""):
        with pytest.raises(UsageError, match="no sign-in"):
            require_loopback(host)
    with pytest.raises(UsageError, match="no sign-in"):
        listen(Settings(host="0.0.0.0"), 0)
    with listen(Settings(), 0) as listening:
        port = listening.getsockname()[1]
        assert address(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: Address already in use"):
            listen(Settings(), port)
        with socket.create_connection(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize(
    "settings",
    [Settings(host="0.0.0.0", issuer="https://i"), Settings(host="::", unsafe_no_sign_in=True)],
)
def test_with_sign_in_any_address_is_listened_on(settings: Settings) -> None:
    with listen(settings, 0) as listening:
        assert listening.getsockname()[0] == settings.host


def test_errors_have_their_status() -> None:
    found = {
        kind: status_of(kind("x"))
        for kind in (UsageError, ArchiveError, BundleError, NotFoundError, ConflictError,
                     LimitError, ModelError, BusyError, MlaasError, SignInError, ForbiddenError)
    }  # fmt: skip
    assert list(found.values()) == [400, 400, 400, 404, 409, 413, 422, 503, 400, 401, 403]


def test_a_problem_is_rfc_9457() -> None:
    response = problem(503, "too much", "come again", retry_after="1")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert json.loads(response.body) == {
        "title": "too much", "status": 503, "detail": "come again"
    }  # fmt: skip
