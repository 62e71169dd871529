"""The stack with sign-in, as its users reach it: its doors, their tokens, what alice has there."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from vm import ADDRESS

from support.door import Door, leads
from support.machine import ROOT, authorities, neighbour
from support.tokens import Issuer
from support.user import FOLDER, Files, Session, variables

DOMAIN, ISSUER = "mlaas4hep.test", "iam.test"
ISSUER_ADDRESS = "10.213.0.3"
ADDRESSES = {DOMAIN: ADDRESS, ISSUER: ISSUER_ADDRESS}


class Stack:
    """Names and addresses, and who is who; `home` is the folder of alice's own files."""

    url = f"https://{DOMAIN}"
    address = ADDRESS
    issuer = f"https://{ISSUER}/realms/mlaas4hep"
    issuer_address = ISSUER_ADDRESS
    folder = "alice_higgs"

    def __init__(self, files: Files, home: Path) -> None:
        self.files = files
        self.home = home
        self.ca = authorities()
        reach = ("--cacert", str(self.ca), *leads(**ADDRESSES))
        self.site = Door(self.url, reach)
        self.old_server = Door(f"{self.url}:4433", reach)
        self.old_tfaas = Door(f"{self.url}:8081", reach)
        self.keycloak = Issuer(Door(f"https://{ISSUER}", reach))

    @cached_property
    def session(self) -> Session:
        """What alice's script did; her folder, job and model stay."""
        environment = {
            "SERVER": self.url,
            "TFAAS": f"{self.url}/tfaas",
            "TOKEN": self.token("alice"),
            "KEEP": "1",
        }
        with neighbour("-v", f"{self.files.folder}:{FOLDER}") as computer:
            return Session.of(["exec", *variables(environment), computer.name], self.folder)

    @property
    def job(self) -> str:
        return self.session.job

    def token(self, who: str) -> str:
        """Of alice and the robot as `mlaas4hep token` prints it; of others in one request."""
        if who == "alice":
            return self.command("--client-id", "mlaas4hep-cli")
        if who == "robot":
            return self.command("--client-id", "robot", MLAAS4HEP_CLIENT_SECRET="robot-secret")
        return self.keycloak.token(who)

    def command(self, *options: str, **environment: str) -> str:
        """What `mlaas4hep token` prints here; alice enters its code in a browser when it asks."""
        hosts = self.home / "hosts"
        hosts.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{to} {name}\n" for name, to in ADDRESSES.items())
        )
        # The names of the tests' network are known to this command alone.
        named = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount --bind {hosts} /etc/hosts && exec "$@"',
            "sh",
        ]
        words = [*named, ROOT / ".venv/bin/mlaas4hep", "token", "--issuer", self.issuer, *options]
        mine = {
            "XDG_STATE_HOME": str(self.home),
            "SSL_CERT_FILE": str(self.ca),
            "NO_PROXY": "*",
        } | environment
        with subprocess.Popen(
            words, env=os.environ | mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asked:
            said = []
            for line in asked.stderr or ():
                said.append(line)
                if line.startswith("or open "):
                    person = [sys.executable, ROOT / "tests/support/person.py", line.split()[-1]]
                    words = [*named, *person, "alice", "alice-pw"]
                    subprocess.run(words, env=os.environ | mine, check=True, timeout=120)
            token = asked.stdout.read().strip() if asked.stdout else ""
        assert asked.returncode == 0, "".join(said)
        return token
