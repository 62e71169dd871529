"""The server as a process of its own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.server import serve
from support.service import Service, packed, small_files, submission

SERVE = """
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.server import serve
serve(Settings())
"""
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server on a free port; gives its process and URL."""
    started = []

    def start(**settings: object) -> tuple[subprocess.Popen[str], str]:
        given = {"STORE": tmp_path / "store", "SERVER_PORT": 0} | settings
        environment = {f"MLAAS4HEP_{name}": str(value) for name, value in given.items()}
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=240)


def test_it_says_where_it_listens_and_ends_at_sigterm(start: Start) -> None:
    process, line = start()
    url = line.removeprefix("server listens on ")
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/hello", trust_env=False).text == "Hello World\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/hello", trust_env=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_addresses_that_others_can_reach_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="there is no sign-in"):
        serve(Settings(store=tmp_path, server_port=0, host=host))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"can't listen on 127.0.0.1:{port}"):
            serve(Settings(store=tmp_path, server_port=port))


def endless(count: int) -> Iterator[bytes]:
    """A multipart body of ``count`` MB without a length."""
    yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    for _ in range(count):
        yield bytes(1_000_000)


def test_an_upload_beyond_the_limit_stops_early(start: Start, tmp_path: Path) -> None:
    process, line = start(MAX_UPLOAD_BYTES=5_000_000)
    url = line.split()[-1]
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(
        f"{url}/upload?name=luca", content=endless(300), headers=headers, trust_env=False
    )
    assert answer.status_code == 413
    assert "4.8 MB" in answer.json()["title"]
    assert psutil.Process(process.pid).io_counters().write_bytes < 20_000_000
    assert list((tmp_path / "store/uploads").iterdir()) == []


def test_an_upload_that_says_it_is_too_large_is_not_read(start: Start) -> None:
    _, line = start(MAX_UPLOAD_BYTES=5_000_000)
    connection = http.client.HTTPConnection(line.split("//")[1], timeout=30)
    connection.putrequest("POST", "/upload?name=luca")
    connection.putheader("content-type", "multipart/form-data; boundary=b")
    connection.putheader("content-length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_an_interrupted_upload_leaves_nothing(start: Start, tmp_path: Path) -> None:
    _, line = start()
    url = line.split()[-1]
    connection = http.client.HTTPConnection(line.split("//")[1], timeout=30)
    connection.putrequest("POST", "/upload?name=luca")
    connection.putheader("content-type", "multipart/form-data; boundary=b")
    connection.putheader("content-length", "1000000")
    connection.endheaders()
    connection.send(b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc')
    connection.close()
    assert httpx.get(f"{url}/folders", trust_env=False).json() == []
    deadline = time.monotonic() + 30
    while list((tmp_path / "store/uploads").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "store/uploads").iterdir()) == []


def test_a_big_upload_and_a_big_log_take_little_memory(start: Start, tmp_path: Path) -> None:
    process, line = start()
    url = line.split()[-1]
    before = psutil.Process(process.pid).memory_info().rss
    archive = tmp_path / "folder.tar"
    archive.write_bytes(packed(small_files() | {"big.bin": bytes(200_000_000)}, mode="w"))
    with archive.open("rb") as stream:
        answer = httpx.post(
            f"{url}/upload?name=luca", files={"file": stream}, trust_env=False, timeout=60
        )
    assert answer.text == "Successfully uploaded!\n"
    service = Service(tmp_path / "store")
    job = service.queue.submit(submission("luca"))
    service.home(job).mkdir(parents=True)
    (service.home(job) / "log.txt").write_bytes(b"0123456789" * 20_000_000)
    size = 0
    with httpx.stream("GET", f"{url}/logs?process_name=luca_1", trust_env=False) as log:
        for piece in log.iter_bytes():
            size += len(piece)
    assert size == 200_000_000
    assert psutil.Process(process.pid).memory_info().rss - before < 60_000_000
