"""The machines of the cloud: containers with systemd, loop devices as volumes, nft as firewall."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from support.disks import Disk, detach_all
from support.machine import NETWORK, SECONDS, Machine, docker, run

IMAGE = "mlaas4hep-test/node"
# Where users and the IM reach a machine. To the IM only addresses outside the private ranges are
# public; this range is for documents, so nobody else has it.
PUBLIC = "mlaas4hep-test-public"
PUBLIC_SUBNET = "198.51.100.0/24"
GATEWAY = "198.51.100.1"  # this computer there
# What every container of the cloud bears, so that all of them are found again.
LABEL = "org.mlaas4hep.test.cloud"


@dataclass(frozen=True)
class Rule:
    """What a security group lets in."""

    protocol: str
    first: int | None
    last: int | None
    remote: str | None

    def nft(self) -> str:
        """The same in nft's words."""
        source = f"ip saddr {self.remote} " if self.remote else ""
        ports = f"dport {self.first}-{self.last}" if self.first else "dport 0-65535"
        return f"{source}{self.protocol} {ports} accept"


# A confined computer can't give SYS_RESOURCE, so a machine has all capabilities but this one.
OPTIONS = (
    "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--cgroupns", "host",
    *(word for name in ("seccomp", "apparmor", "systempaths")
      for word in ("--security-opt", f"{name}=unconfined")),
    *(word for path in ("/run", "/run/lock", "/tmp:exec") for word in ("--tmpfs", path)),
    "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", "/var/lib/docker",
)  # fmt: skip

# Before the machine's own rules and those of its container engine: ports are those that were asked
# for, whoever serves them in the end.
FIREWALL = """
table inet cloud
delete table inet cloud
table inet cloud {
  chain arriving {
    type filter hook prerouting priority mangle - 5; policy accept;
    iifname != "eth*" accept
    ct state established,related accept
    %s
    counter drop
  }
}
"""


class Server(Machine):
    """One server of the cloud, with its volumes."""

    def __init__(self, name: str, address: str, volumes: list[Disk]) -> None:
        super().__init__(name)
        self.address = address
        self.volumes = volumes

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.name))[0]
        return found

    def configure(self, cloud_config: dict[str, Any]) -> None:
        """What cloud-init does with the accounts that it is told to make."""
        for account in cloud_config["users"]:
            name, home = account["name"], account["homedir"]
            self.run(
                "set -e\n"
                f"useradd --create-home --home-dir {home} --shell /bin/bash {name}\n"
                f"echo '{name} {account['sudo']}' >/etc/sudoers.d/90-cloud-init-users\n"
                f"install -d -m 0700 -o {name} -g {name} {home}/.ssh\n"
                f"cat >{home}/.ssh/authorized_keys\n"
                f"chown {name}: {home}/.ssh/authorized_keys\n"
                f"chmod 0600 {home}/.ssh/authorized_keys",
                input="\n".join(account["ssh-authorized-keys"]) + "\n",
            )

    def enforce(self, rules: Iterable[Rule]) -> None:
        """Let in what the rules name, and nothing else."""
        lines = "\n    ".join(rule.nft() for rule in rules)
        process = self.inspect()["State"]["Pid"]
        run("nsenter", f"--net=/proc/{process}/ns/net", "nft", "-f", "-", input=FIREWALL % lines)

    def connect(self, address: str) -> None:
        docker("network", "connect", "--ip", address, PUBLIC, self.name)

    def disconnect(self) -> None:
        docker("network", "disconnect", PUBLIC, self.name)

    def booted(self) -> None:
        """Wait for it; a confined computer can't give its machines all that systemd asks for."""
        super().booted("running", "degraded")

    def destroy(self) -> None:
        docker("rm", "--force", "--volumes", self.name)
        for volume in self.volumes:
            volume.destroy()


class Machines:
    """Makes machines; `subnets` are those of the private and the public network."""

    subnets: ClassVar = {"private": "10.213.0.0/24", "public": PUBLIC_SUBNET}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = count(100)
        self.public_numbers = count(10)
        self.going: list[Thread] = []
        self.forget()
        docker("network", "create", "--subnet", PUBLIC_SUBNET, "--gateway", GATEWAY, PUBLIC)

    def forget(self) -> None:
        """Remove what there is, be it of a run that was killed."""
        for thread in self.going:
            thread.join(SECONDS)
        for name in docker("ps", "-aq", "--filter", f"label={LABEL}").split():
            docker("rm", "--force", "--volumes", name)
        detach_all(self.folder)
        if PUBLIC in docker("network", "ls", "--format", "{{.Name}}").split():
            docker("network", "rm", PUBLIC)

    def discard(self, server: Server) -> None:
        """Begin to destroy a machine; a cloud answers before it is gone, and the IM waits 60 s."""
        self.going.append(Thread(target=server.destroy))
        self.going[-1].start()

    def public_address(self) -> str:
        """Another address of the public network."""
        return f"198.51.100.{next(self.public_numbers)}"

    def boot(
        self, name: str, hostname: str, gigabytes: list[int], cloud_config: dict[str, Any]
    ) -> Server:
        """A machine that runs, with these volumes as vdb, vdc…, in the private network."""
        address = f"10.213.0.{next(self.numbers)}"
        volumes = [
            Disk.make(self.folder / f"{name}-{number}.img", size * 10**9)
            for number, size in enumerate(gigabytes)
        ]
        devices = [
            word
            for volume, letter in zip(volumes, "bcdef", strict=False)
            for word in ("--device", f"{volume.device}:/dev/vd{letter}")
        ]
        docker(
            "run", "--detach", "--name", f"mlaas4hep-test-{name}", "--hostname", hostname,
            "--label", LABEL, "--network", NETWORK, "--ip", address, *devices, *OPTIONS, IMAGE,
        )  # fmt: skip
        server = Server(f"mlaas4hep-test-{name}", address, volumes)
        server.booted()
        server.configure(cloud_config)
        return server
