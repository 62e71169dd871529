"""The grid's files in the stack: a training reads them through the cache, with the service's proxy.

The machine has neither cache nor renewer before and after: other tests count its containers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenario import play
from test_confinement import looked
from trainings import WAITS, Trainings
from vm import DATA_PROXY, DOORS, SERVICES, VM

from support.machine import ROOT, docker, neighbour
from support.user import Files
from support.waiting import until

sys.path.append(str(ROOT / "tests/parts"))
from xrootd import Pki, XRootD, gsi_origin
from xrootd.pki import DAY

CACHE, RENEWER = "mlaas4hep-xrootd-cache", "mlaas4hep-x509-renewer"
X509 = "/var/lib/mlaas4hep/x509"
CERTIFICATE, PROXY = f"{X509}/private/certificate.pem", f"{X509}/shared/proxy.pem"
AUTHORITIES = "/etc/grid-security/certificates"
HOST = "origin.test"
NAME = "grid"
ASKS = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:8085/metrics").read().decode())
"""
# What a user's own code tries: the credential, other doors of the cache, and ways around it.
HOSTILE = """
import json, os, urllib.request
from sklearn.ensemble import HistGradientBoostingClassifier

def read(path):
    return open(path).read(10)

def fetched(url):
    return urllib.request.urlopen(url, timeout=20).read(60)

def opened(url):
    from XRootD import client
    status, _ = client.File().open(url, timeout=10)
    if not status.ok:
        raise OSError(status.message)
    return "opened"

def tried(do, *words):
    try:
        return [True, str(do(*words))]
    except (OSError, ValueError) as error:
        return [False, str(error)]

def model(idim):
    ways = {"read": read, "fetch": fetched, "open": opened}
    attempts = json.load(open("attempts.json"))
    found = [[way, thing, *tried(ways[way], thing)] for way, thing in attempts]
    print("FOUND " + json.dumps(found))
    return HistGradientBoostingClassifier(max_iter=5)
"""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("grid") / "pki")


@pytest.fixture(scope="module")
def origin(pki: Pki) -> Iterator[XRootD]:
    """A server of the grid on another machine, which lets in who shows alice's proxy."""
    with neighbour("--network-alias", HOST) as there:
        process = docker("inspect", "--format", "{{.State.Pid}}", there.name)
        with gsi_origin(pki, host=HOST, network=Path(f"/proc/{process}/ns/net")) as server:
            yield server


@pytest.fixture(scope="module")
def site(origin: XRootD) -> dict[str, Any]:
    return {
        "mlaas4hep_xrootd_origins": [f"{HOST}:{origin.port}"],
        "mlaas4hep_xrootd_cache_gib": 1,
        "mlaas4hep_data_paths": {"physicists": ["/store/physics/"], "others": ["/store/others/"]},
        "mlaas4hep_grid_ca_folder": AUTHORITIES,
        "x509_renewer_settings": {"fetch_crl_hours": 0},
    }


@pytest.fixture(scope="module")
def trainings(vm: VM, files: Files) -> Trainings:
    return Trainings(vm, files.upload)


def test_the_stack_is_up_before_there_is_a_certificate(
    vm: VM, pki: Pki, site: dict[str, Any], tmp_path: Path
) -> None:
    """And says what it waits for; a second run changes nothing."""
    vm.put(pki.ca_folder, AUTHORITIES)
    played = play(tmp_path, **site)
    assert "waiting for a certificate" in played.text
    assert "mlaas4hep-x509 import" in played.text
    assert vm.healthy(CACHE, RENEWER)
    assert play(tmp_path, **site).changed == []


def test_one_command_gives_it_the_certificate(vm: VM, pki: Pki, tmp_path: Path) -> None:
    certificate, key = pki.user()
    shutil.copy(certificate, tmp_path / "usercert.pem")
    shutil.copy(key, tmp_path / "userkey.pem")
    shutil.copy(pki.user("bob")[1], tmp_path / "another.pem")
    vm.put(tmp_path, "/root/grid")
    files = "/root/grid/usercert.pem /root/grid"
    refused = vm.ended(f"mlaas4hep-x509 import {files}/another.pem")
    assert refused.returncode == 2
    assert vm.ended(f"test -e {CERTIFICATE}").returncode != 0
    assert "CN=alice" in vm.run(f"mlaas4hep-x509 import {files}/userkey.pem")
    until("there is a proxy", lambda: vm.ended("mlaas4hep-x509 status").returncode == 0)
    modes = vm.run(f"stat -c '%U %a' {X509} {CERTIFICATE} {PROXY}").splitlines()
    assert modes == ["mlaas4hep-grid 700", "mlaas4hep-grid 600", "mlaas4hep-grid 600"]
    assert vm.run(f"docker exec {RENEWER} find /tmp -name 'import.*'") == ""


def test_the_cache_sees_the_proxy_and_nobody_else_sees_anything(vm: VM) -> None:
    found = {name: vm.inspect(name) for name in vm.containers() if "-job-" not in name}
    near = {
        name: {mount["Source"]: mount["RW"] for mount in one["Mounts"] if X509 in mount["Source"]}
        for name, one in found.items()
    }
    seen = {name: mounts for name, mounts in near.items() if mounts}
    assert seen == {RENEWER: {X509: True}, CACHE: {f"{X509}/shared": False}}
    assert vm.run(f"docker exec {CACHE} head -n 1 {PROXY}") == "-----BEGIN CERTIFICATE-----"
    assert vm.ended(f"docker exec {CACHE} ls {X509}/private").returncode != 0
    # As the owner of the store, as whom trainings run.
    assert vm.ended(f"setpriv --reuid 64004 --clear-groups cat {PROXY}").returncode != 0
    networks = {name: set(found[name]["NetworkSettings"]["Networks"]) for name in (CACHE, RENEWER)}
    assert networks == {
        CACHE: {"mlaas4hep-data", "mlaas4hep-grid"},
        RENEWER: {"mlaas4hep-x509", "mlaas4hep-grid"},
    }
    for name in (CACHE, RENEWER):
        assert not any(found[name]["NetworkSettings"]["Ports"].values()), name
        assert found[name]["Config"]["User"] == "64005:64005", name


def test_their_metrics_are_for_the_sites_prometheus_only(vm: VM) -> None:
    url = "https://mlaas4hep.test/{}/metrics"
    token = '-H "Authorization: Bearer $(cat /root/metrics-token)"'
    for name, metric in (("x509-renewer", "x509_seconds_left"), ("xrootd-cache", "xrootd_")):
        assert f"mlaas4hep_{metric}" in vm.run(f"curl -ksSf {token} {url.format(name)}")
        assert metric not in vm.run(f"curl -ks {url.format(name)}", check=False)


def test_a_training_reads_files_at_the_origin(
    vm: VM, files: Files, origin: XRootD, trainings: Trainings
) -> None:
    """By GSI through the cache; once they are there, also when the origin is away."""
    names = (files.upload / "files.txt").read_text().splitlines()
    urls = [origin.put(files.upload / name, f"physics/{name}") for name in names]
    trainings.upload(
        NAME, (files.upload / "model.py").read_text(), **{"files.txt": "\n".join(urls)}
    )
    row = trainings.ended(job := trainings.submit(NAME))
    shown = (trainings.log(job), vm.run(f"docker logs --tail 50 {CACHE}"))
    assert row["state"] == "succeeded", (row, *shown)
    until("the cache tells what it fetched", lambda: cached(vm, "miss") > 0)

    origin.stop()
    row = trainings.ended(job := trainings.submit(NAME))
    assert row["state"] == "succeeded", (row, trainings.log(job))
    assert "may be old, as its server doesn't tell" in trainings.log(job)
    until("the cache tells what it had", lambda: cached(vm, "hit") > 0)
    origin.start()


def test_a_proxy_is_swapped_and_a_cache_killed_while_a_training_runs(
    vm: VM, pki: Pki, trainings: Trainings, tmp_path: Path
) -> None:
    """The certificate was renewed: the next proxy is made of it at once."""
    certificate, key = pki.user(life=300 * DAY)
    shutil.copy(certificate, tmp_path / "usercert.pem")
    shutil.copy(key, tmp_path / "userkey.pem")
    vm.put(tmp_path, "/root/grid")
    trainings.upload(f"{NAME}_waits", WAITS, **{"files.txt": text(vm)})
    job = trainings.begin(f"{NAME}_waits")
    before = vm.run(f"sha256sum {PROXY}")
    vm.run("mlaas4hep-x509 import /root/grid/usercert.pem /root/grid/userkey.pem")
    until("there is another proxy", lambda: vm.run(f"sha256sum {PROXY}", check=False) != before)
    vm.run(f"kill -9 {vm.inspect(CACHE)['State']['Pid']}")
    until("the cache is well", lambda: vm.healthy(CACHE))
    trainings.release(f"{NAME}_waits")
    row = trainings.ended(job)
    assert row["state"] == "succeeded", (row, trainings.log(job))


def test_a_hostile_training_gets_neither_credential_nor_others_files(
    vm: VM, origin: XRootD, trainings: Trainings, files: Files
) -> None:
    secret = origin.put(files.upload / "params.json", "others/secret.root")
    # The doors are in the order of the folders: others, physics.
    others, own = (origin.url.replace(str(origin.port), port) for port in ("1094", "1095"))
    others, own = (each.replace(HOST, "127.0.0.1") for each in (others, own))
    [mine, *_] = text(vm).splitlines()
    attempts = [
        ["open", mine.replace(f"{HOST}:{origin.port}", "127.0.0.1:1095")],  # may be
        ["open", f"{others}/others/secret.root"],  # the relay has no such port
        ["open", f"{own}/others/secret.root"],
        ["open", f"{own}/physics/../others/secret.root"],
        ["open", f"{own}/physics/../../etc/passwd"],
        ["open", secret],
        *[["fetch", f"https://xrootd-cache:{port}/"] for port in (1094, 1096)],
        ["fetch", "http://xrootd-cache:8085/metrics"],
        ["fetch", "http://xrootd-cache:8085/fresh?door=0&path=/store/others/secret.root"],
        ["fetch", "http://x509-renewer:8085/metrics"],
        ["read", PROXY],
        ["read", CERTIFICATE],
    ]
    files_txt = {"files.txt": text(vm), "attempts.json": json.dumps(attempts)}
    trainings.upload(f"{NAME}_hostile", HOSTILE, **files_txt)
    row = trainings.ended(job := trainings.submit(f"{NAME}_hostile"))
    assert row["state"] == "succeeded", (row, trainings.log(job))
    found = looked(trainings.log(job))
    assert len(found) == len(attempts)
    assert [attempt[2] for attempt in found] == [True, *[False] * (len(found) - 1)], found

    names = "\n".join([mine, secret])
    trainings.upload(f"{NAME}_others", WAITS, **{"files.txt": names}, go="")
    row = trainings.ended(trainings.submit(f"{NAME}_others"))
    assert row["state"] == "failed"
    assert "your groups may read below /store/physics/ only" in row["reason"], row


def test_without_a_server_both_are_gone_and_the_certificate_stays(vm: VM, tmp_path: Path) -> None:
    play(tmp_path)
    assert not {CACHE, RENEWER} & set(vm.containers())
    networks = vm.run("docker network ls --format '{{.Name}}'").split()
    assert not {"mlaas4hep-grid", "mlaas4hep-x509"} & set(networks)
    assert vm.ended("test -e /usr/local/sbin/mlaas4hep-x509").returncode != 0
    assert vm.ended("test -e /var/lib/mlaas4hep/xrootd-cache").returncode != 0
    vm.run(f"test -e {CERTIFICATE}")
    vm.run("rm -r /etc/grid-security /root/grid")
    until("the others are well", lambda: vm.healthy(*SERVICES, DATA_PROXY, *DOORS))


def cached(vm: VM, kind: str) -> float:
    """Bytes that trainings got from the cache's disk (hit) or from the origin (miss)."""
    lines = vm.run(f"docker exec {CACHE} python -c '{ASKS}'").splitlines()
    start = "mlaas4hep_xrootd_cache_read_bytes_total{"
    mine = [line for line in lines if line.startswith(start) and f'kind="{kind}"' in line]
    return sum(float(line.split()[-1]) for line in mine)


def text(vm: VM) -> str:
    """The list of the files at the origin that an earlier training had."""
    return vm.run(f"cat /tmp/trainings/{NAME}/files.txt")
