"""The cache of the grid's files and the renewer of its proxy: put up, fed, kept apart, taken away.

The machine has neither before and after: other tests count its containers.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from scenario import play
from vm import VM

from support.machine import ROOT
from support.waiting import until

sys.path.append(str(ROOT / "tests/parts"))
from xrootd import Pki

CACHE, RENEWER = "mlaas4hep-xrootd-cache", "mlaas4hep-x509-renewer"
X509 = "/var/lib/mlaas4hep/x509"
CERTIFICATE, PROXY = f"{X509}/private/certificate.pem", f"{X509}/shared/proxy.pem"
AUTHORITIES = "/etc/grid-security/certificates"
KEY = "/etc/mlaas4hep/data-tokens/key.pem"
GRID: dict[str, Any] = {
    "mlaas4hep_xrootd_origins": ["10.213.0.1:1094"],  # nobody is there
    "mlaas4hep_xrootd_cache_gib": 1,
    "mlaas4hep_data_paths": {"physicists": ["/store/"]},
    "mlaas4hep_grid_ca_folder": AUTHORITIES,
    "x509_renewer_settings": {"fetch_crl_hours": 0},
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("grid") / "pki")


def test_the_stack_is_up_before_there_is_a_certificate(vm: VM, pki: Pki, tmp_path: Path) -> None:
    """And says what it waits for; a second run changes nothing."""
    vm.put(pki.ca_folder, AUTHORITIES)
    played = play(tmp_path, **GRID)
    assert "waiting for a certificate" in played.text
    assert "mlaas4hep-x509 import" in played.text
    assert vm.healthy(CACHE, RENEWER)
    assert play(tmp_path, **GRID).changed == []


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


def test_another_key_of_the_runner_reaches_the_cache(vm: VM, tmp_path: Path) -> None:
    vm.run(f"rm {KEY}")
    changed = play(tmp_path, "--tags", "mlaas4hep_configure,xrootd_cache", **GRID).changed
    assert changed == [
        "Key that signs what a training may read, made once on this host",
        "Public key of the tokens that trainings show",
        f"Run {CACHE}",
    ]
    given = vm.run("cat /etc/mlaas4hep/xrootd-cache/data-token.pem")
    assert given == vm.run(f"openssl pkey -in {KEY} -pubout")
    assert vm.run(f"stat -c '%U %a' {KEY}") == "mlaas4hep 600"


def test_without_a_server_both_are_gone_and_the_certificate_stays(vm: VM, tmp_path: Path) -> None:
    play(tmp_path)
    assert not {CACHE, RENEWER} & set(vm.containers())
    networks = vm.run("docker network ls --format '{{.Name}}'").split()
    assert not {"mlaas4hep-grid", "mlaas4hep-x509"} & set(networks)
    assert vm.ended("test -e /usr/local/sbin/mlaas4hep-x509").returncode != 0
    assert vm.ended("test -e /var/lib/mlaas4hep/xrootd-cache").returncode != 0
    vm.run(f"test -e {CERTIFICATE}")
    assert play(tmp_path).changed == []
    vm.run("rm -r /etc/grid-security /root/grid")
