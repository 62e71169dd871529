"""A release: complete, of one version, and as its checksums say."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import release
import yaml

from conftest import MADE, URL

VERSION = "9.8.7"
DIGEST = f"registry.example.org/service@sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release; that an engine has no image of this version is what it says."""
    folder = tmp_path_factory.mktemp("release") / VERSION
    missing = release.release(VERSION, f"{URL}/", folder)
    assert missing == [f"mlaas4hep/{name}:{VERSION}" for name in ("service", "tfaas", "job")]
    return folder


def test_it_has_every_file(made: Path) -> None:
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert found == {*MADE, f"mlaas4hep-stack-{VERSION}.tar.gz", "SHA256SUMS"}


def test_the_checksums_are_right_and_complete(made: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
                   cwd=made, check=True, timeout=300)  # fmt: skip
    files = [path for path in made.rglob("*") if path.is_file()]
    assert len((made / "SHA256SUMS").read_text().splitlines()) == len(files) - 1


def test_the_collection_has_the_version_everywhere(made: Path) -> None:
    def text(name: str) -> str:
        member = archive.extractfile(name)
        assert member
        return member.read().decode()

    with tarfile.open(made / f"mlaas4hep-stack-{VERSION}.tar.gz") as archive:
        assert json.loads(text("MANIFEST.json"))["collection_info"]["version"] == VERSION
        assert f"mlaas4hep_version: {VERSION}" in text("roles/common/defaults/main.yml")
        assert f'"{VERSION}"' in text("app/src/mlaas4hep/__init__.py")
        assert f'version = "{VERSION}"' in text("app/pyproject.toml")


def test_images_of_a_registry_are_pulled(tmp_path: Path) -> None:
    given = {f"{name}_image": DIGEST for name in release.build.USUAL}
    assert set(given) == set(release.generate.IMAGES)
    release.release(VERSION, URL, tmp_path / "r", given)
    tree = yaml.safe_load((tmp_path / "r/mlaas4hep.yaml").read_text())
    inputs = tree["topology_template"]["inputs"]
    assert inputs["images"]["default"] == "pull"
    assert {inputs[name]["default"] for name in given} == {DIGEST}


@pytest.mark.parametrize(
    ("version", "url", "images", "says"),
    [
        ("1.2", URL, {}, "'1.2'; it must be like 1.2.3"),
        ("1.2.3", "example.org", {}, "'example.org'; it must begin with https://"),
        ("1.2.3", URL, {"sevice_image": DIGEST}, "'sevice_image'; there are service_image"),
        ("1.2.3", URL, {"service_image": "service:1"}, "'service:1', which has no digest"),
    ],
)
def test_what_makes_no_release_is_refused(
    version: str, url: str, images: dict[str, str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(release.ReleaseError, match=says):
        release.release(version, url, tmp_path / "r", images)
    assert not (tmp_path / "r").exists()
