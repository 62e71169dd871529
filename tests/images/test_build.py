"""docker/build.py builds what changed, takes the rest from the cache, trusts the site's CAs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import CAS, DOCKER, NAMES, ROOT, build, docker, in_image, inspect

SITE_CA = Path(__file__).with_name("site-ca.pem")  # made once, without a key: it signs nothing
LIST_CAS = """
import ssl
for ca in ssl.create_default_context().get_ca_certs():
    if "Example Site" in str(ca):
        print(dict(part[0] for part in ca["subject"])["commonName"])
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """The sources as the collection brings them to a host: no git, another version."""
    for name in ("docker", "app/src", "app/locks"):
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=leave_out)
    for name in ("app/pyproject.toml", "app/README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    project = tmp_path / "app/pyproject.toml"
    text = re.sub('^version = ".*"', 'version = "0.0.0"', project.read_text(), flags=re.MULTILINE)
    project.write_text(text)
    yield tmp_path
    for tag in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        if tag.startswith("mlaas4hep/") and tag.endswith(":0.0.0"):
            docker("image", "rm", tag)


def steps(log: str) -> dict[str, bool]:
    """The builder's steps that do work, and whether each came from the cache."""
    found = re.findall(r"Step \d+/\d+ : ((?:RUN|COPY) .*)\n(.*)", log)
    return {step: "Using cache" in said for step, said in found}


def test_what_is_there_is_left_as_it_is(images: dict[str, str]) -> None:
    said = build(*NAMES).stdout.splitlines()
    assert said == [f"{tag} unchanged" for tag in images.values()]


def test_a_lost_image_is_built_from_the_cache(images: dict[str, str]) -> None:
    kept = "mlaas4hep-test/kept:1"  # else the engine would remove the cached layers too
    for _ in range(2):  # `docker image prune` may have emptied the cache: the first build fills it
        docker("tag", images["tfaas"], kept)
        docker("image", "rm", images["tfaas"])
        said = build("--check", "tfaas").stdout
        assert said == f"{images['tfaas']} would be built\n"
        ended = build("tfaas", DOCKER_BUILDKIT="0")
        docker("image", "rm", kept)
        assert ended.stdout == f"{images['tfaas']} built\n"
    done = steps(ended.stderr)
    assert len(done) > 8
    assert set(done.values()) == {True}


def test_a_change_of_the_application_installs_no_dependency_again(elsewhere: Path) -> None:
    before = build("tfaas", root=elsewhere, DOCKER_BUILDKIT="0")
    with (elsewhere / "app/src/mlaas4hep/__init__.py").open("a") as source:
        source.write(f"# changed: {uuid.uuid4()}\n")  # as no earlier test has changed it
    ended = build("tfaas", root=elsewhere, DOCKER_BUILDKIT="0")
    assert before.stdout == ended.stdout == "mlaas4hep/tfaas:0.0.0 built\n"
    done = steps(ended.stderr)
    assert [step for step, cached in done.items() if not cached] == [
        "COPY app/src /build/app/src",
        "RUN /build/app.sh /build/app",
        "COPY --from=app /app /",
    ]
    labels = inspect("mlaas4hep/tfaas:0.0.0")["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"].startswith("sha256:")


def test_buildkit_another_user_and_the_sites_cas_kept(
    images: dict[str, str], elsewhere: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(CAS.read_text() + SITE_CA.read_text())
    options = ("--ca-bundle", str(bundle), "--keep-ca", "--uid", "5000")
    said = build("service", *options, root=elsewhere, DOCKER_BUILDKIT="1").stdout
    assert said == "mlaas4hep/service:0.0.0 built\n"
    assert inspect("mlaas4hep/service:0.0.0")["Config"]["User"] == "5000:5000"
    assert in_image("mlaas4hep/service:0.0.0", "python", "-c", LIST_CAS) == "Example Site CA\n"
    assert in_image(images["service"], "python", "-c", LIST_CAS) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["web"], "there is no image 'web'; there are service, tfaas, job, job-gpu"),
        (["--uid", "0"], "user 0: the images don't run as root"),
        (["--keep-ca"], "there is no CA bundle to keep"),
        (["--ca-bundle", str(ROOT / "LICENSE")], "the CA bundle holds no PEM certificate"),
        (["--ca-bundle", "/no/such.pem"], "No such file or directory: '/no/such.pem'"),
        (["service", "--base", "no.such.host.invalid/base"], "was not built"),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "docker/build.py"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ended.returncode != 0
    assert message in ended.stderr


def test_a_missing_source_is_named(elsewhere: Path) -> None:
    shutil.rmtree(elsewhere / "app/locks")
    command = [sys.executable, str(elsewhere / "docker/build.py"), "tfaas"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ended.returncode != 0
    assert f"{elsewhere}/app/locks/build.txt is missing" in ended.stderr


def test_without_an_engine_its_absence_is_said(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docker/build.py"), "tfaas"]
    nowhere = {
        "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
        "PATH": "/usr/bin:/bin",
        "DOCKER": DOCKER,
    }
    ended = subprocess.run(command, capture_output=True, text=True, env=nowhere, timeout=1200)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "none.sock" in ended.stderr
