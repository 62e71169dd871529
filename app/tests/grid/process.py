"""`mlaas4hep x509-renewer` as a plain process, for tests."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from parts.xrootd import VO, Pki, Voms
from parts.xrootd.commands import run
from parts.xrootd.server import USER, Program, Server
from support.waiting import until

ENTRY = (sys.executable, "-m", "mlaas4hep.cli.main")
SOURCE = Path(__file__).parents[2] / "src"


class Renewer(Server):
    """`mlaas4hep x509-renewer`, as a plain process of the user as whom XRootD runs."""

    def __init__(self, pki: Pki, **settings: object) -> None:
        super().__init__("renewer")
        self.x509 = self.folder / "x509"
        self.proxy = self.x509 / "shared/proxy.pem"
        self.token = self.x509 / "shared/token"
        self.kept = self.x509 / "private/certificate.pem"
        self.log = self.folder / "renewer.log"
        # A proxy is 0 to 12 hours old; as the grid lays them out, so that it is found there.
        self.cas = self.folder / "grid-security/certificates"
        shutil.copytree(pki.ca_folder, self.cas)
        self.env = {
            "MLAAS4HEP_X509_FOLDER": str(self.x509),
            "MLAAS4HEP_CA_FOLDER": str(self.cas),
            "MLAAS4HEP_GRID_STATUS_PORT": "0",
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.env |= {f"MLAAS4HEP_{name.upper()}": str(value) for name, value in settings.items()}
        self.programs.append(Program((*ENTRY, "x509-renewer"), self.log, "listens on", self.env))
        self.own()

    def start(self) -> None:
        super().start()
        said = self.log.read_text().rpartition("listens on ")[2]
        self.address = said.split()[0]

    def put_in(self, *files: Path) -> None:
        """Import a certificate as its operator does."""
        content = b"\n".join(file.read_bytes() for file in files)
        as_user = ("--reuid", USER, "--regid", USER, "--clear-groups") if os.geteuid() == 0 else ()
        words = ("setpriv", *as_user, *ENTRY, "admin", "certificate", "-")
        run(*words, input=content, env=os.environ | self.env, cwd=self.folder)

    def ask(self, path: str = "/readyz") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.address + path, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def readiness(self) -> dict[str, Any]:
        return json.loads(self.ask()[1])

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).split()[-1])

    def until_ready(self) -> None:
        until("ready", lambda: self.ask()[0] == 200, 30, 0.1)

    def until_renewed(self, before: bytes) -> None:
        def renewed() -> bool:
            return self.proxy.exists() and self.proxy.read_bytes() != before

        until("another proxy", renewed, 40, 0.1)

    def place(self, proxy: Path) -> None:
        """Let this be the proxy that is there."""
        new = self.proxy.with_name("new")
        new.touch(0o600)
        new.write_bytes(proxy.read_bytes())
        if os.geteuid() == 0:
            shutil.chown(new, USER, USER)
        new.replace(self.proxy)


def membership(pki: Pki, vo: Voms) -> dict[str, str]:
    """The settings by which the VO is known."""
    of_hosts = f"{pki.subject.rpartition('/')[0]}/OU=hosts"
    lsc = {"voms.test": [f"{of_hosts}/CN=voms.test", pki.subject]}
    return {"voms": VO, "vomses": vo.vomses, "voms_lsc": json.dumps(lsc)}
