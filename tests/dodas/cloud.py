"""All that there is in the cloud, and what was asked of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from machines import Machines, Rule, Server

if TYPE_CHECKING:
    from nova import Server

PROJECT, PROJECT_NAME = "f0e1d2c3b4a5968778695a4b3c2d1e0f", "mlaas"
USER, PASSWORD = "operator", "operator-pw"
IMAGE = "11111111-2222-4333-8444-555555555555"
FLAVORS = {
    "1": {"name": "small", "vcpus": 1, "ram": 2048, "disk": 20},
    "2": {"name": "medium", "vcpus": 4, "ram": 8192, "disk": 20},
    "3": {"name": "large", "vcpus": 8, "ram": 16384, "disk": 40},
}
PRIVATE, PUBLIC = "private", "public"
NETWORKS = {PRIVATE: "net-private", PUBLIC: "net-public"}


@dataclass
class Instance:
    """A server: what was asked for, and the machine."""

    id: str
    asked: Server
    machine: Server
    groups: list[str]
    volumes: list[str]

    @property
    def port(self) -> str:
        """Its only port has its name."""
        return f"port-{self.id}"

    @property
    def user_data(self) -> dict[str, Any]:
        return cloud_config(self.asked.user_data)


def cloud_config(user_data: str) -> dict[str, Any]:
    text = base64.b64decode(user_data).decode()
    assert text.startswith("#cloud-config\n"), text[:80]
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass
class Cloud:
    """`known_to_issuer` says whether the issuer of the users' tokens signed this one."""

    url: str
    machines: Machines
    known_to_issuer: Callable[[str], bool]
    tokens: dict[str, float] = field(default_factory=dict)
    """Of Keystone, with the seconds since 1970 until which each counts."""
    servers: dict[str, Instance] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def knows(self, token: str | None) -> bool:
        """Whether this token of Keystone's counts now."""
        return self.tokens.get(token or "", 0) > time.time()

    def left(self) -> list[str]:
        """What somebody would still pay for."""
        kinds = (self.servers, self.groups, self.rules, self.addresses, self.volumes)
        return [name for kind in kinds for name in kind]

    def rules_of(self, names: Iterable[str]) -> list[Rule]:
        """What these security groups let in from outside."""
        ids = {group["id"] for group in self.groups.values() if group["name"] in set(names)}
        keys = ("protocol", "port_range_min", "port_range_max", "remote_ip_prefix")
        return [
            Rule(*(rule[key] for key in keys))
            for rule in self.rules.values()
            if rule["security_group_id"] in ids and rule["remote_group_id"] is None
        ]

    def enforce(self, group: str) -> None:
        """The rules of every server that has this group."""
        for server in self.servers.values():
            if group in server.groups:
                server.machine.enforce(self.rules_of(server.groups))

    def server_of(self, port: str) -> Instance:
        """The server that has this port."""
        return next(server for server in self.servers.values() if server.port == port)
