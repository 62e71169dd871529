"""What one client can make a service keep or wait for, over real connections."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
import uvicorn

from mlaas4hep.models.repository import Repository
from mlaas4hep.web import protocol
from mlaas4hep.web.protocol import MOST_HEAD, MOST_WAITING, BoundedProtocol
from support.bundles import make_bundle
from support.tfaas_process import TFaaSProcess, tfaas_process

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
MiB = 1 << 20


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of bytes of the body, once it has come."""
    size, message = 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        size += len(message.get("body", b""))
    if message["type"] == "http.disconnect":
        return
    body = b"%d" % size * (MiB if scope["path"] == "/large" else 1)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(body), MiB):
        piece = body[start : start + MiB]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


@contextmanager
def served() -> Iterator[int]:
    """The port of ``echo`` behind the protocol, in a thread."""
    config = uvicorn.Config(echo, http=BoundedProtocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served() as found:
        yield found


def said(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def ask(port: int, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return said(connection)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TFaaSProcess]:
    folder = tmp_path_factory.mktemp("protocol")
    Repository(folder / "store/models").put(make_bundle(folder), "luca_1")
    with tfaas_process(folder / "store") as process:
        yield process


@pytest.mark.hostile("headers and URLs without end")
@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"GET /", b"a" * MiB, b"414"),
        (HEAD + b"X: ", b"a" * MiB, b"431"),
        (HEAD, b"X-A: bcd\r\n" * 100_000, b"431"),
        (HEAD + b"X", b"a" * MiB, b"431"),
        (b"", b"\r\n" * MiB, b"414"),
    ],
)
def test_a_head_without_end_is_refused(
    service: TFaaSProcess, begin: bytes, more: bytes, status: bytes
) -> None:
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(begin)
        pieces = 0
        with suppress(ConnectionError):  # cut; what came before can be read all the same
            while pieces < 200 and not select.select([connection], [], [], 0)[0]:
                connection.sendall(more)
                pieces += 1
        assert said(connection)[:12] == b"HTTP/1.1 " + status
    assert pieces < 100
    assert process.memory_info().rss < before + 30 * MiB
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * (MOST_HEAD - 100) + b" HTTP/1.1\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /" + b"a" * MOST_HEAD + b" HTTP/1.1\r\nConnection: close\r\n\r\n", b"414"),
        (HEAD + b"Connection: close\r\nX: " + b"a" * (MOST_HEAD - 200) + b"\r\n\r\n", b"200"),
        (HEAD + b"Connection: close\r\nX: " + b"a" * MOST_HEAD + b"\r\n\r\n", b"431"),
    ],
)
def test_a_whole_head_is_bounded_in_all(port: int, head: bytes, status: bytes) -> None:
    answer = ask(port, head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    if status != b"200":
        assert b"x-content-type-options: nosniff\r\n" in answer
        assert b"longer than 64 kB" in answer


def test_a_long_head_after_a_body_is_refused_too(port: int) -> None:
    first = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200_000
    answer = ask(port, first + HEAD + b"X: " + b"a" * MOST_HEAD + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"200000" in answer


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "more",
    [b"0\r\n" + b"X-A: bcd\r\n" * 20_000, b"0\r\nX: " + b"a" * 200_000, b"5;" + b"a" * 200_000],
)
def test_trailers_and_extensions_without_end_are_refused(port: int, more: bytes) -> None:
    assert ask(port, CHUNKED, more)[:12] == b"HTTP/1.1 431"


def test_bodies_of_any_size_and_shape_come_through(port: int) -> None:
    end = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
    small = b"".join(b"1;x=%d\r\na\r\n" % i for i in range(30_000))
    answer = ask(port, CHUNKED + small + b"0\r\nX: y\r\n\r\n" + end)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"\r\n\r\n30000HTTP/1.1" in answer
    large = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000000\r\n\r\n"
    assert ask(port, large, bytes(50_000_000)).endswith(b"50000000")


def test_requests_sent_before_their_turn_are_bounded(port: int) -> None:
    answer = ask(port, (HEAD + b"\r\n") * 20_000)
    assert MOST_WAITING <= answer.count(b"HTTP/1.1 200 OK") <= MOST_WAITING + 2
    assert b"connection: close" in answer.rpartition(b"HTTP/1.1")[2]


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-",
        b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
    ],
)
def test_who_does_not_end_what_it_began_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    with served() as port:
        answer = ask(port, begun)
        assert b"HTTP/1.1 408 " in answer
        idle = socket.create_connection(("127.0.0.1", port), timeout=30)
        idle.sendall(HEAD + b"\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        time.sleep(1)  # between two requests it may wait as ever
        idle.sendall(HEAD + b"\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        idle.close()


def test_a_slow_body_that_moves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 1.0)
    with served() as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n")
        for _ in range(30):
            connection.sendall(bytes(1000))
            time.sleep(0.1)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_who_does_not_read_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 0.5)
    with served() as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(
            b"POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n" + bytes(30)
        )
        client = connection.getsockname()
        until = time.monotonic() + 30
        while any(
            one.raddr == client and one.status == psutil.CONN_ESTABLISHED
            for one in psutil.Process().net_connections("tcp")
        ):
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.hostile("connections without end")
def test_idle_connections_make_room_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "most_connections", 20)
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 0.5)
    with served() as port:
        begun = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
        opened = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(20)]
        time.sleep(1)
        assert ask(port, HEAD + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
        busy = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(20)]
        for connection in busy:
            connection.sendall(begun)
        time.sleep(1)
        answer = ask(port, HEAD + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        busy.pop().close()
        time.sleep(0.5)
        assert ask(port, HEAD + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
        for connection in opened + busy:
            connection.close()
