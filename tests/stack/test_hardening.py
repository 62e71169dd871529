"""Every container of the stack has what service_container promises, whatever role it is of."""

from __future__ import annotations

import pytest
from vm import DATA_PROXY, DOORS, SERVICES, VM


@pytest.fixture(scope="module")
def containers(vm: VM) -> dict[str, dict]:
    found = {name: vm.inspect(name) for name in vm.containers() if "-job-" not in name}
    assert set(found) in (set(SERVICES), {*SERVICES, DATA_PROXY, *DOORS})
    return found


def test_each_is_healthy_and_comes_back(containers: dict[str, dict]) -> None:
    for name, container in containers.items():
        if name != "mlaas4hep-oauth2-proxy":  # its publisher's image has nothing to ask itself with
            assert container["State"]["Health"]["Status"] == "healthy", name
        assert container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", name


def test_none_is_root_or_can_become_it(vm: VM, containers: dict[str, dict]) -> None:
    for name, container in containers.items():
        status = vm.run(f"cat /proc/{container['State']['Pid']}/status")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        users = {int(number) for number in fields["Uid"].split() + fields["Gid"].split()}
        assert 0 not in users, name
        assert int(fields["NoNewPrivs"]) == 1, name
        assert int(fields["CapEff"], 16) in (0, 1 << 10), (
            name
        )  # the gateway may bind ports below 1024
        assert int(fields["CapBnd"], 16) in (0, 1 << 10), name
        if name != "mlaas4hep-gateway":
            assert int(fields["CapBnd"], 16) == 0, name


def test_their_root_is_read_only(vm: VM, containers: dict[str, dict]) -> None:
    for name, container in containers.items():
        mounts = vm.run(f"cat /proc/{container['State']['Pid']}/mounts").splitlines()
        root = next(line.split() for line in mounts if line.split()[1] == "/")
        assert "ro" in root[3].split(","), name
        assert container["HostConfig"]["Privileged"] is False, name


def test_their_memory_processes_and_logs_are_limited(containers: dict[str, dict]) -> None:
    for name, container in containers.items():
        limits = container["HostConfig"]
        assert 0 < limits["Memory"] == limits["MemorySwap"], name
        assert 0 < limits["PidsLimit"] <= 4096, name
        assert limits["NanoCpus"] > 0, name
        assert limits["LogConfig"]["Type"] == "json-file", name
        assert {"max-size", "max-file"} <= set(limits["LogConfig"]["Config"]), name


def test_only_the_runner_is_near_the_engine_and_it_has_no_network(
    containers: dict[str, dict],
) -> None:
    for name, container in containers.items():
        near = [mount["Source"] for mount in container["Mounts"] if "docker" in mount["Source"]]
        assert bool(near) == (name == "mlaas4hep-runner"), name
    assert set(containers["mlaas4hep-runner"]["NetworkSettings"]["Networks"]) == {"none"}


def test_no_secret_is_in_an_environment_or_a_command_line(
    vm: VM, containers: dict[str, dict]
) -> None:
    files = vm.run("find /etc/mlaas4hep -type f -perm 0600").split()
    secrets = [vm.run(f"cat {path}") for path in files]
    for container in containers.values():
        words = " ".join(
            [*container["Config"]["Env"], *(container["Config"]["Cmd"] or []), *container["Args"]]
        )
        assert not any(secret and secret in words for secret in secrets)


def test_secrets_and_state_are_not_for_everyone(vm: VM) -> None:
    assert vm.run("stat -c '%U:%G %a' /etc/mlaas4hep") == "root:mlaas4hep 750"
    readable = vm.run(
        "find /etc/mlaas4hep /var/lib/mlaas4hep -type f -perm /o+r -not -path '*/.*'"
    ).split()
    outside = vm.run("su -s /bin/sh nobody -c 'ls /etc/mlaas4hep /var/lib/mlaas4hep' 2>&1; true")
    assert outside.count("Permission denied") == 2, readable
