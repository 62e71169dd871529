"""A cloud, an IM that makes machines there, and a release that the machines install."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from cloud import PASSWORD, USER, Cloud
from deployment import release
from machines import Machines
from manager import KEYCLOAK, manager
from openstack import application

from dodas import Dodas
from support.door import Door, leads
from support.machine import ROOT, authorities
from support.ports import free_port
from support.tokens import Issuer
from support.waiting import until

VERSION = re.search(r"^version: (\S+)$", (ROOT / "galaxy.yml").read_text(), re.MULTILINE)[1]
NEXT = "99.0.0"
# This computer, as the machines of the tests' network see it.
HERE = "10.213.0.1"


@pytest.fixture(scope="session")
def folder() -> Path:
    """What the parts of these tests write; kept until the next run."""
    kept = ROOT / "build/dodas"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    return kept


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """Keycloak, seen from this computer."""
    return Issuer(
        Door("https://iam.test", ("--cacert", str(authorities()), *leads(**{"iam.test": KEYCLOAK})))
    )


@pytest.fixture(scope="session")
def cloud(folder: Path, issuer: Issuer) -> Iterator[Cloud]:
    """A cloud with nothing in it; what it refused during the tests fails them."""

    def known(token: str) -> bool:
        userinfo = "/realms/mlaas4hep/protocol/openid-connect/userinfo"
        return issuer.door.ask(userinfo, token=token).status == 200

    port = free_port()
    made = Cloud(f"http://127.0.0.1:{port}", Machines(folder / "disks"), known)
    server = uvicorn.Server(
        uvicorn.Config(application(made), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    until("the cloud listens", lambda: server.started, 30)
    yield made
    server.should_exit = True
    thread.join()
    (folder / "openstack.log").write_text("\n".join(made.log))
    made.machines.forget()
    assert made.refused == []


@pytest.fixture(scope="session")
def im(folder: Path, cloud: Cloud) -> Iterator[str]:
    """The address of an IM."""
    with manager(folder) as address:
        yield address


@pytest.fixture(scope="session")
def dodas(cloud: Cloud, im: str) -> Dodas:
    """The command of an operator who has a password at the cloud."""
    return Dodas(
        host=im,
        cloud={
            "id": "os", "type": "OpenStack", "username": USER, "password": PASSWORD,
            "host": f"{cloud.url}/", "tenant": "mlaas", "auth_version": "3.x_password",
            "domain": "default",
        },
        im={"username": "operator", "password": "operator-im-pw"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def releases() -> Iterator[dict[str, Path]]:
    """The folders of this release and of a later one, at the address that their files name."""
    with served(ROOT / "build/release") as url:
        yield {version: release(version, url) for version in (VERSION, NEXT)}


@contextmanager
def served(files: Path) -> Iterator[str]:
    """The address at which the IM and the machines get these files."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(files))
    with http.server.ThreadingHTTPServer((HERE, 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://{HERE}:{server.server_port}"
        finally:
            server.shutdown()
