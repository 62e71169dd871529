"""What a neighbour of the machine finds open."""

from __future__ import annotations

from vm import ADDRESS, VM, inside, reached

from support.machine import neighbour, open_ports

SSH = {22}
DOORS = {80, 443}
OLD_DOORS = {4433, 8081}


def test_a_neighbour_finds_only_the_doors(vm: VM) -> None:
    """Of all TCP ports; without sign-in there is no door at all."""
    signed_in = "mlaas4hep-gateway" in vm.containers()
    assert open_ports(ADDRESS) == (SSH | DOORS | OLD_DOORS if signed_in else SSH)


def test_the_scan_would_find_a_port_that_is_open(vm: VM) -> None:
    vm.run("systemd-run --collect --unit=opened python3 -m http.server 18080")
    try:
        with neighbour() as there:
            there.run(f"curl -s --retry 9 --retry-connrefused http://{ADDRESS}:18080/")
        assert 18080 in open_ports(ADDRESS)
    finally:
        vm.run("systemctl stop opened")


def test_a_neighbour_that_knows_the_containers_addresses_does_not_reach_them(vm: VM) -> None:
    """With a route through the machine, as one on the same network can make it."""
    there = inside(vm)
    assert reached(there) == []
    answers = "curl -s -o /dev/null --connect-timeout 3 http://%s:%s/healthz"
    assert [door for door in there if vm.ended(answers % door).returncode == 0] == there
