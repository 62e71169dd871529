from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest

from mlaas4hep.core.hosts import DataHosts, HostError, parse_target


@pytest.mark.parametrize(
    ("listed", "asked", "allowed"),
    [
        ("eospublic.cern.ch", "eospublic.cern.ch:443", True),
        ("eospublic.cern.ch", "EOSpublic.cern.ch.:80", True),
        ("eospublic.cern.ch", "eospublic.cern.ch:22", False),
        ("eospublic.cern.ch", "eospublic.cern.ch.evil.org:443", False),
        ("eospublic.cern.ch", "x.eospublic.cern.ch:443", False),
        ("a.org, b.org:8443", "b.org:8443", True),
        ("a.org, b.org:8443", "b.org:443", False),
        ("*.cern.ch", "eospublic.cern.ch:443", True),
        ("*.cern.ch", "a.b.cern.ch:443", True),
        ("*.cern.ch", "cern.ch:443", False),
        ("*.cern.ch", "evilcern.ch:443", False),
        ("*.cern.ch:8443", "eos.cern.ch:8443", True),
        ("192.0.2.7", "192.0.2.7:443", True),
        ("192.0.2.7", "192.0.2.8:443", False),
        ("10.1.0.0/16", "10.1.2.3:443", True),
        ("10.1.0.0/16", "10.1.2.3:22", False),
        ("10.1.0.0/16:9000", "10.1.2.3:9000", True),
        ("[2001:db8::7]:9000", "[2001:db8:0::7]:9000", True),
        ("2001:db8::/32", "[2001:db8::7]:443", True),
        ("*.cern.ch", "10.1.2.3:443", False),
        ("", "eospublic.cern.ch:443", False),
    ],
)  # fmt: skip
def test_what_may_be_asked_for(listed: str, asked: str, allowed: bool) -> None:
    target = parse_target(asked)
    assert target is not None
    assert DataHosts(listed).allow(*target) is allowed


PRIVATE = "10.1.2.3 172.17.0.1 192.168.1.1 100.64.1.1 fd00::1 ::ffff:10.1.2.3"
SITE = "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fd00::/32"
NEVER = """
    127.0.0.1 127.1.2.3 0.0.0.0 :: ::1 169.254.169.254 fe80::1 224.0.0.1 ff02::1 255.255.255.255
    240.0.0.1 168.63.129.16 fd00:ec2::254 ::ffff:127.0.0.1 ::ffff:169.254.169.254
    64:ff9b::169.254.169.254 2002:7f00:1:: ::127.0.0.1 64:ff9b:1::1
"""
NO_HOSTS = """
    https://a.org a.org/path user@a.org a.org:0 a.org:70000 a.org:x a..org -a.org * *.org a.*.org
    *a.org *.*.org 10.1.2 1.2.3.4.5 10.1.2.3/16 café.org localhost x.localhost:8080 a.org;b.org
    2001:db8:::1 127.0.0.1 0.0.0.0 0.0.0.0/0 ::/0 [::1]:443 169.254.169.254 160.0.0.0/4 fe80::1
    fd00::/8 224.0.0.1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses_must_be_listed(address: str) -> None:
    """Whatever a listed name resolves to."""
    there = ip_address(address)
    assert not DataHosts("data.example.org").allow_address(there)
    assert DataHosts(f"data.example.org,{SITE}").allow_address(there)


@pytest.mark.parametrize("address", NEVER.split())
def test_some_addresses_are_never_reached(address: str) -> None:
    listed = DataHosts(f"data.example.org,2001::/16,{SITE}")
    assert not listed.allow_address(ip_address(address))


@pytest.mark.parametrize("address", ["188.184.100.1", "2001:1458:201::1", "64:ff9b::188.184.100.1"])
def test_public_addresses_are_reached(address: str) -> None:
    assert DataHosts("data.example.org").allow_address(ip_address(address))


def test_this_machine_must_be_listed_by_its_address() -> None:
    own = [ip_network("188.184.100.1"), ip_network("10.1.2.0/24")]
    for address in ("188.184.100.1", "10.1.2.3"):
        listed = DataHosts("188.184.0.0/16,10.0.0.0/8,10.1.2.0/24")
        assert not listed.allow_address(ip_address(address), own)
        assert DataHosts(address).allow_address(ip_address(address), own)


@pytest.mark.parametrize("listed", [*NO_HOSTS.split(), "a b.org"])
def test_what_is_no_host_is_named(listed: str) -> None:
    about = "is not a host|holds addresses|allows every|is the machine"
    with pytest.raises(HostError, match=rf"^{re.escape(repr(listed))} ({about})"):
        DataHosts(f"fine.example.org,{listed}")


@pytest.mark.parametrize(
    "asked", ["a.org", "a.org:", "a.org:0", "a.org:65536", "a.org:x", ":443", "[::1]", "a b:80"]
)
def test_what_is_no_target(asked: str) -> None:
    assert parse_target(asked) is None
