"""From `dodas create` to a prediction by a user, and on to `dodas destroy`: tests in this order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import served
from deployment import Deployment, release, template, usual
from dodas import Dodas
from machine import ROOT, neighbour, open_ports
from machines import GATEWAY
from openstack import FLAVORS, IMAGE, Cloud
from user import FOLDER, Files, Session, area_under_curve, example, variables

VERSION = re.search(r"^version: (\S+)$", (ROOT / "galaxy.yml").read_text(), re.MULTILINE)[1]
NEXT = "99.0.0"


@pytest.fixture(scope="module")
def releases() -> Iterator[dict[str, Path]]:
    """This release and a later one, at the address that their files name."""
    with served(ROOT / "build/release") as url:
        yield {version: release(version, url) for version in (VERSION, NEXT)}


@pytest.fixture(scope="module")
def inputs() -> dict[str, str]:
    return usual(flavor="medium", admins_cidr=f"{GATEWAY}/32")


@pytest.fixture(scope="module")
def made(dodas: Dodas, releases: dict[str, Path], inputs: dict[str, str], folder: Path) -> Deployment:
    """What the operator created, when it is configured."""
    deployment = Deployment(dodas, dodas.create(template(releases[VERSION], **inputs)), folder)
    deployment.configured()
    return deployment


def test_openstack_was_asked_for_one_machine(made: Deployment, cloud: Cloud) -> None:
    (server,) = cloud.servers.values()
    assert server.asked.imageRef == IMAGE
    assert FLAVORS[server.asked.flavorRef]["name"] == "medium"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a user has to train with."""
    return example(tmp_path_factory.mktemp("example"))
