"""The machine on which molecule has played the roles."""

from __future__ import annotations

import json
from typing import Any

from support.machine import Machine, neighbour

NAME = "mlaas4hep-test-vm"
ADDRESS = "10.213.0.10"
SERVICES = ("mlaas4hep-server", "mlaas4hep-runner", "mlaas4hep-tfaas")
DATA_PROXY = "mlaas4hep-data-proxy"
DOORS = ("mlaas4hep-gateway", "mlaas4hep-oauth2-proxy")


class VM(Machine):
    """It, and its containers."""

    def __init__(self) -> None:
        super().__init__(NAME)

    def containers(self) -> list[str]:
        """Names of the stack's containers that there are, whether or not they run."""
        return self.run("docker ps -a --filter name=mlaas4hep- --format '{{.Names}}'").split()

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        return json.loads(self.run(f"docker inspect {container}"))[0]

    def healthy(self, *names: str) -> bool:
        """Whether these containers run, and say that they are well if they can say so."""
        state = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
        found = self.run(f"docker inspect -f '{state}' {' '.join(names)}", check=False).split()
        return len(found) == len(names) and set(found) <= {"healthy", "running"}


def inside(vm: VM) -> list[tuple[str, int]]:
    """Addresses and ports of the services on the containers' networks."""
    ports = {"mlaas4hep-server": 8080, "mlaas4hep-tfaas": 8083, "mlaas4hep-oauth2-proxy": 4180}
    found = [
        (network["IPAddress"], ports[name])
        for name in vm.containers()
        if name in ports
        for network in vm.inspect(name)["NetworkSettings"]["Networks"].values()
        if network["IPAddress"]
    ]
    assert found
    return found


def reached(doors: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Which of these answer a neighbour that has a route to them through the machine."""
    with neighbour("--cap-add", "NET_ADMIN") as there:
        for address, _ in doors:
            there.run(f"ip route replace {address} via {ADDRESS}")
        asks = "curl -s -o /dev/null --connect-timeout 3 http://%s:%s/healthz"
        return [door for door in doors if there.ended(asks % door).returncode == 0]


ADMIN = "grant_type=password&client_id=admin-cli&username=admin&password=admin-pw"


def clients(vm: VM) -> list[str]:
    """Names of all clients that the issuer knows."""
    realms = "https://iam.test/realms/master/protocol/openid-connect/token"
    token = json.loads(vm.run(f"curl -ksSf -d '{ADMIN}' {realms}"))["access_token"]
    asked = "https://iam.test/admin/realms/mlaas4hep/clients"
    found = json.loads(vm.run(f"curl -ksSf -H 'Authorization: Bearer {token}' {asked}"))
    return sorted(client["clientId"] for client in found)
