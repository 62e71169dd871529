"""The servers that sites run, as small as can be: XRootD with X.509 or tokens, a redirector."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from pathlib import Path

from .pki import AUDIENCE, ISSUER, VO, Pki
from .server import Program, Server, configuration, free_port

STARTED = "initialization completed"


class XRootD(Server):
    """A server of root://; ``https`` is the same folder by HTTPS, where it has that."""

    https: str = ""

    def __init__(
        self, name: str, *templates: str, host: str = "localhost", **values: object
    ) -> None:
        super().__init__(name)
        self.host = host
        self.port = free_port()
        self.data = self.folder / "data/store"
        self.data.mkdir(parents=True)
        self.url = f"root://{host}:{self.port}//store"
        self.configuration = self.folder / "server.cfg"
        values |= {"port": self.port, "folder": self.folder, "data": self.data.parent}
        self.configuration.write_text(configuration("base", *templates, **values))
        self.log = self.folder / "xrootd.log"
        self.programs.append(self._program("xrootd", STARTED))

    def _program(self, name: str, ready: str) -> Program:
        env = {
            "X509_CERT_DIR": str(self.folder / "certificates"),
            "X509_VOMS_DIR": str(self.folder / "vomsdir"),
            "XRDHOST": self.host,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        words = (name, "-I", "v4", "-c", self.configuration)
        return Program(words, self.folder / f"{name}.log", ready, env)

    def identify(self, pki: Pki) -> None:
        """Give it a host certificate, and the authorities."""
        certificate, key = pki.host(self.host)
        shutil.copy(certificate, self.folder / "host.pem")
        shutil.copy(key, self.folder / "host.key")
        shutil.copytree(pki.ca_folder, self.folder / "certificates")
        shutil.copytree(pki.vomsdir, self.folder / "vomsdir")

    def cluster(self, ready: str) -> None:
        """Run the daemon by which redirectors and their servers talk."""
        self.programs.append(self._program("cmsd", ready))


def plain_origin() -> XRootD:
    """Without authentication."""
    server = XRootD("plain")
    server.own()
    return server


def gsi_origin(
    pki: Pki,
    *,
    users: tuple[str, ...] = ("alice",),
    with_https: bool = False,
    host: str = "localhost",
    network: Path | None = None,
) -> XRootD:
    """With X.509: only these users may read; with HTTPS, by that, too (``https``).

    It may be another ``host``, in the ``network`` namespace of a container of that name.
    """
    port = free_port()
    more = ("https", "gridmap") if with_https else ()
    server = XRootD("gsi", "gsi", *more, host=host, https_port=port)
    for program in server.programs:
        program.network = network
    server.https = f"https://localhost:{port}/store" if with_https else ""
    _accept(server, pki, users)
    server.own()
    return server


def vo_origin(pki: Pki, *, vo: str = VO) -> XRootD:
    """With X.509, by root:// and HTTPS (``https``): all members of the VO may read, nobody else."""
    port = free_port()
    server = XRootD("vo", "vo", "https", https_port=port)
    server.https = f"https://localhost:{port}/store"
    server.identify(pki)
    (server.folder / "authdb").write_text(f"g /{vo} /store rl\n")
    server.own()
    return server


def proxy_server(pki: Pki, origin: XRootD, credential: Path) -> XRootD:
    """Reads from ``origin`` with the X.509 proxy that ``credential`` is when it logs in there."""
    server = XRootD("pss", "pss", origin=f"localhost:{origin.port}")
    shutil.copytree(pki.ca_folder, server.folder / "certificates")
    server.programs[0].env |= {
        "X509_USER_PROXY": str(credential),
        "XRD_CONNECTIONWINDOW": "5",
        "XRD_CONNECTIONRETRY": "2",
    }
    server.own()
    return server


def _accept(server: XRootD, pki: Pki, users: tuple[str, ...]) -> None:
    server.identify(pki)
    (server.folder / "grid-mapfile").write_text(
        "".join(f'"{pki.subject_of(user)}" {user}\n' for user in users)
    )
    (server.folder / "authdb").write_text("".join(f"u {user} /store rl\n" for user in users))


def token_origin(pki: Pki, *, issuer: str = ISSUER, audience: str = AUDIENCE) -> XRootD:
    """With bearer tokens of ``pki``, by root:// and by HTTPS (``https``)."""
    port = free_port()
    server = XRootD("token", "token", https_port=port)
    server.https = f"https://localhost:{port}/store"
    server.identify(pki)
    (server.folder / "scitokens.cfg").write_text(
        configuration("scitokens", audience=audience, issuer=issuer)
    )
    _remember_key(server.folder / "cache/scitokens", issuer, pki.jwk())
    server.own()
    return server


def _remember_key(folder: Path, issuer: str, key: dict[str, str]) -> None:
    """Let libSciTokens find the issuer's key in its cache, so that no issuer needs to run."""
    folder.mkdir(parents=True)
    day, now = 86400, int(time.time())
    kept = {"expires": now + 4 * day, "next_update": now + day, "jwks": {"keys": [key]}}
    database = sqlite3.connect(folder / "scitokens_cpp.sqllite")
    with database:
        columns = "issuer text UNIQUE PRIMARY KEY NOT NULL, keys text NOT NULL"
        database.execute(f"CREATE TABLE keycache ({columns})")
        database.execute("INSERT INTO keycache VALUES (?, ?)", (issuer, json.dumps(kept)))
    database.close()


class Redirector(XRootD):
    """A redirector and the servers behind it (``origins``), which are started and stopped with it.

    Clients ask ``url``; a file is put on one of the origins, or on several.
    """

    def __init__(self, pki: Pki, users: tuple[str, ...]) -> None:
        port = free_port()
        super().__init__("redirector", "gsi", "redirector", manager_port=port)
        _accept(self, pki, users)
        self.cluster(STARTED)
        self.own()
        self.origins: list[XRootD] = []
        for number in (1, 2):
            origin = XRootD(f"origin{number}", "gsi", "member", manager_port=port)
            _accept(origin, pki, users)
            origin.cluster("Logged into localhost")
            origin.own()
            self.origins.append(origin)

    def start(self) -> None:
        super().start()
        for origin in self.origins:
            origin.start()
        # Before, it lets clients wait for 10 s.
        self.programs[0].wait("Manager localhost resumed")

    def put(self, file: Path, name: str = "") -> str:
        """Copy a file to all its origins; its URL."""
        for origin in self.origins:
            origin.put(file, name)
        return f"{self.url}/{name or file.name}"

    def close(self) -> None:
        for origin in self.origins:
            origin.close()
        super().close()


def redirector(pki: Pki, *, users: tuple[str, ...] = ("alice",)) -> Redirector:
    """With X.509, in front of two origins with X.509."""
    return Redirector(pki, users)
