"""What a web server does wrong while a file is read, and what comes of it."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources import web
from mlaas4hep.sources.filelist import Listed
from mlaas4hep.sources.friends import open_files
from mlaas4hep.sources.opening import list_folder
from mlaas4hep.sources.remote import Patience, Traffic, server_of
from mlaas4hep.sources.root import RootFile
from sources.plain import assert_same


class Server:
    """Serves one file in ranges; ``fault`` may answer a request in its place (True if it did)."""

    def __init__(self, content: bytes) -> None:
        self.content, self.etag = content, '"1"'
        self.fault: Callable[[http.server.BaseHTTPRequestHandler, int], bool] = lambda *_: False
        self.requests = self.connections = 0
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def log_message(self, *args: object) -> None:
                """Keep quiet."""

            def do_GET(self) -> None:
                server.requests += 1
                server.headers.append(dict(self.headers))
                if server.fault(self, server.requests):
                    return
                found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
                assert found
                first, last = int(found[1]), min(int(found[2]), len(server.content) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.content)}")
                self.send_header("Content-Length", str(last + 1 - first))
                if server.etag:
                    self.send_header("ETag", server.etag)
                self.end_headers()
                self.wfile.write(server.content[first : last + 1])

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.web.size = len(content)
        self.url = f"http://127.0.0.1:{self.web.server_port}/a.root"
        threading.Thread(target=self.web.serve_forever).start()

    def close(self) -> None:
        self.web.shutdown()
        self.web.server_close()


@pytest.fixture(autouse=True)
def undiagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the source itself asks and says: the diagnosis of failures (test_reasons) asks more."""
    monkeypatch.setattr("mlaas4hep.sources.doctor.explain", lambda error, urls: error)


@pytest.fixture
def server(small_files: list[Path]) -> Iterator[Server]:
    made = Server(small_files[0].read_bytes())
    yield made
    made.close()


@pytest.fixture
def other(small_files: list[Path]) -> Iterator[Server]:
    made = Server(small_files[0].read_bytes())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(connect=2, request=1, retries=2, pause=0.05, renewal=5)
    monkeypatch.setattr(Patience, "of_environment", lambda: patience)
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR", "X509_USER_PROXY"):
        monkeypatch.delenv(name, raising=False)


def answer(status: int, **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": "0"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return send


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def hang(handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    handler.close_connection = True


def cut_body(handler: http.server.BaseHTTPRequestHandler) -> None:
    """The first bytes of what was asked for, and no more."""
    first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
    about = f"bytes {first}-{last}/{handler.server.size}"
    answer(206, Content_Length=str(last + 1 - first), Content_Range=about, ETag='"1"')(handler)
    handler.wfile.write(b"root")
    handler.close_connection = True


@pytest.mark.parametrize(
    "fault", [hang, cut_body, answer(503), answer(429, Retry_After="0"), answer(500)]
)
def test_what_passes_is_tried_again(server: Server, small_files: list[Path], fault: object) -> None:
    with RootFile(server.url, "events") as file:
        failed = server.requests + 1
        server.fault = lambda handler, n: n == failed and (fault(handler), True)[1]
        values = file.read(["x"])
        assert_same(values["x"], small_files[0], "events", "x", 0, 700)
        assert file.traffic.retries == 1
        assert file.traffic.requests == server.requests


def test_many_files_share_a_few_connections(
    server: Server, other: Server, small_files: list[Path]
) -> None:
    """The data proxy, for one, allows a training so many."""
    elsewhere = RootFile(other.url, "events")
    files = [RootFile(f"{server.url}?{number}", "events") for number in range(30)]
    for file in files:
        assert_same(file.read(["x"])["x"], small_files[0], "events", "x", 0, 700)
    assert server.connections <= web.AT_ONCE
    for file in files:
        file.close()
    assert_same(elsewhere.read(["x"])["x"], small_files[0], "events", "x", 0, 700)
    elsewhere.close()
    assert not web._sessions
    assert not web._users


def test_no_password_of_netrc_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    RootFile(server.url, "events").close()
    assert all("Authorization" not in headers for headers in server.headers)


def test_a_folder_is_asked_for_again(server: Server) -> None:
    """Nor has an answer to it more time than one to a file."""

    def page(handler: http.server.BaseHTTPRequestHandler, number: int) -> bool:
        if number == 3:
            hang(handler)
            return True
        answer(503 if number == 1 else 200, Content_Length="18")(handler)
        handler.wfile.write(b'<a href="b.root"/>')
        return True

    server.fault = page
    folder = server.url.removesuffix("a.root")
    assert list_folder(folder) == ["b.root"]
    assert server.requests == 2
    assert list_folder(folder) == ["b.root"]
    assert server.requests == 4
    server.fault = lambda handler, _: (answer(503)(handler), True)[1]
    with pytest.raises(DataError, match=f"{folder} can't be listed: 127.0.0.1 refuses: 503"):
        list_folder(folder)


def test_it_ends_when_it_does_not_pass(server: Server) -> None:
    server.fault = lambda handler, _: (answer(503)(handler), True)[1]
    with pytest.raises(DataError, match=f"{server.url} can't be read: 503 Service Unavailable"):
        RootFile(server.url, "events")
    assert server.requests == 3


@pytest.mark.parametrize(("status", "said"), [(404, "no such file"), (403, "403 Forbidden"),
                                              (400, "400 Bad Request")])  # fmt: skip
def test_what_does_not_pass_fails_at_once(server: Server, status: int, said: str) -> None:
    server.fault = lambda handler, _: (answer(status)(handler), True)[1]
    with pytest.raises(DataError, match=said):
        RootFile(server.url, "events")
    assert server.requests == 1


@pytest.mark.parametrize("etag", ['"1"', '"2"', ""])
def test_a_file_replaced_while_it_is_read(
    server: Server, small_files: list[Path], etag: str
) -> None:
    """Whatever the server says of versions: the same ETag, another, none."""
    server.etag = etag
    with RootFile(server.url, "events") as file:
        file.read(["y"])
        new = bytearray(server.content)
        new[50] ^= 1  # within the UUID; the length is the same
        server.content, server.etag = bytes(new), etag and '"2"'
        with pytest.raises(DataError, match="was replaced while it was read"):
            file.read(["x"])


def test_servers_of_one_name_may_tell_different_etags(
    server: Server, small_files: list[Path]
) -> None:
    with RootFile(server.url, "events") as file:
        server.etag = '"of another"'
        values = file.read(["x"])
    assert_same(values["x"], small_files[0], "events", "x", 0, 700)


def test_more_bytes_than_were_asked_for_are_not_read(server: Server) -> None:
    def endless(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-1023/{len(server.content)}")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        handler.close_connection = True
        return True

    server.fault = endless
    with pytest.raises(DataError, match="the server sends more than the 1024 bytes"):
        RootFile(server.url, "events")


def test_a_replica_goes_on_where_another_failed(
    server: Server, other: Server, small_files: list[Path]
) -> None:
    with RootFile(server.url, "events", replicas=[other.url]) as file:
        assert file.traffic.replica == server.url
        server.fault = lambda handler, _: (cut(handler), True)[1]
        values = file.read(["x"])
        assert_same(values["x"], small_files[0], "events", "x", 0, 700)
        assert (file.traffic.replica, file.traffic.retries) == (other.url, 1)


def test_replicas_of_a_server_that_fails_come_last(server: Server, other: Server) -> None:
    """The next file isn't asked for there first, until it answers again; messages name the file."""
    with RootFile(server.url, "events", replicas=[other.url]):
        pass
    server.fault = lambda handler, _: (cut(handler), True)[1]
    with RootFile(server.url, "events", replicas=[other.url]) as file:
        assert (file.traffic.replica, file.traffic.retries) == (other.url, 1)
    before = server.requests
    with RootFile(server.url, "events", replicas=[other.url]) as file:
        assert (file.traffic.replica, file.traffic.retries) == (other.url, 0)
    assert server.requests == before
    other.fault = lambda handler, _: (answer(404)(handler), True)[1]
    with pytest.raises(DataError, match=f"{server.url} can't be read from any of its 2 replicas"):
        RootFile(server.url, "events", replicas=[other.url])


def test_a_replica_that_is_another_file(
    server: Server, other: Server, small_files: list[Path]
) -> None:
    other.content = small_files[1].read_bytes()
    with RootFile(server.url, "events", replicas=[other.url]) as file:
        server.fault = lambda handler, _: (cut(handler), True)[1]
        with pytest.raises(DataError, match=f"{server.url} was replaced.*now {other.url} is"):
            file.read(["x"])


def test_a_replica_with_another_uuid_is_passed_over(
    server: Server, other: Server, small_files: list[Path]
) -> None:
    """From the opening on, whichever it is; the last that is left is not given up for it."""
    wanted = str(uproot.open(small_files[0]).file.uuid)
    urls = [server.url, other.url]
    server.content = small_files[1].read_bytes()
    for name, others in ((urls[0], urls[1:]), (urls[1], urls[:1])):
        with RootFile(name, "events", replicas=others, uuid=wanted) as file:
            assert (file.traffic.replica, file.uuid) == (other.url, wanted)
            failed = other.requests + 1
            other.fault = lambda handler, n, failed=failed: n == failed and (cut(handler), True)[1]
            values = file.read(["x"])
            assert_same(values["x"], small_files[0], "events", "x", 0, 700)
            other.fault = lambda *_: False
    other.content = server.content
    with pytest.raises(DataError, match=f"any of its 2 replicas: .* has the UUID .* not {wanted}"):
        RootFile(server.url, "events", replicas=[other.url], uuid=wanted)
    listed = Listed(server.url, "line 1 of f.txt", replicas=(other.url,), uuid=wanted.upper())
    other.content = small_files[0].read_bytes()
    with ExitStack() as stack:
        (file,) = open_files([server.url], "events", {}, [], stack, listed=[listed])
        assert file.traffic.replica == other.url


def test_a_server_that_sends_other_bytes(server: Server) -> None:
    with RootFile(server.url, "events") as file:
        size = len(server.content)
        server.fault = lambda handler, _: (
            answer(206, Content_Range=f"bytes 0-9/{size}", ETag='"1"')(handler),
            True,
        )[1]
        with pytest.raises(DataError, match="the server sent bytes 0 to 10 for"):
            file.read(["x"])


def token(path: Path, life: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + life}).encode())
    value = f"e30.{claims.rstrip(b'=').decode()}.c2ln"
    new = path.with_suffix(".new")
    new.write_text(value)
    new.chmod(0o600)
    new.rename(path)
    return value


@pytest.fixture
def by_https(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are shown by https only; here a server of the test counts as one."""
    monkeypatch.setattr(web, "_is_safe", lambda url: True)


@pytest.mark.usefixtures("by_https")
def test_a_read_over_three_lives_of_a_token(
    server: Server, small_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token is good for five answers; the next comes only a while after it was refused."""
    path = tmp_path / "token"
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(path))
    issued = [token(path, 5)]
    uses = 0
    turn = threading.Lock()  # a token is known to the server as soon as it is in its file

    def renew() -> None:
        nonlocal uses
        with turn:
            uses = 0
            issued.append(token(path, 5 + len(issued)))

    def fault(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        nonlocal uses
        shown = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        with turn:
            uses += shown == issued[-1]
            if shown == issued[-1] and uses <= 5:
                return False
            if uses == 6:
                threading.Timer(0.5, renew).start()
        answer(403)(handler)
        return True

    server.fault = fault
    with RootFile(server.url, "events") as file:
        for start in range(0, 700, 100):
            values = file.read(["x"], start, start + 100)
            assert_same(values["x"], small_files[0], "events", "x", start, start + 100)
        assert file.traffic.renewals == len(issued) - 1 >= 2


@pytest.mark.usefixtures("by_https")
def test_a_valid_token_that_is_refused_fails_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token(tmp_path / "token", 3600)
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    server.fault = lambda handler, _: (answer(403)(handler), True)[1]
    with pytest.raises(DataError, match="403 Forbidden") as error:
        RootFile(server.url, "events")
    assert "check its audience and scope" in error.value.remedy
    assert server.requests == 2


@pytest.mark.parametrize("safe", [True, False])
def test_a_token_goes_only_where_it_is_asked_for_and_safe(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    """Nor does it follow a redirect to another server."""
    monkeypatch.setenv("BEARER_TOKEN", "secret")
    with RootFile(server.url, "events"):
        assert not any("Authorization" in headers for headers in server.headers)
    monkeypatch.setattr(web, "_is_safe", lambda url: safe)

    def fault(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        known = handler.headers.get("Authorization") == "Bearer secret"
        answer(307 if known else 401, Location=f"{other.url}?signed=1")(handler)
        return True

    server.fault = fault
    if not safe:
        with pytest.raises(DataError, match="401 Unauthorized"):
            RootFile(server.url, "events")
        return
    with RootFile(server.url, "events") as file:
        assert file.entries == 700
    assert other.requests
    assert not any("Authorization" in headers for headers in other.headers)


def test_each_redirect_goes_by_its_own_proxy(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A door that no_proxy names sends to a pool that the proxy alone reaches, and back."""
    for name in ("http_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", other.url.removesuffix("/a.root"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.fault = lambda handler, _: (
        answer(307, Location="http://pool.invalid/a.root")(handler), True
    )[1]  # fmt: skip
    with RootFile(server.url, "events") as file:
        assert file.entries == 700
    assert {headers["Host"] for headers in other.headers} == {"pool.invalid"}
    asked = server.requests
    server.fault = lambda *_: False
    other.fault = lambda handler, _: (answer(302, Location=server.url)(handler), True)[1]
    with RootFile("http://door.invalid/a.root", "events") as file:
        assert file.entries == 700
    assert server.requests > asked


def test_redirects_have_an_end_and_lead_to_web_servers(server: Server) -> None:
    server.fault = lambda handler, _: (answer(302, Location="/b.root")(handler), True)[1]
    with pytest.raises(DataError, match=r"127\.0\.0\.1 redirects more than 10 times"):
        RootFile(server.url, "events")
    assert server.requests == 11
    for place in ("root://host//a.root", "ftp://host/a"):
        server.fault = lambda handler, _, to=place: (answer(302, Location=to)(handler), True)[1]
        with pytest.raises(DataError, match=f"redirects to {place[:3]}"):
            RootFile(server.url, "events")


def test_a_password_stays_with_its_server_on_redirects(server: Server, other: Server) -> None:
    whole = server.url.removeprefix("http://")

    def fault(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        if handler.path == "/a.root":
            answer(302, Location=f"http://{whole}?here")(handler)
        elif handler.path == "/a.root?here":
            answer(302, Location=other.url)(handler)
        return True

    server.fault = fault
    with RootFile(f"http://anna:password@{whole}", "events") as file:
        assert file.entries == 700
    assert all("Authorization" in headers for headers in server.headers)
    assert not any("Authorization" in headers for headers in other.headers)


def test_waiting_for_a_connection_is_not_the_requests_time(server: Server) -> None:
    """40 parts of 0.3 s by 8 connections: the last begin after 1.2 s, a request may take 1 s."""
    server.content += bytes(40 << 20)

    def slowly(handler: http.server.BaseHTTPRequestHandler, _: int) -> bool:
        time.sleep(0.3)
        return False

    traffic = Traffic()
    connection = web.WebConnection(server.url, Patience.of_environment(), traffic)
    try:
        server.fault = slowly
        starts = range(0, 40 << 20, 1 << 20)
        found = connection.read([(start, start + 1000) for start in starts])
    finally:
        connection.close()
    assert found == [server.content[start : start + 1000] for start in starts]
    assert traffic.requests == 41
    assert server.connections <= web.AT_ONCE


@pytest.mark.parametrize(
    ("urls", "env"),
    [
        (["https://h/a", "https://H:443/b", "https://anna:password@h/c"], {}),
        (["http://h:80/a", "http://h/b?c"], {}),
        (["root://h//a", "root://h:1094//b", "root://me@h//c"], {}),
        (["davs://h/a", "davs://h:443/b"], {}),
        (["s3://b/a", "s3://b/c"], {"AWS_ENDPOINT_URL_S3": "https://one"}),
    ],
)
def test_one_server_by_any_of_its_names(
    monkeypatch: pytest.MonkeyPatch, urls: list[str], env: dict[str, str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (found,) = {server_of(url) for url in urls}
    assert "password" not in found
    assert server_of("https://h:8443/a") != server_of("https://h/a")
    assert server_of("http://h/a") != server_of("https://h/a")
    before = server_of("s3://b/a")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.setenv(name, "two")
        assert server_of("s3://b/a") != before
        before = server_of("s3://b/a")
