"""The machine under test, and a neighbour from which users and attackers come."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import testinfra

ROOT = Path(__file__).parents[2]
NAME = "mlaas4hep-test-vm"
ADDRESS = "10.213.0.10"
NETWORK = "mlaas4hep-test"
DOCKER = "/usr/bin/docker"  # the engine of tests/parts, by DOCKER_HOST
SERVICES = ("mlaas4hep-server", "mlaas4hep-runner", "mlaas4hep-tfaas")
DOORS = ("mlaas4hep-gateway", "mlaas4hep-oauth2-proxy")


def docker(*words: str | Path, **options: object) -> str:
    """What the engine that holds the machine says; a failure shows its words."""
    ended = subprocess.run([DOCKER, *words], capture_output=True, text=True, **options)
    assert ended.returncode == 0, f"docker {words[0]}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


def until(what: str, true: Callable[[], object], seconds: float = 180) -> None:
    """Wait; whoever waits in vain says for what, and what was seen last."""
    end = time.monotonic() + seconds
    while not (seen := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s; last seen: {seen!r}")
        time.sleep(1)


class Machine:
    """Commands on the machine; its containers."""

    def __init__(self) -> None:
        self.host = testinfra.get_host(f"docker://{NAME}")

    def run(self, command: str, check: bool = True) -> str:
        """What a shell command prints."""
        ended = self.host.run(command)
        if check:
            assert ended.rc == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return (ended.stdout + ended.stderr).strip()

    def put(self, folder: Path, to: str) -> None:
        """Copy a folder of this computer onto the machine."""
        self.run(f"rm -rf {to} && mkdir -p {to}")
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            docker(
                "exec", "-i", NAME, "tar", "-C", to, "-x", "--no-same-owner", stdin=packed.stdout
            )

    def containers(self) -> list[str]:
        """Names of the stack's containers that there are, whether or not they run."""
        return self.run("docker ps -a --filter name=mlaas4hep- --format '{{.Names}}'").split()

    def inspect(self, container: str) -> dict:
        """All that the engine knows of a container."""
        return json.loads(self.run(f"docker inspect {container}"))[0]

    def healthy(self, *names: str) -> bool:
        """Whether these containers run, and say that they are well if they can say so."""
        state = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
        found = self.run(f"docker inspect -f '{state}' {' '.join(names)}", check=False).split()
        return len(found) == len(names) and set(found) <= {"healthy", "running"}

    def reboot(self) -> None:
        """As a power cycle: everything ends, systemd starts anew."""
        docker("restart", NAME)
        until(
            "systemd is up",
            lambda: self.run("systemctl is-system-running", check=False) == "running",
        )


class Neighbour:
    """Another machine of the network, on which users and attackers are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        """How a shell command ended."""
        words = [DOCKER, "exec", "-i", self.name, "bash", "-c", command]
        return subprocess.run(words, capture_output=True, text=True)


@contextmanager
def neighbour(*options: str | Path) -> Iterator[Neighbour]:
    """One that trusts the authorities of the tests; options are of `docker run`."""
    name = f"{NAME}-neighbour-{uuid.uuid4().hex[:8]}"
    trusted = authorities()
    trust = [
        "-v",
        f"{trusted}:/ca.pem:ro",
        "-e",
        "CURL_CA_BUNDLE=/ca.pem",
        "-e",
        "SSL_CERT_FILE=/ca.pem",
    ]
    docker(
        "run",
        "-d",
        "--rm",
        "--name",
        name,
        "--network",
        NETWORK,
        *trust,
        *options,
        "mlaas4hep-test/neighbour",
    )
    try:
        yield Neighbour(name)
    finally:
        docker("rm", "-f", name)


def authorities() -> Path:
    """A file with the authorities of the tests: the parts', and the one of the ACME server."""
    kept = ROOT / "build/stack/authorities.pem"
    kept.parent.mkdir(parents=True, exist_ok=True)
    mine = Path(os.environ["MLAAS4HEP_TEST_CA"]).read_text()
    acme = docker("run", "--rm", "--network", NETWORK, "mlaas4hep-test/neighbour",
                  "curl", "-sSfk", "https://acme.test:15000/roots/0")  # fmt: skip
    kept.write_text(f"{mine}\n{acme}\n")
    return kept


SCAN = """
import socket
from concurrent.futures import ThreadPoolExecutor
def open_port(port):
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex(("%s", port)) == 0
with ThreadPoolExecutor(200) as pool:
    print(*[port for port, found in enumerate(pool.map(open_port, range(65536))) if found])
"""


def open_ports(address: str = ADDRESS) -> set[int]:
    """TCP ports that answer a neighbour, of all 65,535."""
    with neighbour() as run:
        ended = run(f"python3 - <<'EOF'{SCAN % address}EOF")
        assert ended.returncode == 0, ended.stderr
        return {int(port) for port in ended.stdout.split()}


def inside(vm: Machine) -> list[tuple[str, int]]:
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
    with neighbour("--cap-add", "NET_ADMIN") as run:
        for address, _ in doors:
            assert run(f"ip route replace {address} via {ADDRESS}").returncode == 0
        asks = "curl -s -o /dev/null --connect-timeout 3 http://%s:%s/healthz"
        return [door for door in doors if run(asks % door).returncode == 0]
