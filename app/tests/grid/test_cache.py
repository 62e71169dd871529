"""The cache as a process, before real origins; readers are XRootD's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from grid.process import ENTRY, SOURCE
from mlaas4hep.grid.cache import AUDIENCE, ISSUER
from parts.xrootd import Pki, XRootD, gsi_origin
from parts.xrootd.server import Program, Server, free_port
from support.waiting import until

pytestmark = pytest.mark.grid


class Cache(Server):
    """`mlaas4hep xrootd-cache` with the proxy of a user who may read at the origins."""

    def __init__(self, pki: Pki, *origins: XRootD, **settings: object) -> None:
        super().__init__("cache")
        self.port, self.log = free_port(), self.folder / "cache.log"
        self.origins = [f"localhost:{origin.port}" for origin in origins]
        self.state = self.folder / "state"
        shared = self.folder / "x509/shared"
        shared.mkdir(parents=True)
        shutil.copytree(pki.ca_folder, shared / "certificates")
        shutil.copy(pki.proxy(), shared / "proxy.pem")
        env = {
            "MLAAS4HEP_XROOTD_ORIGINS": ",".join(self.origins),
            "MLAAS4HEP_XROOTD_CACHE_FOLDER": self.state,
            "MLAAS4HEP_XROOTD_CACHE_PORT": self.port,
            "MLAAS4HEP_X509_FOLDER": shared.parent,
            "MLAAS4HEP_GRID_STATUS_PORT": "0",
            "PYTHONPATH": SOURCE,
        }
        env |= {f"MLAAS4HEP_{name.upper()}": value for name, value in settings.items()}
        words = {name: str(value) for name, value in env.items()}
        self.programs.append(Program((*ENTRY, "xrootd-cache"), self.log, "listens on", words))
        self.own()

    def start(self) -> None:
        super().start()
        self.address = self.log.read_text().rpartition("listens on ")[2].split()[0]

    def read(self, path: str, to: Path, origin: int = 0, token: str = "") -> str:
        """Copy a file through the cache; what the client says against it."""
        url = f"root://localhost:{self.port + origin}/{path}"
        authz = f"?authz=Bearer%20{token}" if token else ""
        ended = subprocess.run(
            ["xrdcp", "-f", "-s", url + authz, to],
            env=os.environ | {"XRD_CONNECTIONWINDOW": "5", "XRD_CONNECTIONRETRY": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ended.stderr if ended.returncode else ""

    def ask(self, path: str, token: str = "", **asked: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.address}{path}?{urllib.parse.urlencode(asked)}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def fresh(self, path: str, origin: int = 0) -> str:
        status, said = self.ask("/fresh", origin=self.origins[origin], path=path)
        assert status == 200, said
        found: dict[str, Any] = json.loads(said)
        return found["state"]

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture
def origins(pki: Pki) -> Iterator[tuple[XRootD, XRootD]]:
    with gsi_origin(pki) as one, gsi_origin(pki) as two:
        yield one, two


@pytest.fixture
def start(pki: Pki) -> Iterator[Callable[..., Cache]]:
    started: list[Cache] = []

    def starter(*origins: XRootD, **settings: object) -> Cache:
        started.append(Cache(pki, *origins, **settings))
        started[-1].start()
        return started[-1]

    yield starter
    for cache in started:
        cache.close()


def replace(origin: XRootD, name: str, content: bytes) -> None:
    """As sites do it: another file takes the place."""
    new = origin.data / "new"
    new.write_bytes(content)
    shutil.chown(new, "xrootd", "xrootd")
    new.rename(origin.data / name)


def test_files_are_read_once_and_kept(
    origins: tuple[XRootD, XRootD], start: Callable[..., Cache], tmp_path: Path
) -> None:
    one, two = origins
    contents = [os.urandom(3_000_000), os.urandom(2_000_000)]
    for origin, content in zip(origins, contents, strict=True):
        (tmp_path / "a.root").write_bytes(content)
        origin.put(tmp_path / "a.root")
    cache = start(one, two)
    assert cache.ask("/healthz")[0] == 200
    assert cache.ask("/readyz")[0] == 200
    to = tmp_path / "read"
    for number, content in enumerate(contents):  # of the same path, each its own
        assert cache.read("/store/a.root", to, number) == ""
        assert to.read_bytes() == content
    until("it is counted", lambda: cache.metric("mlaas4hep_xrootd_cache_files_closed_total") == 2)
    read = "mlaas4hep_xrootd_cache_read_bytes_total"
    assert cache.metric(f'{read}{{kind="miss"') == 0
    one.kill()
    assert cache.read("/store/a.root", to) == ""
    assert to.read_bytes() == contents[0]
    assert "connection refused" in cache.read("/store/b.root", to)
    status, said = cache.ask("/readyz")
    assert (status, f"{cache.origins[0]} is away" in said) == (503, True)
    assert cache.ask("/healthz")[0] == 200
    assert cache.fresh("/store/a.root") == "unknown"
    for path in ("/etc/passwd", "/other/a.root", "/store/../etc/passwd"):
        assert "[3010]" in cache.read(path, to)
        assert cache.ask("/fresh", origin=cache.origins[0], path=path)[0] == 404


def test_a_file_that_was_replaced_is_read_anew(
    origins: tuple[XRootD, XRootD], start: Callable[..., Cache], tmp_path: Path
) -> None:
    origin, to = origins[0], tmp_path / "read"
    old, new, newest = (os.urandom(1_000_000) for _ in range(3))  # of one size
    (tmp_path / "a.root").write_bytes(old)
    origin.put(tmp_path / "a.root")
    cache = start(origin)
    assert cache.fresh("/store/a.root") == "same"
    assert cache.read("/store/a.root", to) == ""
    time.sleep(1)  # times have seconds
    replace(origin, "a.root", new)
    assert cache.read("/store/a.root", to) == ""
    assert to.read_bytes() == old  # who doesn't ask
    assert cache.fresh("/store/a.root") == "evicted"
    assert cache.fresh("/store/a.root") == "same"
    assert cache.read("/store/a.root", to) == ""
    assert to.read_bytes() == new
    time.sleep(1)
    replace(origin, "a.root", newest)
    url = f"root://localhost:{cache.port}//store/a.root"
    with subprocess.Popen(
        [sys.executable, "-c", READER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "opened\n"
        assert cache.fresh("/store/a.root") == "in use"
        reader.communicate("\n", timeout=60)
    until("it is closed", lambda: cache.fresh("/store/a.root") == "evicted", 60)
    assert cache.read("/store/a.root", to) == ""
    assert to.read_bytes() == newest
    assert cache.fresh("/store/none.root") == "missing"


READER = """
import sys
from XRootD import client
with client.File() as file:
    assert file.open(sys.argv[1])[0].ok
    assert file.read(0, 10)[0].ok
    print("opened", flush=True)
    sys.stdin.readline()
"""


def test_who_may_read_what(
    origins: tuple[XRootD, XRootD], start: Callable[..., Cache], tmp_path: Path
) -> None:
    origin, to = origins[0], tmp_path / "read"
    (tmp_path / "a.root").write_bytes(b"data")
    for name in ("a/a.root", "ab/a.root"):
        origin.put(tmp_path / "a.root", name)
    key = ECKey.generate_key("P-256")
    public = origin.data / "public.pem"  # which the cache's user can read
    public.write_bytes(key.as_pem(private=False))
    cache = start(origin, data_token_public_key=public)

    def token(scope: str, life: float = 600, signer: ECKey = key) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna_1", "ver": "scitoken:2.0"}
        times = {"iat": now - 900, "nbf": now - 900, "exp": now + int(life)}
        header = {"alg": "ES256", "kid": key.thumbprint()}
        return jwt.encode(header, claims | times | {"scope": scope}, signer)

    good = token("storage.read:/store/a/")
    assert cache.read("/store/a/a.root", to, token=good) == ""
    assert to.read_bytes() == b"data"
    path = {"origin": cache.origins[0], "path": "/store/a/a.root"}
    assert cache.ask("/fresh", good, **path)[0] == 200
    other = ECKey.generate_key("P-256")
    for wrong in (
        *("", token("storage.read:/store/ab/"), token("storage.modify:/store/a/")),
        *(token("storage.read:/store/a/", -60), token("storage.read:/store/a/", 600, other)),
    ):
        assert "[3010]" in cache.read("/store/a/a.root", to, token=wrong)
        assert cache.ask("/fresh", wrong, **path)[0] == 403
    assert "[3010]" in cache.read("/store/ab/a.root", to, token=good)


def test_it_ends_with_its_servers_and_they_with_it(
    origins: tuple[XRootD, XRootD], start: Callable[..., Cache]
) -> None:
    cache = start(*origins)
    found = subprocess.run(
        ["pgrep", "-f", f"{cache.state}.*xrootd.cfg"], capture_output=True, text=True, timeout=20
    ).stdout.split()
    assert len(found) == 2
    os.kill(int(found[0]), 9)
    process = cache.programs[0].process
    assert process
    process.wait(30)
    until("both have ended", lambda: not Path(f"/proc/{found[1]}").exists(), 30)
