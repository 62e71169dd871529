"""The error of opening a file is a diagnosis; here by what users see, with a real server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.doctor import explain
from mlaas4hep.sources.root import RootFile
from parts.xrootd import Pki, Server
from sources.doctor.answers import answering, serving


def opening(name: str) -> DataError:
    with pytest.raises(DataError) as found:
        RootFile(name, "events")
    return found.value


def test_each_server_is_looked_at_once() -> None:
    """What holds for all its files is told again, what is wrong with one file isn't."""
    with serving(answering(418)) as teapot:
        first = opening(f"{teapot}/a.root")
        assert first.message.startswith(f"{teapot}/a.root can't be read: 127.0.0.1 answers 418")
    assert opening(f"{teapot}/b.root").message == first.message.replace("a.root", "b.root")
    with serving(answering(206, b"<html>" * 99)) as pages:
        ordinary = DataError("a.root can't be read")
        found = explain(ordinary, [f"{pages}/a.root"])
        assert found.message.startswith(f"{pages}/a.root is not a ROOT file: it starts with")
        assert explain(ordinary, [f"{pages}/b.root"]) is ordinary


def test_replicas_that_all_fail() -> None:
    with serving(answering(404)) as empty, serving(answering(403)) as refusing:
        error = explain(DataError(""), [f"{empty}/a.root", f"{refusing}/a.root"])
    assert f"{empty}/a.root can't be read from any of its 2 replicas: no such file" in error.message
    assert "; 127.0.0.1 doesn't let everybody read" in error.message


@pytest.mark.grid
def test_a_command_with_an_expired_proxy(gsi: Server, pki: Pki, monkeypatch) -> None:
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))
    monkeypatch.setenv("X509_USER_PROXY", str(pki.proxy(start=-7300, life=-7200)))
    url = f"{gsi.url}/a.root"
    ended = subprocess.run(
        [sys.executable, "-m", "mlaas4hep.cli.main", "inspect", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert f"error: {url} can't be read: the proxy" in ended.stderr
    assert "expired 2 hours ago" in ended.stderr
    assert "voms-proxy-init" in ended.stderr
