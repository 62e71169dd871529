"""The data proxy with real sockets; the servers it reaches are this machine's own address."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.hosts import Address, DataHosts
from mlaas4hep.core.probe import main as probe
from mlaas4hep.jobs.remote import KEY, SOCKET, credential, read_key
from mlaas4hep.web import data_proxy
from mlaas4hep.web.data_proxy import DataProxy, RefusedError, parse_request
from support.remote_data import FileServer, file_server
from support.waiting import until

CONTENT = bytes(range(256)) * 400
LATER = 2**33


class Proxy:
    """A data proxy that runs, and a web server that it may reach."""

    def __init__(self, folder: Path, hosts: str, server: FileServer) -> None:
        self.folder, self.server, self.target = folder, server, server.target
        self._loop = asyncio.new_event_loop()
        self._proxy = DataProxy(folder, DataHosts(hosts))
        self._loop.run_until_complete(self._proxy.start())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    def connect(self, request: str = "", line: str | None = None) -> socket.socket:
        """A connection of the training luca_1, or one that begins with another line."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.folder / SOCKET))
        own = credential(read_key(self.folder), "luca_1", LATER)
        connection.sendall(f"{own if line is None else line}\n{request}".encode())
        return connection

    def ask(self, request: str, line: str | None = None) -> bytes:
        """All that is answered to a request."""
        with self.connect(request, line) as connection:
            return rest(connection)


def rest(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionResetError):  # by a proxy that reads no more
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as running:
        yield running


@pytest.fixture
def proxy(server: FileServer) -> Iterator[Proxy]:
    """One whose list has the server, and this machine's name without its address."""
    listed = f"{server.target},{socket.gethostname()}:{server.server_port},no-such-host.invalid"
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as folder:  # short, as sockets want it
        running = Proxy(Path(folder), listed, server)
        yield running
        running.stop()


def get(target: str, path: str = "/signal.root", headers: str = "") -> str:
    return f"GET http://{target}{path} HTTP/1.1\r\nHost: other\r\n{headers}\r\n"


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    until("the connection is logged", lambda: caplog.records)
    return vars(caplog.records[-1])


def test_a_file_is_read_and_the_log_says_whose(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = "Range: bytes=0-9\r\nProxy-Authorization: secret\r\nConnection: keep-alive, x\r\n"
    answer = proxy.ask(get(proxy.target, "/a/signal.root?x=1", headers))
    assert answer.startswith(b"HTTP/1.1 206")
    assert answer.endswith(CONTENT[:10])
    [(method, path, there)] = proxy.server.asked
    assert (method, path) == ("GET", "/a/signal.root?x=1")
    assert there == {"Host": proxy.target, "Range": "bytes=0-9", "Connection": "close"}
    line = logged(caplog)
    host, port = proxy.target.split(":")
    found = [line[name] for name in ("job", "host", "port", "address")]
    assert found == ["luca_1", host, int(port), host]
    assert line["received_bytes"] == len(answer)
    assert line["message"] == "served"


def test_a_tunnel_carries_bytes_both_ways_until_both_have_ended(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = "GET /t HTTP/1.0\r\n\r\n"
    with proxy.connect(f"CONNECT {proxy.target} HTTP/1.1\r\n\r\n{first}") as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = rest(connection)
    established, _, inner = answer.partition(b"\r\n\r\n")
    assert established == b"HTTP/1.1 200 Connection established"
    assert inner.endswith(CONTENT)
    line = logged(caplog)
    assert line["sent_bytes"] == len(first)
    assert line["received_bytes"] == len(inner)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("example.org:443", 403, "example.org:443 is not among the hosts"),
        ("{address}:22", 403, "is not among the hosts"),
        ("169.254.169.254:80", 403, "is not among the hosts"),
        ("127.0.0.1:{port}", 403, "is not among the hosts"),
        ("[::ffff:127.0.0.1]:{port}", 403, "is not among the hosts"),
        ("2130706433:{port}", 403, "is not among the hosts"),
        ("{name}:{port}", 403, "which is not a public address, or is this installation's"),
        ("no-such-host.invalid:443", 502, "no-such-host.invalid: "),
    ],
)
def test_nothing_else_is_reached(proxy: Proxy, target: str, status: int, reason: str) -> None:
    """Other hosts and ports, the cloud's metadata, and a listed name with a private address."""
    address, port = proxy.target.split(":")
    target = target.format(address=address, port=port, name=socket.gethostname())
    for request in (f"CONNECT {target} HTTP/1.1\r\n\r\n", get(target)):
        first = proxy.ask(request).decode().partition("\r\n")[0]
        assert first.startswith(f"HTTP/1.1 {status} ")
        assert reason in first
    assert proxy.server.asked == []


@pytest.mark.hostile
def test_a_second_request_on_a_connection_is_not_forwarded(proxy: Proxy) -> None:
    """It could name another host, which the first one's server might answer for."""
    answer = proxy.ask(get(proxy.target, "/one") + get(proxy.target, "/two"))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert [path for _, path, _ in proxy.server.asked] == ["/one"]


@pytest.mark.hostile
def test_who_has_no_credential_is_not_served(proxy: Proxy) -> None:
    """Neither with another training's name, nor with another key."""
    own = credential(read_key(proxy.folder), "luca_1", LATER)
    other = credential(b"another key", "luca_1", LATER)
    for line in ("", "luca_1", other, own.replace("luca_1", "luca_2"), own[:-1], f"{own} "):
        assert proxy.ask(get(proxy.target), line).startswith(b"HTTP/1.1 407 ")
    assert (proxy.folder / KEY).stat().st_mode & 0o777 == 0o600


@pytest.mark.hostile
def test_an_own_name_that_is_not_answered_keeps_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the name server's absence would open the way to this machine."""
    answers: dict[str, OSError | list[Address]] = {}

    async def addresses(name: str) -> list[Address]:
        found = answers[name]
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(data_proxy, "_addresses", addresses)
    monkeypatch.setattr(data_proxy, "OWN_SECONDS", -1)
    proxy = DataProxy(tmp_path, DataHosts("data.test"), ["192.0.2.7", "us.test", "none.test"])
    answers["us.test"] = socket.gaierror(socket.EAI_AGAIN, "later")
    answers["none.test"] = socket.gaierror(socket.EAI_NONAME, "unknown")
    with pytest.raises(OSError, match=r"us\.test, a name of this installation, can't be looked up"):
        asyncio.run(proxy._own_networks())
    answers["us.test"] = [ip_address("198.51.100.1")]
    known = asyncio.run(proxy._own_networks())
    assert {ip_network("192.0.2.7"), ip_network("198.51.100.1")} <= set(known)
    answers["us.test"] = TimeoutError()
    assert asyncio.run(proxy._own_networks()) == known


def test_a_server_that_is_away_is_named(proxy: Proxy) -> None:
    proxy.server.shutdown()
    proxy.server.server_close()
    first = proxy.ask(get(proxy.target)).partition(b"\r\n")[0].decode()
    assert first.startswith(f"HTTP/1.1 502 {proxy.target} at ")
    assert "Connect call failed" in first or "Connection refused" in first


@pytest.mark.hostile
def test_one_training_holds_so_many_connections(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_proxy, "MOST_OF_A_JOB", 2)
    tunnel = f"CONNECT {proxy.target} HTTP/1.1\r\n\r\n"
    held = [proxy.connect(tunnel) for _ in range(2)]
    for connection in held:
        assert b" 200 " in connection.recv(100)
    assert proxy.ask(tunnel).startswith(b"HTTP/1.1 429 too many connections")
    other = credential(read_key(proxy.folder), "anna_1", LATER)
    assert proxy.ask(get(proxy.target), other).startswith(b"HTTP/1.1 200")
    for connection in held:
        connection.close()
    until("its places are free", lambda: not proxy._proxy._open)
    assert proxy.ask(get(proxy.target)).startswith(b"HTTP/1.1 200")


@pytest.mark.hostile
def test_connections_that_say_nothing_keep_nobody_out(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_proxy, "MOST_STRANGERS", 3)
    silent = []
    for _ in range(6):
        silent.append(connection := socket.socket(socket.AF_UNIX))
        connection.connect(str(proxy.folder / SOCKET))
    assert proxy.ask(get(proxy.target)).startswith(b"HTTP/1.1 200")
    for connection in silent:
        connection.close()


@pytest.mark.hostile
def test_a_crowd_that_says_nothing_keeps_nobody_out(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come all at once, before and after one that says whose it is."""
    monkeypatch.setattr(data_proxy, "MOST_STRANGERS", 3)
    held = threading.Event()
    proxy._loop.call_soon_threadsafe(held.wait, 20)  # so that it sees them at the same time
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for number, connection in enumerate(sockets):
        connection.settimeout(20)
        connection.connect(str(proxy.folder / SOCKET))
        if number == 20:
            own = credential(read_key(proxy.folder), "luca_1", LATER)
            connection.sendall(f"{own}\n{get(proxy.target)}".encode())
    held.set()
    assert rest(sockets[20]).startswith(b"HTTP/1.1 200")
    for connection in sockets:
        connection.close()


@pytest.mark.hostile
def test_an_answer_that_is_not_taken_counts_as_a_connection(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(data_proxy, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(data_proxy, "CLOSE_SECONDS", 2)
    proxy.server.content = CONTENT * 5
    with proxy.connect(get(proxy.target)):
        until("it counts", lambda: proxy._proxy._open == {"luca_1": 1}, pause=0.05)
        logged(caplog)
        assert not proxy._proxy._open


def test_a_connection_on_which_nothing_comes_ends(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_proxy, "IDLE_SECONDS", 0.2)
    with proxy.connect(f"CONNECT {proxy.target} HTTP/1.1\r\n\r\n") as connection:
        assert rest(connection).endswith(b"established\r\n\r\n")


@pytest.mark.hostile
def test_a_head_without_end_is_refused(proxy: Proxy) -> None:
    answer = proxy.ask(get(proxy.target, headers=f"X: {'x' * 70_000}\r\n"))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "head",
    [
        "POST http://a.org/ HTTP/1.1",
        "PUT http://a.org/ HTTP/1.1",
        "GET / HTTP/1.1",
        "GET https://a.org/ HTTP/1.1",
        "GET ftp://a.org/ HTTP/1.1",
        "GET http://user@a.org/ HTTP/1.1",
        "GET http://a.org:99999/ HTTP/1.1",
        "GET http:///path HTTP/1.1",
        "GET http://[a/ HTTP/1.1",
        "GET http://a.org/\x00 HTTP/1.1",
        "CONNECT a.org HTTP/1.1",
        "CONNECT user@a.org:443 HTTP/1.1",
        "CONNECT http://a.org:443 HTTP/1.1",
        "GET http://a.org/ HTTP/1.1\r\nContent-Length: 5",
        "GET http://a.org/ HTTP/1.1\r\nTransfer-Encoding: chunked",
        "GET http://a.org/ HTTP/1.1\r\nX: a\nHost: b",
        "GET http://a.org/ HTTP/1.1\r\n folded: a",
        "GET http://a.org/ HTTP/2",
        "nonsense",
    ],
)
def test_what_is_no_request(head: str) -> None:
    with pytest.raises(RefusedError):
        parse_request(f"{head}\r\n\r\n".encode())


def test_its_health_check(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe(["data-proxy", str(proxy.folder)]) == 0
    assert probe(["data-proxy", str(proxy.folder / "none")]) == 1
    assert "No such file" in capsys.readouterr().out
