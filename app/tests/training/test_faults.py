"""Servers that fail while a training reads: what is lost is known to the event, or nothing is.

A training is a process of its own: XRootD's client is one for all of a process, and must be loaded
before TensorFlow. MLAAS4HEP_TEST_FAULTS=all runs each fault by each protocol (make soak).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from parts.xrootd import Bucket, Pki, Server, XRootD
from training.cut import Cut
from training.faults import EVENTS, LABELS, essence, flip, four, trained
from training.root_files import content, write

pytestmark = pytest.mark.grid

LEDGER = Path(__file__).parents[3] / "build/ledger.json"
BAD = "s1.root"
PROTOCOLS = ("root", "https", "s3")
LOST = {
    "killed": "can't be read",
    "hanging": "can't be read",
    "truncated": "was replaced|can't be read|is truncated",
    "replaced": "was replaced while it was read",
    "flipped": "was replaced|seems damaged",
}
"""What happens to the server or its file, and what is said of the file then."""
STREAMED = """
from sklearn.linear_model import SGDClassifier

def model(idim):
    return SGDClassifier(loss="log_loss", random_state=0)
"""
SOME = [("killed", "root"), ("hanging", "https"), ("truncated", "root"), ("replaced", "s3")]
ALL = [(fault, protocol) for fault in LOST for protocol in PROTOCOLS]
CASES = ALL if os.environ.get("MLAAS4HEP_TEST_FAULTS") == "all" else SOME
RUN = """
import json, sys
from pathlib import Path
from mlaas4hep.core.errors import MlaasError
from training.faults import essence, ledger_of, trained

def pause():
    print("now", flush=True)
    sys.stdin.readline()

def during(phase, done, total, **_):
    global left
    if left and (phase == "reading" and done == total or phase == "training" and done):
        left -= 1
        pause()

folder, files, options, left = json.loads(sys.argv[1])
pause()
try:
    result = trained(Path(folder), files=files, during=during, cache_bytes=0, **options)
    print(json.dumps({"ledger": ledger_of(result), "essence": essence(result)}))
except MlaasError as error:
    print(json.dumps({"error": error.message}))
"""


@pytest.fixture
def env(pki: Pki, bucket: Bucket, tmp_path: Path) -> dict[str, str]:
    """Credentials for all servers, and little patience."""
    token = tmp_path / "token"
    token.write_text(pki.token())
    token.chmod(0o600)  # XRootD's client takes no other
    ours = ("X509_", "BEARER_", "AWS_", "XRD_", "XDG_RUNTIME_DIR", "SSL_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **clean,
        **bucket.env,
        "BEARER_TOKEN_FILE": str(token),
        "X509_CERT_DIR": str(pki.ca_folder),
        "XRD_CONNECTIONWINDOW": "2",
        "XRD_CONNECTIONRETRY": "1",
        "XRD_REQUESTTIMEOUT": "4",
        "XRD_TIMEOUTRESOLUTION": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


@pytest.fixture
def servers(plain: XRootD, tokens: XRootD, bucket: Bucket) -> dict[str, Server]:
    return {"root": plain, "https": tokens, "s3": bucket}


def url_of(server: Server, protocol: str, file: Path) -> str:
    """Put the file on the server: its address."""
    url = server.put(file)
    if isinstance(server, XRootD) and protocol == "https":
        return f"{server.https}/{file.name}"
    return url


class Training:
    """A training in a process of its own, which waits before it begins, and after some passes.

    ``urls`` are in place of the files of these names; ``pauses`` are after the first pass and after
    each epoch, so many.
    """

    def __init__(
        self, folder: Path, urls: dict[str, str], env: dict[str, str], pauses: int, **options: Any
    ) -> None:
        files = [urls.get(name, name) for name in LABELS]
        asked = json.dumps([str(folder), files, options, pauses])
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, asked],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Until it pauses."""
        assert self._process.stdout
        assert self._process.stdout.readline() == "now\n"

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """What it says in the end."""
        said, _ = self._process.communicate(timeout=200)
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found


def train(
    folder: Path, url: str, env: dict[str, str], fault: Callable[[], object], skip: bool
) -> dict[str, Any]:
    """What a training says in which the fault happens after the first pass."""
    training = Training(folder, {BAD: url}, env, 1, skip=skip)
    training.wait()
    training.go_on()
    training.wait()
    fault()
    training.go_on()
    return training.end()


def harm(fault: str, server: Server, file: Path, again: Path) -> None:
    """Let it happen to the server, or to the file on it; ``file`` is a copy of that."""
    if fault in ("killed", "hanging"):
        server.kill() if fault == "killed" else server.pause()
        return
    bad = again / BAD
    if fault == "replaced":
        write(bad, content(EVENTS[BAD] - 1, 77))
    else:
        bad.write_bytes(file.read_bytes())
    if fault == "truncated":
        bad.write_bytes(bad.read_bytes()[:3000])
    if fault == "flipped":
        flip(bad)
    server.put(bad)


def keep(name: str, ledger: dict[str, Any]) -> None:
    """Add a ledger to those of all faults, build/ledger.json."""
    LEDGER.parent.mkdir(exist_ok=True)
    known = json.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    LEDGER.write_text(json.dumps(known | {name: ledger}, indent=1) + "\n")


@pytest.mark.parametrize(("fault", "protocol"), CASES)
def test_a_fault_loses_a_file_as_a_whole(
    tmp_path: Path,
    servers: dict[str, Server],
    env: dict[str, str],
    fault: str,
    protocol: str,
) -> None:
    folder, again = four(tmp_path), tmp_path / "again"
    again.mkdir()
    expected = essence(trained(folder, BAD))
    server = servers[protocol]
    url = url_of(server, protocol, folder / BAD)
    try:
        found = train(folder, url, env, lambda: harm(fault, server, folder / BAD, again), skip=True)
    finally:
        server.kill()
        server.start()
    assert "error" not in found, found
    keep(f"{fault}, {protocol}", found["ledger"])
    (bad,) = [each for each in found["ledger"]["files"] if each["skipped"]]
    assert bad["file"] == url
    assert any(text in bad["skipped"] for text in LOST[fault].split("|")), bad["skipped"]
    assert (bad["entries"], bad["lost"], bad["used"]) == (400, 400, {})
    assert found["ledger"]["sum"]["used"] == 1000
    assert found["essence"] == expected


@pytest.mark.parametrize(("fault", "protocol"), CASES if CASES is ALL else [("killed", "https")])
def test_without_the_option_it_is_an_error(
    tmp_path: Path, servers: dict[str, Server], env: dict[str, str], fault: str, protocol: str
) -> None:
    folder, again = four(tmp_path), tmp_path / "again"
    again.mkdir()
    server = servers[protocol]
    url = url_of(server, protocol, folder / BAD)
    try:
        found = train(
            folder, url, env, lambda: harm(fault, server, folder / BAD, again), skip=False
        )
    finally:
        server.kill()
        server.start()
    assert url in found["error"]
    assert any(text in found["error"] for text in LOST[fault].split("|")), found


@pytest.mark.parametrize("protocol", ["root", "https"])
def test_a_connection_that_is_cut_loses_nothing(
    tmp_path: Path, servers: dict[str, Server], env: dict[str, str], protocol: str
) -> None:
    folder = four(tmp_path)
    expected = essence(trained(folder))
    url = url_of(servers[protocol], protocol, folder / BAD)
    port = url.split("/")[2].partition(":")[2]
    with Cut(int(port)) as way:
        url = url.replace(f":{port}/", f":{way.port}/")
        found = train(folder, url, env, way.cut, skip=False)
        assert way.cuts == 1
    assert "error" not in found, found
    (account,) = [each for each in found["ledger"]["files"] if each["file"] == url]
    # XRootD's client connects again by itself, and doesn't tell.
    assert account["retries"] >= (protocol == "https")
    keep(f"cut, {protocol}", found["ledger"])
    assert found["ledger"]["sum"]["used"] == 1400
    assert found["ledger"]["sum"]["lost"] == 0
    for same in ("metrics.json", "history.json", "answers"):
        assert found["essence"][same] == expected[same]


class Refresher:
    """Writes a token into the file each time before the last one ends, but the second too late.

    That comes ``late`` seconds after ``refused`` is set.
    """

    def __init__(self, pki: Pki, file: Path, life: float, late: float) -> None:
        self._pki, self._file, self._life, self._late = pki, file, life, late
        self.ends: list[float] = []
        self.refused = threading.Event()
        self._written, self._over = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.refused.set()
        self._thread.join()

    def _run(self) -> None:
        wait = self._life - 1
        while not self._over.is_set():
            new = self._file.with_suffix(".new")
            new.write_text(self._pki.token(life=self._life))
            new.chmod(0o600)
            new.replace(self._file)
            with self._written:
                self.ends.append(time.time() + self._life)
                self._written.notify_all()
            if len(self.ends) == 1:
                # A machine so slow that a token isn't enough for a pass isn't to wait for ever.
                self.refused.wait(3 * self._life + 10)
            self._over.wait(self._late if len(self.ends) == 1 else wait)

    def wait_for(self, number: int) -> None:
        """Until that token is there."""
        with self._written:
            assert self._written.wait_for(lambda: len(self.ends) >= number, 120)

    def outlive(self, number: int) -> None:
        """Wait until that token has expired."""
        self.wait_for(number)
        time.sleep(max(0, self.ends[number - 1] + 0.5 - time.time()))


def test_three_lives_of_a_token(
    tmp_path: Path, tokens: XRootD, pki: Pki, env: dict[str, str]
) -> None:
    """The refresher is late once, by 30 s in the long run; nothing is lost or read twice.

    root:// shows its token when it connects, so its connections are cut after each life. By HTTPS
    the server takes for a minute what it took once, so files are opened with a token that is
    replaced by the first of those lives, which nobody shows before it has expired.
    """
    life, late = (20, 30) if CASES is ALL else (3, 1)
    expected = essence(trained(four(tmp_path), model=STREAMED))
    with Cut(tokens.port) as way, ExitStack() as stack:
        trainings = {}
        for protocol in ("root", "https"):
            urls = {name: url_of(tokens, protocol, tmp_path / name) for name in LABELS}
            if protocol == "root":
                urls = {k: u.replace(f":{tokens.port}/", f":{way.port}/") for k, u in urls.items()}
            (own := tmp_path / protocol).mkdir()
            trainings[protocol] = Training(own, urls, env, 2, model=STREAMED, skip=False)
        for number in range(3):
            for training in trainings.values():
                training.wait()
            if number == 1:
                token = Path(env["BEARER_TOKEN_FILE"])
                refresher = stack.enter_context(Refresher(pki, token, life, late))
            if number:
                refresher.outlive(number)
                way.cut(0)
            connections = way.connections
            for training in trainings.values():
                training.go_on()
            if number == 1:
                way.wait_for(connections + 1)
                time.sleep(0.5)
                refresher.refused.set()
        for protocol, training in trainings.items():
            found = training.end()
            assert "error" not in found, found
            keep(f"three lives of a token, {protocol}", found["ledger"])
            sums = found["ledger"]["sum"]
            assert (sums["entries"], sums["used"], sums["lost"]) == (1400, 1400, 0)
            assert sums["retries"] >= 1
            renewals = [each["renewals"] for each in found["ledger"]["files"]]
            assert sum(renewals) >= (1 if protocol == "root" else 8), renewals
            for same in ("metrics.json", "history.json", "answers"):
                assert found["essence"][same] == expected[same]
    assert len(refresher.ends) >= 3


@pytest.mark.parametrize(
    ("protocol", "wrong", "said"),
    [
        ("gsi", "expired proxy", "expired 2 hours ago"),
        ("root", "wrong token", "audience"),
        ("https", "wrong token", "audience"),
        ("https", "no host", "none.invalid"),
        ("root", "no host", "none.invalid"),
        ("s3", "wrong key", "doesn't know the access key nobody"),
    ],
)
def test_what_other_files_would_meet_too_ends_a_training_at_its_first_file(
    tmp_path: Path,
    servers: dict[str, Server],
    gsi: XRootD,
    pki: Pki,
    env: dict[str, str],
    protocol: str,
    wrong: str,
    said: str,
) -> None:
    """Within seconds, even with --skip-bad-files: after the diagnosis nothing is asked for."""
    folder = four(tmp_path)
    server = {"gsi": gsi, "root": servers["https"]}.get(protocol) or servers[protocol]
    urls = [url_of(server, protocol, folder / name) for name in LABELS]
    env["XRD_CONNECTIONRETRY"] = "4"
    if wrong == "expired proxy":
        env["X509_USER_PROXY"] = str(pki.proxy(start=-7300, life=-7200))
    elif wrong == "wrong key":
        env["AWS_ACCESS_KEY_ID"] = "nobody"
    else:
        Path(env["BEARER_TOKEN_FILE"]).write_text(pki.token(aud="another"))
    with ExitStack() as stack:
        ways = []
        for number, url in enumerate(urls):
            host = url.split("/")[2]
            to = env["AWS_ENDPOINT_URL"] if protocol == "s3" else host
            ways.append(stack.enter_context(Cut(int(to.rpartition(":")[2]))))
            there = "none.invalid" if wrong == "no host" else f"localhost:{ways[-1].port}"
            urls[number] = url.replace(f"//{host}/", f"//{there}/") if protocol != "s3" else url
        if protocol == "s3":
            env["AWS_ENDPOINT_URL"] = f"http://localhost:{ways[0].port}"
        training = Training(folder, dict(zip(LABELS, urls, strict=True)), env, 0, skip=True)
        training.wait()
        training.go_on()
        found = training.end()
    assert urls[0] in found["error"]
    assert said in found["error"]
    # One or two by which it is refused, and those of the diagnosis.
    assert ways[0].connections <= (0 if wrong == "no host" else 6)
    assert [way.connections for way in ways[1:]] == [0, 0, 0]
