"""A container engine of the tests' own: Debian's dockerd with its own socket, folders and bridge.

It changes nothing of an engine that the machine already runs: `--iptables=false`, and the few rules
that the network of the tests needs are set here. Started again, it finds its images, volumes and
networks in the cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from packages import ENGINE, install
from shell import CACHE, PartError, run, say

RUN = Path("/run/mlaas4hep-parts")
SOCKET = RUN / "docker.sock"
HOST = f"unix://{SOCKET}"
PID_FILE = RUN / "dockerd.pid"
ROOT = CACHE / "engine"
LOG = CACHE / "engine.log"
DOCKER = "/usr/bin/docker"  # Debian's client, of the same version as its engine

NETWORK = "mlaas4hep-test"
BRIDGE = "br-mlaas4hep"
SUBNET = "10.213.0.0/24"
RULES = (
    ("nat", "POSTROUTING", ("-s", SUBNET, "!", "-o", BRIDGE, "-j", "MASQUERADE")),
    ("filter", "FORWARD", ("-i", BRIDGE, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-o", BRIDGE, "-j", "ACCEPT")),
)


def docker(*words: str | Path, **options: object) -> str:
    return run(DOCKER, *words, env={"DOCKER_HOST": HOST, "DOCKER_BUILDKIT": "0"}, **options)


def exists(kind: str, name: str) -> bool:
    environment = os.environ | {"DOCKER_HOST": HOST}
    ended = subprocess.run(
        [DOCKER, kind, "inspect", name], env=environment, capture_output=True, timeout=60
    )
    return ended.returncode == 0


def start() -> None:
    install(*ENGINE)
    if not process():
        launch()
    join_network()


def process() -> int:
    """The id of the engine's process; 0 when it is not running, whatever a stale file says."""
    try:
        number = int(PID_FILE.read_text())
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0
    return number if os.fsencode(ROOT) in words else 0


def launch() -> None:
    RUN.mkdir(mode=0o755, exist_ok=True)
    ROOT.mkdir(parents=True, exist_ok=True)
    PID_FILE.unlink(missing_ok=True)  # dockerd refuses a file whose number another process now has
    say(f"starting the engine at {HOST}")
    with LOG.open("ab") as log:
        started = subprocess.Popen(
            ["dockerd", "--host", HOST, "--data-root", ROOT, "--exec-root", RUN / "exec",
             "--pidfile", PID_FILE, "--bridge", "none", "--iptables=false", "--ip6tables=false",
             "--insecure-registry", SUBNET, "--exec-opt", "native.cgroupdriver=cgroupfs",
             "--log-level", "warn"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    for _ in range(240):
        if started.poll() is not None:
            break
        if exists("network", "none"):
            return
        time.sleep(0.25)
    end = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
    raise PartError(f"dockerd did not start; the end of {LOG}:\n{end}")


def join_network() -> None:
    """A bridge with fixed addresses, whose machines reach the outside as the host does."""
    if not exists("network", NETWORK):
        docker("network", "create", "--subnet", SUBNET,
               "--opt", f"com.docker.network.bridge.name={BRIDGE}",
               "--opt", f"com.docker.network.driver.mtu={mtu()}", NETWORK)  # fmt: skip
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for table, chain, rule in RULES:
        known = subprocess.run(
            ["iptables", "-w", "-t", table, "-C", chain, *rule], capture_output=True, timeout=60
        )
        if known.returncode:
            run("iptables", "-w", "-t", table, "-I", chain, *rule)


def mtu() -> int:
    """The smallest packet size of the host's network cards: larger packets would be lost."""
    sizes = [
        int((card / "mtu").read_text())
        for card in Path("/sys/class/net").iterdir()
        if (card / "device").exists()
    ]
    return min([1500, *sizes])


def stop() -> None:
    number = process()
    if not number:
        return
    os.kill(number, signal.SIGTERM)
    for _ in range(240):
        if not process():
            break
        time.sleep(0.25)
    else:
        raise PartError(f"dockerd (process {number}) did not end within a minute; see {LOG}")
    for table, chain, rule in RULES:
        subprocess.run(
            ["iptables", "-w", "-t", table, "-D", chain, *rule], capture_output=True, timeout=60
        )
    # dockerd leaves it, and makes it again for the network that it finds in the cache.
    subprocess.run(
        ["ip", "link", "delete", BRIDGE, "type", "bridge"], capture_output=True, timeout=60
    )
