"""What runs behind the relay reaches the data proxy, and with it what the operator lists."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas4hep.jobs.executors import relay as module
from mlaas4hep.jobs.executors.offline import offline
from mlaas4hep.jobs.executors.relay import proxies, relay
from mlaas4hep.jobs.remote import SOCKET, credential, make_key, read_key
from support.ports import free_port
from support.remote_data import DataProxyProcess, FileServer, data_proxy, file_server

CONTENT = random.Random(1).randbytes(3_000_000)
READ = """
import fsspec, sys
for url in sys.argv[1:]:
    try:
        with fsspec.open(url, client_kwargs={"trust_env": True}) as file:
            print(file.seek(2_000_000), file.read(4).hex(), file.seek(0), len(file.read()))
    except Exception as error:
        print(repr(error), repr(error.__cause__))
"""
"""As uproot reads files by http(s)."""


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as found:  # short, as sockets want it
        yield Path(found)


def started(folder: Path, code: str, *words: str) -> subprocess.Popen[str]:
    """Python code, as a training with remote files runs: but for TCP, sockets are refused to it."""
    port, line = free_port(), credential(read_key(folder), "luca_1", time.time() + 600)
    return subprocess.Popen(
        [
            *offline(sys.executable, loopback=True),
            *relay(sys.executable, folder / SOCKET, line, port),
            # As the container's end ends the relay there.
            *["sh", "-c", '"$@"; kill 0', "sh", sys.executable, "-c", code, *words],
        ],
        env=os.environ | proxies(port),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said(folder: Path, code: str, *words: str) -> list[str]:
    with started(folder, code, *words) as process:
        return process.communicate(timeout=120)[0].splitlines()


def test_a_listed_server_is_read_and_no_other(folder: Path, server: FileServer) -> None:
    url = f"http://{server.target}/a.root"
    with data_proxy(folder, server.target) as proxy:
        found = said(
            folder, READ, url, "http://other.invalid/a.root", "https://other.invalid/a.root"
        )
    assert found[0] == f"2000000 {CONTENT[2_000_000:2_000_004].hex()} 0 {len(CONTENT)}"
    assert "other.invalid:80 is not among the hosts that trainings may read from" in found[1]
    assert "other.invalid:443 is not among the hosts that trainings may read from" in found[2]
    lines = proxy.lines()
    assert {line["job"] for line in lines} == {"luca_1"}
    assert sum(line["received_bytes"] for line in lines) > len(CONTENT)


def test_a_proxy_that_restarts_is_waited_for(folder: Path, server: FileServer) -> None:
    DataProxyProcess(folder, server.target).stop()
    process = started(folder, f"print('begins', flush=True)\n{READ}", f"http://{server.target}/")
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    with data_proxy(folder, server.target):
        assert process.communicate(timeout=120)[0].endswith(f" 0 {len(CONTENT)}\n")


def test_a_proxy_that_stays_away_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = Path(module.__file__).read_text().replace("SECONDS = 15", "SECONDS = 0")
    (tmp_path / "relay.py").write_text(text)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "relay.py"))
    make_key(folder)
    [line] = said(folder, READ, "https://a.org/a.root")
    assert "503" in line
    assert "The data proxy of this installation is away" in line
