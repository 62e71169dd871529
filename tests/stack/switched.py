"""Servers beside the deployed one, each the same but for one check that is off."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vm import NAME, VM

from support.door import Door
from support.machine import DOCKER
from support.waiting import until

START = """
import base64, json, sys
from mlaas4hep.access import issuer, tokens
from mlaas4hep.access.caller import Caller
from mlaas4hep.cli.main import main
from mlaas4hep.web import sign_in
{code}
sys.argv[1:] = ["server"]
main()
"""
UNVERIFIED = """
async def unverified(self, token, keys):
    return json.loads(base64.urlsafe_b64decode(token.split(b".")[1] + b"=="))
tokens.Tokens._verified = unverified
"""


@dataclass(frozen=True)
class Switch:
    """A check that is off, by settings or by what Python replaces before the server starts."""

    settings: tuple[tuple[str, str], ...] = ()
    code: str = ""


OTHER = "https://iam.test/realms/other"
SWITCHES = {
    "sign-in": Switch((("issuer", ""), ("unsafe_no_sign_in", "true"))),
    "issuer": Switch((("issuer", OTHER), ("audience", ""), ("allowed_groups", "*"))),
    "audience": Switch((("audience", ""),)),
    "groups": Switch((("allowed_groups", "*"),)),
    "expiry": Switch(code="tokens.LEEWAY_SECONDS = 10**9"),
    "signature": Switch(code=UNVERIFIED),
    "owner": Switch(code="tokens.caller_of = lambda claims: Caller('', 'anyone')"),
    "origin": Switch(code="sign_in.Admission._check_cookie = lambda *_: None"),
    "new keys": Switch(code="issuer.RENEW_SECONDS = issuer.PAUSE_SECONDS = 10**9"),
}


@contextmanager
def servers(vm: VM, *names: str) -> Iterator[dict[str, Door]]:
    """One server for each of the switches, on the deployed one's store and settings."""
    started = {name: f"switched-off-{name.replace(' ', '-')}" for name in names}
    vm.run(f"docker rm -f {' '.join(started.values())}", check=False)
    try:
        for name, container in started.items():
            start(vm, container, SWITCHES[name])
        doors = {
            name: Door(address(vm, c), where=(DOCKER, "exec", NAME)) for name, c in started.items()
        }
        for name, door in doors.items():
            ready = f"curl -s -o /dev/null {door.url}/healthz && echo ready"
            until(
                f"the server without {name}",
                lambda ready=ready: vm.run(ready, check=False) == "ready",
            )
        yield doors
    finally:
        vm.run(f"docker rm -f {' '.join(started.values())}")


def start(vm: VM, container: str, switch: Switch) -> None:
    deployed = vm.inspect("mlaas4hep-server")
    settings = {f"MLAAS4HEP_{name.upper()}": value for name, value in switch.settings}
    environment = [
        *deployed["Config"]["Env"],
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    command = ["docker", "run", "-d", "--name", container, "--network", "mlaas4hep-egress",
               "--read-only", "--tmpfs", "/tmp", "--user", deployed["Config"]["User"],
               *(word for bind in deployed["HostConfig"]["Binds"] for word in ("-v", bind)),
               *(word for pair in environment for word in ("-e", pair)),
               deployed["Config"]["Image"],
               "python", "-c", START.format(code=switch.code)]  # fmt: skip
    vm.run(shlex.join(command))


def address(vm: VM, container: str) -> str:
    """Of a container's port 8080, for the machine itself."""
    networks = json.loads(
        vm.run(f"docker inspect -f '{{{{json .NetworkSettings.Networks}}}}' {container}")
    )
    return f"http://{networks['mlaas4hep-egress']['IPAddress']}:8080"
