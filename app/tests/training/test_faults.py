"""Servers that fail while a training reads: what is lost is known to the event, or nothing is.

A training is a process of its own: XRootD's client is one for all of a process, and must be loaded
before TensorFlow. MLAAS4HEP_TEST_FAULTS=all runs each fault by each protocol (make soak).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
SOME = [("killed", "root"), ("hanging", "https"), ("truncated", "root"), ("replaced", "s3")]
ALL = [(fault, protocol) for fault in LOST for protocol in PROTOCOLS]
CASES = ALL if os.environ.get("MLAAS4HEP_TEST_FAULTS") == "all" else SOME
RUN = """
import json, sys
from pathlib import Path
from mlaas4hep.core.errors import MlaasError
from training.faults import essence, ledger_of, trained

def during(phase, done, total, **_):
    if phase == "reading" and done == total and not told:
        told.append(phase)
        print("now", flush=True)
        sys.stdin.readline()

folder, files, skip = json.loads(sys.argv[1])
told = []
try:
    result = trained(Path(folder), files=files, skip=skip, during=during, cache_bytes=0)
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


def train(
    folder: Path, url: str, env: dict[str, str], fault: Callable[[], object], skip: bool
) -> dict[str, Any]:
    """What a training says in which the fault happens after the first pass."""
    files = [url if name == BAD else name for name in LABELS]
    asked = json.dumps([str(folder), files, skip])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, asked],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "now\n"
    fault()
    said, _ = process.communicate("\n", timeout=200)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


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
