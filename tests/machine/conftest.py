"""A bare machine with systemd and two disks: an empty one, and one that is somebody's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "stack"))

from machine import DOCKER, NETWORK, ROOT
from playbook import NEWEST, Played, play_on

NAME, ADDRESS = "mlaas4hep-test-machine", "10.213.0.41"
IMAGE = "mlaas4hep-test/vm"


def run(*words: str | Path, check: bool = True) -> str:
    """What a command prints; a failure shows its words."""
    ended = subprocess.run(words, capture_output=True, text=True)
    if check:
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
    return (ended.stdout + ended.stderr).strip()


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


class Machine:
    """Commands on the machine, and the role played on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, check: bool = True) -> str:
        """What a shell command prints."""
        return run(DOCKER, "exec", NAME, "bash", "-c", command, check=check)

    def login(self, user: str, command: str) -> str:
        """What a command prints for somebody who comes by ssh, or why they may not come."""
        key = f"/root/{user}"
        return self(
            f"ssh -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR "
            f"{user}@127.0.0.1 {command}",
            check=False,
        )

    def play(
        self, *options: str, part: str = "main", ansible: str = NEWEST, **variables: Any
    ) -> Played:
        """Play the role as the templates do."""
        task = {"include_role": {"name": "mlaas4hep.stack.machine", "tasks_from": part}}
        book = self.folder / "play.json"
        book.write_text(json.dumps([{"hosts": "all", "tasks": [task]}]))
        return play_on(NAME, book, "-i", f"{NAME},", *options, ansible=ansible, **variables)


def disk(folder: Path, name: str, stack: ExitStack) -> str:
    """A disk of 256 MB, and how to give it to the machine as /dev/NAME."""
    file = folder / name
    with file.open("wb") as new:
        new.truncate(256 << 20)
    device = run("losetup", "--find", "--show", file)
    stack.callback(run, "losetup", "--detach", device)
    if name == "vdc":
        run("mkfs.ext4", "-q", "-L", "somebodys", device)
    return f"--device={device}:/dev/{name}"


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, as it has booted."""
    folder = tmp_path_factory.mktemp("machine")
    run(DOCKER, "rm", "-f", NAME, check=False)
    with ExitStack() as stack:
        disks = [disk(folder, name, stack) for name in ("vdb", "vdc")]
        run(DOCKER, "run", "-d", "--name", NAME, "--network", NETWORK, "--ip", ADDRESS,
            *as_other_machines(), *disks, IMAGE)  # fmt: skip
        stack.callback(run, DOCKER, "rm", "-f", "-v", NAME)
        made = Machine(folder)
        made("until [ -S /run/dbus/system_bus_socket ]; do sleep 0.2; done")
        made("systemctl is-system-running --wait")
        yield made
        made("umount /var/lib/mlaas4hep", check=False)
