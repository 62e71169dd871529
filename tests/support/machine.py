"""Machines of the tests, which are containers with systemd, and their network."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.waiting import until

ROOT = Path(__file__).parents[2]
NETWORK = "mlaas4hep-test"
DOCKER = "/usr/bin/docker"  # the engine of tests/parts, by DOCKER_HOST
SECONDS = 600
"""How long a command may take unless its caller says otherwise."""


def run(*words: str | Path, **options: Any) -> str:
    """What a command prints; a failure shows its words."""
    options = {"timeout": SECONDS} | options
    ended = subprocess.run(words, capture_output=True, text=True, **options)
    assert ended.returncode == 0, f"{words[:2]}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


def docker(*words: str | Path, **options: Any) -> str:
    """What the engine that holds the machines says."""
    return run(DOCKER, *words, **options)


class Machine:
    """Commands on a machine that runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ended(self, command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """How a shell command of root ended."""
        words = [DOCKER, "exec", "-i", self.name, "bash", "-c", command]
        options = {"timeout": SECONDS} | options
        return subprocess.run(words, capture_output=True, text=True, **options)

    def run(self, command: str, check: bool = True, **options: Any) -> str:
        """What a shell command of root prints."""
        ended = self.ended(command, **options)
        if check:
            assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return (ended.stdout + ended.stderr).strip()

    def address(self) -> str:
        """Its address on the network."""
        form = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        return docker("inspect", "--format", form, self.name)

    def put(self, folder: Path, to: str) -> None:
        """Copy a folder of this computer onto the machine."""
        self.run(f"rm -rf {to} && mkdir -p {to}")
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            self.run(f"tar -C {to} -x --no-same-owner", stdin=packed.stdout)

    def booted(self, *states: str) -> None:
        """Wait until systemd says that it is in one of these states; usually ``running``."""
        wanted = states or ("running",)
        until(
            f"{self.name} has booted",
            lambda: self.run("systemctl is-system-running", check=False) in wanted,
        )

    def reboot(self) -> None:
        """As a power cycle: everything ends, systemd starts again."""
        docker("restart", self.name)
        self.booted()


@contextmanager
def neighbour(*options: str | Path) -> Iterator[Machine]:
    """Another machine of the network, on which users and attackers are; options of `docker run`.

    It trusts the authorities of the tests.
    """
    name = f"mlaas4hep-test-neighbour-{uuid.uuid4().hex[:8]}"
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
        yield Machine(name)
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


def open_ports(address: str) -> set[int]:
    """TCP ports that answer a neighbour, of all 65,535."""
    with neighbour() as there:
        return {int(port) for port in there.run("python3 -", input=SCAN % address).split()}
