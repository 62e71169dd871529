"""What a service of S3, or the way to it, does wrong while a file is read, and what comes of it."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas4hep.core.errors import DataError, FileError, RefusedError
from mlaas4hep.sources import bucket
from mlaas4hep.sources.opening import list_folder
from mlaas4hep.sources.remote import Patience
from mlaas4hep.sources.root import RootFile
from sources.plain import assert_same
from sources.test_retries import Server, answer, cut, cut_body, hang

URL = "s3://data/a.root"
PATIENCE = Patience(connect=1, request=1, retries=2, pause=0.05, renewal=5)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short patience, a key, no proxies, and what the source itself says, without a diagnosis."""
    monkeypatch.setattr("mlaas4hep.sources.doctor.explain", lambda error, urls: error)
    monkeypatch.setattr(Patience, "of_environment", lambda: PATIENCE)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "aws_profile"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "alice")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "alice-secret")


@pytest.fixture
def server(small_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(small_files[0].read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url.removesuffix("/a.root"))
    yield made
    made.close()


@pytest.mark.parametrize("fault", [hang, cut, cut_body, answer(503), answer(429, Retry_After="0")])
def test_what_passes_is_tried_again(server: Server, small_files: list[Path], fault: object) -> None:
    with RootFile(URL, "events") as file:
        failed = server.requests + 1
        server.fault = lambda handler, n: n == failed and (fault(handler), True)[1]
        values = file.read(["x"])
        assert_same(values["x"], small_files[0], "events", "x", 0, 700)
        assert file.traffic.retries == 1


def test_a_pause_that_the_service_asks_for(server: Server) -> None:
    server.fault = lambda handler, n: n == 1 and (answer(503, Retry_After="1")(handler), True)[1]
    start = time.monotonic()
    RootFile(URL, "events").close()
    assert time.monotonic() - start > 1


def test_a_service_that_is_away_for_a_while(server: Server, small_files: list[Path]) -> None:
    """Nobody listens until it is back at the same port."""
    with RootFile(URL, "events") as file:
        server.fault = lambda handler, _: (cut(handler), True)[1]  # ends what is kept alive
        server.web.shutdown()
        server.web.server_close()
        gone = server.web

        def back() -> None:
            server.fault = lambda *_: False
            server.web = http.server.ThreadingHTTPServer(
                gone.server_address, gone.RequestHandlerClass
            )
            server.web.serve_forever()

        threading.Timer(0.1, back).start()
        values = file.read(["x"])
        assert_same(values["x"], small_files[0], "events", "x", 0, 700)
        assert file.traffic.retries


def test_no_service_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are not to blame."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="no connection: Connection refused") as error:
        RootFile(URL, "events")
    assert not isinstance(error.value, RefusedError)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://none.invalid")
    with pytest.raises(DataError, match="the host is not known"):
        RootFile(URL, "events")


def test_by_a_proxy(
    server: Server, small_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As jobs of a deployment reach the outside."""
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/a.root"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.invalid")
    with RootFile(URL, "events") as file:
        values = file.read(["x"])
    assert_same(values["x"], small_files[0], "events", "x", 0, 700)
    assert {headers["Host"] for headers in server.headers} == {"s3.invalid"}


def test_a_proxy_that_lets_nothing_pass(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails at once, and the proxy's password isn't told."""
    asked: list[str] = []

    def refuse(handler) -> None:
        asked.append(handler.path)
        answer(403)(handler)

    monkeypatch.setattr(server.web.RequestHandlerClass, "do_CONNECT", refuse, raising=False)
    address = server.url.removeprefix("http://").removesuffix("/a.root")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:password@{address}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.invalid")
    with pytest.raises(DataError, match=f"the proxy .*{address} refuses: .*403") as error:
        RootFile(URL, "events")
    assert asked == ["s3.invalid:443"]
    assert "password" not in str(error.value)


def test_a_missing_profile_or_refused_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fault = lambda handler, _: (answer(403)(handler), True)[1]
    with pytest.raises(RefusedError, match="answers 403") as error:
        RootFile(URL, "events")
    assert "AWS_ACCESS_KEY_ID" in error.value.remedy
    assert "alice-secret" not in str(error.value)
    assert server.requests == 1
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(RefusedError, match="nobody"):
        RootFile(URL, "events")


def test_without_credentials_the_request_is_not_signed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public buckets take it; another's refusal says that none were found."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    RootFile(URL, "events").close()
    assert not any("Authorization" in headers for headers in server.headers)
    server.fault = lambda handler, _: (answer(403)(handler), True)[1]
    with pytest.raises(RefusedError, match="no credentials were found"):
        RootFile(URL, "events")


def test_an_empty_object_can_be_left_out(server: Server) -> None:
    server.fault = lambda handler, _: (answer(416)(handler), True)[1]
    with pytest.raises(FileError, match="is empty"):
        RootFile(URL, "events")


def test_an_answer_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, all of them never do; nothing waits for what is left behind."""
    over, before = threading.Event(), set(threading.enumerate())

    def dribble(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 206 OK\r\nX-")
            while not over.wait(0.05):
                handler.wfile.write(b"x")
        handler.close_connection = True
        return True

    server.fault = dribble
    try:
        with pytest.raises(FileError, match=r"a\.root can't be read: no answer within 2 s"):
            RootFile(URL, "events")
        monkeypatch.setattr(bucket, "_LISTING_SECONDS", 0.5)
        with pytest.raises(DataError, match=r"can't be listed: it takes longer than 0\.5 s"):
            list_folder("s3://bucket/")
        assert all(each.daemon for each in set(threading.enumerate()) - before)
    finally:
        over.set()
