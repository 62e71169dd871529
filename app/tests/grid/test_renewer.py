"""The renewer as a process: voms-proxy-init asks a VOMS server, XRootD checks what it gives.

Each read is by a new process of XRootD's client, which logs in with what is there at that moment.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from grid.process import Renewer, membership
from mlaas4hep.grid import proxy
from parts.xrootd import Pki, Voms, XRootD, proxy_server, vo_origin
from support.waiting import until

pytestmark = pytest.mark.grid

HOUR = 3600
CONTENT = "events"


@pytest.fixture(scope="module")
def origin(pki: Pki) -> Iterator[XRootD]:
    """Lets members of the VO read the file ``it``, and nobody else."""
    with vo_origin(pki) as server:
        (server.data / "it").write_text(CONTENT)
        yield server


def reads(url: str, **env: str | Path) -> bool:
    """Whether a new client can read the file; any other failure than a refusal is an error."""
    ours = {"XRD_CONNECTIONWINDOW": "5", "XRD_CONNECTIONRETRY": "2"} | env
    ended = subprocess.run(
        ["xrdcp", "-s", url, "-"],
        env=os.environ | {name: str(value) for name, value in ours.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if ended.returncode == 0:
        assert ended.stdout == CONTENT
        return True
    assert "Auth failed" in ended.stderr or "invalid exchange" in ended.stderr, ended.stderr
    return False


@pytest.fixture
def waiting(pki: Pki, vo: Voms) -> Iterator[Renewer]:
    with Renewer(pki, **membership(pki, vo)) as started:
        yield started


def test_it_waits_for_a_certificate_and_others_read_as_soon_as_it_has_one(pki, vo, origin, waiting):
    started = waiting
    status, said = started.ask()
    assert status == 503
    assert "waiting for a certificate" in said
    assert "mlaas4hep admin certificate" in said
    assert started.ask("/healthz")[0] == 200
    with proxy_server(pki, origin, started.proxy) as server:
        url = f"root://localhost:{server.port}//store/it"
        assert not reads(url)
        started.put_in(*pki.user())
        started.until_ready()
        assert reads(url)  # by the same process, which wasn't told
    assert vo.asked[-1] == "/test.vo"
    for path in (started.proxy, started.kept):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {path.name for path in started.proxy.parent.iterdir()} == {"proxy.pem", "certificates"}
    until("a look at the CAs", lambda: started.readiness()["seconds_left"]["ca"], 30, 0.1)
    left = started.readiness()["seconds_left"]
    assert 11.9 * HOUR < left["proxy"] <= 12 * HOUR
    assert 364 * 24 * HOUR < left["certificate"] <= 365 * 24 * HOUR
    assert 3649 * 24 * HOUR < left["ca"] <= 3650 * 24 * HOUR
    assert left["token"] is None
    assert abs(started.metric('mlaas4hep_x509_seconds_left{of="proxy"}') - left["proxy"]) < 60


@pytest.fixture(scope="module")
def shared(pki: Pki, vo: Voms) -> Iterator[Renewer]:
    with Renewer(pki, **membership(pki, vo)) as started:
        started.put_in(*pki.user())
        started.until_ready()
        yield started


def test_it_renews_well_before_the_end_and_no_read_is_lost(pki, origin, shared):
    started = shared
    results: list[bool] = []
    stop = threading.Event()

    def read_on() -> None:
        env = {"X509_USER_PROXY": started.proxy, "X509_CERT_DIR": pki.ca_folder}
        while not stop.is_set():
            results.append(reads(f"{origin.url}/it", **env))

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for age in (7, 8):
            old = pki.voms_proxy(age_hours=age)
            assert proxy.read(old).end > time.time() + 3 * HOUR
            started.place(old)
            started.until_renewed(old.read_bytes())
            assert proxy.read(started.proxy).end > time.time() + 11.9 * HOUR
    finally:
        stop.set()
        reader.join()
    assert len(results) > 3
    assert all(results)


def test_while_the_voms_server_is_away_the_old_proxy_stays(pki, vo, origin, shared):
    started = shared
    vo.stop()
    old = pki.voms_proxy(age_hours=11)
    started.place(old)
    failures = 'mlaas4hep_x509_failures_total{of="proxy"}'
    until("a failure", lambda: started.metric(failures), 30, 0.1)
    assert started.metric('mlaas4hep_x509_failing{of="proxy"}') == 1
    status, said = started.ask()
    assert status == 200  # the old one is still good
    assert "None of the contacted servers for test.vo" in said
    assert started.proxy.read_bytes() == old.read_bytes()
    assert reads(f"{origin.url}/it", X509_USER_PROXY=started.proxy, X509_CERT_DIR=pki.ca_folder)
    vo.start()
    started.until_renewed(old.read_bytes())
    assert started.metric('mlaas4hep_x509_failing{of="proxy"}') == 0


def test_a_certificate_that_expired_meanwhile_is_named_and_the_next_one_taken(pki, shared):
    started = shared
    before = started.proxy.read_bytes()
    own, key = pki.user("carol", life=-HOUR, start=-48 * HOUR)
    put_behind_its_back(started, own.read_bytes() + key.read_bytes())
    until("not ready", lambda: started.ask()[0] == 503, 30, 0.1)
    said = started.ask()[1]
    assert "the certificate has expired" in said
    assert started.proxy.read_bytes() == before
    assert started.metric('mlaas4hep_x509_seconds_left{of="certificate"}') < -HOUR + 60
    started.put_in(*pki.user())
    started.until_ready()


def put_behind_its_back(started: Renewer, content: bytes) -> None:
    owner = started.kept.stat()
    new = started.kept.with_name("new")
    new.write_bytes(content)
    new.chmod(0o600)
    os.chown(new, owner.st_uid, owner.st_gid)
    new.replace(started.kept)


def test_killed_between_writing_and_renaming(pki, shared):
    started = shared
    started.kill()
    # As the first of its name in PATH: it kills the renewer once the new proxy is written.
    own = started.folder / "bin"
    own.mkdir()
    program = own / "voms-proxy-init"
    program.write_text('#!/bin/sh\n/usr/bin/voms-proxy-init "$@"\nkill -KILL $PPID\n')
    program.chmod(0o755)
    own.chmod(0o755)
    old = pki.voms_proxy(age_hours=11)
    started.place(old)
    path = started.env["PATH"] = f"{own}:{os.environ['PATH']}"
    started.start()
    process = started.programs[0].process
    until("killed", lambda: process.poll() is not None, 30, 0.05)
    assert started.proxy.read_bytes() == old.read_bytes()
    left = [each.name for each in started.proxy.parent.iterdir()]
    assert any(name.startswith(".proxy.") for name in left)
    started.env["PATH"] = path.partition(":")[2]
    started.start()
    started.until_renewed(old.read_bytes())
    until("nothing left over", lambda: not list(started.proxy.parent.glob(".*")), 30, 0.1)
