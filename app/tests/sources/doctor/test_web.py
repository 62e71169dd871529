"""What web servers may answer; tokens and TLS: test_xrootd.py, before a real one of the grid."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import time

import pytest

from mlaas4hep.sources.doctor import State, diagnose
from sources.doctor.answers import answering, serving
from sources.doctor.blame import blamed
from sources.test_remote import RangeHandler

Serve = Callable[[type[BaseHTTPRequestHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with this handler; its address."""
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(serving(handler))


@pytest.fixture
def files(serve: Serve, small_files: list[Path]) -> str:
    """The address of a server that has a.root."""
    return serve(type("Handler", (RangeHandler,), {"folder": small_files[0].parent}))


def test_a_file_behind_a_web_server(files: str, serve: Serve) -> None:
    """At once, and on a redirect."""
    found = diagnose(f"{files}/a.root")
    assert not found.failed, found.problem
    assert found.detail("ROOT", "trees") == ["events"]
    moved = serve(answering(307, Location=f"{files}/a.root"))
    found = diagnose(f"{moved}/b.root")
    assert not found.failed, found.problem
    assert found.state("redirected") == State.OK


def test_what_a_web_server_may_answer(files: str, serve: Serve) -> None:
    blamed(diagnose(f"{files}/none.root"), "file", "no such file on 127.0.0.1: /none.root (404")
    page = b"<html>Sign in</html>" * 9
    for status, body, what, says in (
        (200, page, "ranges", "doesn't answer range requests"),
        (206, page, "ROOT", "is not a ROOT file: it starts with '<html>Sign"),
        (403, b"", "access", "doesn't let everybody read /a.root (403"),
        (503, b"", "server", "answers 503 Service Unavailable"),
    ):
        blamed(diagnose(f"{serve(answering(status, body))}/a.root"), what, says)


@pytest.mark.parametrize("scheme", ["http", "https", "root", "roots", "s3"])
def test_a_server_that_accepts_and_never_answers(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.sources.doctor.steps.PATIENCE", 0.3)
    monkeypatch.setattr("mlaas4hep.sources.doctor.bucket._SECONDS", 7)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        address = "data" if scheme == "s3" else f"127.0.0.1:{port}"
        found = diagnose(f"{scheme}://{address}//a.root")
        blamed(found, "TLS" if scheme == "https" else "server")
        assert found.is_silent


def test_redirects_without_end(serve: Serve) -> None:
    blamed(diagnose(f"{serve(answering(302, Location='/b.root'))}/a.root"), "server",
           "redirects more than 5 times")  # fmt: skip


def test_a_clock_that_is_wrong(serve: Serve) -> None:
    ahead = formatdate(time() - 7200, usegmt=True)
    found = diagnose(f"{serve(answering(404, Date=ahead))}/a.root")
    step = next(step for step in found.steps if step.what == "clock")
    assert step.state == State.WARNING
    assert "this machine's clock is 2 hours ahead of that of 127.0.0.1" in step.found


def test_a_proxy_server(files: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that relays, and one that does not open a tunnel."""
    by = serve(answering(404))
    monkeypatch.setenv("http_proxy", by)
    found = diagnose("http://elsewhere.invalid/a.root")
    blamed(found, "file", "no such file on elsewhere.invalid")
    assert found.state("proxy server") == State.OK
    monkeypatch.setenv("https_proxy", serve(refusing_tunnels()))
    blamed(diagnose("https://elsewhere.invalid/a.root"), "proxy server",
           "doesn't connect to elsewhere.invalid, port 443: 403")  # fmt: skip


def refusing_tunnels() -> type[RangeHandler]:
    class Handler(RangeHandler):
        def do_CONNECT(self) -> None:
            self.send_error(403)

    return Handler


def test_a_token_is_not_shown_by_plain_http(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server that refuses without one, and to one to which it redirects."""
    monkeypatch.setenv("BEARER_TOKEN", "secret-token")
    shown: list[str] = []

    class Refusing(RangeHandler):
        def _answer(self, with_body: bool) -> None:
            shown.append(str(self.headers))
            self.send_error(401)

    refusing = serve(Refusing)
    for url in (refusing, serve(answering(307, Location=f"{refusing}/a.root"))):
        blamed(diagnose(f"{url}/a.root"), "access", "401")
    assert len(shown) == 2
    assert not any("secret" in each or "authorization" in each.lower() for each in shown)
