"""The error of opening a file is a diagnosis; here by what users see, with a real server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.doctor import explain
from mlaas4hep.sources.root import RootFile
from parts.xrootd import Pki, Server
from sources.doctor.answers import answering, serving
from sources.test_remote import RangeHandler


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


class Silent(RangeHandler):
    """Answers when ``answers`` is set; notes what it is asked for."""

    answers: threading.Event
    asked: list[str]

    def _answer(self, with_body: bool) -> None:
        self.asked.append(self.path)
        if not self.answers.is_set():
            self.answers.wait()
            self.close_connection = True
            return
        super()._answer(with_body)


def test_a_server_that_answers_nobody_is_given_up(
    small_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file takes all tries; others none, but once a minute a look whether it is back."""
    for name, value in (("CONNECTIONWINDOW", 1), ("REQUESTTIMEOUT", 1), ("CONNECTIONRETRY", 1)):
        monkeypatch.setenv(f"XRD_{name}", str(value))
    monkeypatch.setattr("mlaas4hep.sources.doctor.steps.PATIENCE", 0.5)
    answers, asked = threading.Event(), list[str]()
    about = {"answers": answers, "asked": asked, "folder": small_files[0].parent}
    with serving(type("Handler", (Silent,), about)) as url:
        try:
            said = "accepts the connection and doesn't answer"
            assert said in opening(f"{url}/a.root").message
            assert asked == ["/a.root"] * 3  # two tries, and the doctor
            assert said in opening(f"{url}/b.root").message
            assert len(asked) == 3
            monkeypatch.setattr("mlaas4hep.sources.doctor.reasons._SECONDS", 0)
            assert said in opening(f"{url}/b.root").message
            assert set(asked[3:]) == {"/b.root"}
            assert len(asked) <= 5  # by the doctor alone
        finally:
            answers.set()
        with RootFile(f"{url}/b.root", "events") as file:
            assert file.entries == 300


class Dribbling(RangeHandler):
    """Ends no answer: a byte now and then, until the test is over."""

    over: threading.Event
    asked: list[str]

    def _answer(self, with_body: bool) -> None:
        self.asked.append(self.path)
        with contextlib.suppress(OSError):
            while not self.over.wait(0.05):
                self.wfile.write(b"H")
        self.close_connection = True


def test_a_diagnosis_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each step gets a byte in time; it is remembered as any other."""
    module = sys.modules["mlaas4hep.sources.doctor.diagnose"]  # the function has that name, too
    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    over, asked = threading.Event(), list[str]()
    with serving(type("Handler", (Dribbling,), {"over": over, "asked": asked})) as url:
        try:
            error = explain(DataError(""), [f"{url}/a.root"])
            assert "the diagnosis has no end, and was left after 1 s" in error.message
            assert "the last step that ended is connection" in error.message
            again = explain(DataError(""), [f"{url}/b.root"])
            assert again.message.endswith(error.message)
            assert asked == ["/a.root"]
        finally:
            over.set()


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
