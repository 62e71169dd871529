"""`mlaas4hep xrootd-cache` as a plain process, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from grid.process import ENTRY, SOURCE
from parts.xrootd import Pki, XRootD
from parts.xrootd.server import USER, Program, Server, free_port
from support.waiting import until


class Cache(Server):
    """`mlaas4hep xrootd-cache` before these origins, as the user as whom XRootD runs."""

    def __init__(self, pki: Pki, *origins: XRootD, **settings: object) -> None:
        super().__init__("cache")
        self.pki, self.origins = pki, origins
        self.shared = self.folder / "x509/shared"
        self.shared.mkdir(parents=True)
        shutil.copytree(pki.ca_folder, self.shared / "certificates")
        self.log = self.folder / "cache.log"
        self.port = free_port()
        names = ",".join(f"localhost:{origin.port}" for origin in origins)
        env = {
            "XROOTD_ORIGINS": names,
            "XROOTD_CACHE_FOLDER": self.folder / "kept",
            "XROOTD_CACHE_PORT": self.port,
            "X509_FOLDER": self.folder / "x509",
            "GRID_STATUS_PORT": 0,
        } | {name.upper(): value for name, value in settings.items()}
        self.env = {f"MLAAS4HEP_{name}": str(value) for name, value in env.items()}
        self.env |= {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
        self.programs.append(Program((*ENTRY, "xrootd-cache"), self.log, "listens on", self.env))
        self.own()

    def start(self) -> None:
        super().start()
        self.address = self.log.read_text().rpartition("listens on ")[2].split()[0]

    def place(self, name: str, content: bytes) -> None:
        """Put a proxy or a token where the renewer does, at once and for the cache alone."""
        new = self.shared / "new"
        new.touch(0o600)
        new.write_bytes(content)
        if os.geteuid() == 0:
            shutil.chown(new, USER, USER)
        new.replace(self.shared / name)

    def kept(self, origin: XRootD, path: str) -> Path:
        return self.folder / f"kept/localhost_{origin.port}/{path.lstrip('/')}"

    def read(self, path: str, number: int = 0, seconds: float = 60) -> bytes:
        """A file by XRootD's own client; OSError with what that says."""
        url = f"root://localhost:{self.port + number}/{path}"
        patience = {"XRD_CONNECTIONWINDOW": "5", "XRD_CONNECTIONRETRY": "2"}
        patience |= {"XRD_REQUESTTIMEOUT": "20", "XRD_STREAMTIMEOUT": "20"}  # as a training's
        ended = subprocess.run(
            ["xrdcp", "--silent", "--force", url, "-"],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | patience,
            capture_output=True,
            timeout=seconds,
        )
        if ended.returncode:
            raise OSError(ended.stderr.decode(errors="replace"))
        return ended.stdout

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.address + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def fresh(self, path: str, number: int = 0) -> str:
        code, said = self.ask(f"/fresh?{urlencode({'door': number, 'path': path})}")
        return str(json.loads(said)["state"]) if code == 200 else str(code)

    def metric(self, start: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(start))

    def read_bytes(self, kind: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        name = "mlaas4hep_xrootd_cache_read_bytes_total{"
        mine = (line for line in lines if line.startswith(name) and f'kind="{kind}"' in line)
        return sum(float(line.split()[-1]) for line in mine)

    def until_read_bytes(self, kind: str, most: float) -> None:
        until(f"{kind} of {most}", lambda: self.read_bytes(kind) >= most, 20, 0.1)
