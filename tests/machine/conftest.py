"""A bare machine with systemd and two disks: an empty one, and one that is somebody's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.disks import Disk
from support.machine import NETWORK, ROOT, Machine, docker, run
from support.playbook import NEWEST, Played, play_on

NAME, ADDRESS = "mlaas4hep-test-machine", "10.213.0.41"
IMAGE = "mlaas4hep-test/vm"


def as_other_machines() -> list[str]:
    """The options of `docker run` that make the machine of the scenarios."""
    shared = yaml.safe_load((ROOT / "molecule/shared/base.yml").read_text())["platforms"][0]
    return [
        f"--cgroupns={shared['cgroupns_mode']}",
        "-v=/sys/fs/cgroup:/sys/fs/cgroup:rw",
        *(f"--security-opt={option}" for option in shared["security_opts"]),
        *(f"--tmpfs={option}" for option in shared["tmpfs"]),
        *(f"--cap-add={name}" for name in shared["capabilities"]),
    ]


class Prepared(Machine):
    """The machine, and the role played on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(NAME)
        self.folder = folder

    def signs(self, algorithm: str, user: str = "cloudadm", to: str = ADDRESS) -> int:
        """How ssh ends that signs with this algorithm: 0 or, when refused, 255."""
        said = self.run(
            f"ssh -i /root/rsa -o PubkeyAcceptedAlgorithms={algorithm} -o BatchMode=yes "
            f"-o StrictHostKeyChecking=no {user}@{to} true 2>/dev/null; echo $?"
        )
        return int(said)

    def login(self, user: str, command: str) -> str:
        """What a command prints for somebody who comes by ssh, or why they may not come."""
        key = f"/root/{user}"
        return self.run(
            f"ssh -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR "
            f"{user}@127.0.0.1 {command}",
            check=False,
        )

    def play(
        self,
        *options: str,
        part: str = "main",
        ansible: str = NEWEST,
        session: str = "",
        **variables: Any,
    ) -> Played:
        """Play the role as the templates do, in a session that came by ssh from an address."""
        task = {"include_role": {"name": "mlaas4hep.stack.machine", "tasks_from": part}}
        book = self.folder / "play.json"
        come = {"SSH_CONNECTION": f"{session} 40000 {ADDRESS} 22"} if session else {}
        book.write_text(json.dumps([{"hosts": "all", "environment": come, "tasks": [task]}]))
        return play_on(NAME, book, "-i", f"{NAME},", *options, ansible=ansible, **variables)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The machine, as it has booted; vdb is an empty disk, vdc somebody's."""
    folder = tmp_path_factory.mktemp("machine")
    for left in docker("ps", "-aq", "--filter", f"name=^{NAME}$").split():
        docker("rm", "-f", left)
    with ExitStack() as stack:
        disks = [Disk.make(folder / name, 256 << 20) for name in ("vdb", "vdc")]
        for disk in disks:
            stack.callback(disk.destroy)
        run("mkfs.ext4", "-q", "-L", "somebodys", disks[1].device)
        devices = [f"--device={disk.device}:/dev/{disk.file.name}" for disk in disks]
        docker("run", "-d", "--name", NAME, "--network", NETWORK, "--ip", ADDRESS,
               *as_other_machines(), *devices, IMAGE)  # fmt: skip
        stack.callback(docker, "rm", "-f", "-v", NAME)
        made = Prepared(folder)
        made.booted()
        yield made
        made.run("umount /var/lib/mlaas4hep", check=False)
