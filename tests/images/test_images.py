"""What every image is: labelled, never root, complete in its bill of materials, locked down."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pip
import pytest
from containers import NAMES, ROOT, docker, in_image, inspect, wait_for
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

VERSION = tomllib.loads((ROOT / "app/pyproject.toml").read_text())["project"]["version"]
SBOM = "/usr/share/doc/mlaas4hep/sbom.cdx.json"
every_image = pytest.mark.parametrize("name", NAMES)


@every_image
def test_labels_say_what_it_is(images: dict[str, str], name: str) -> None:
    assert images[name] == f"mlaas4hep/{name}:{VERSION}"
    labels = inspect(images[name])["Config"]["Labels"]
    said = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert said["title"].startswith("MLaaS4HEP ")
    assert said["version"] == VERSION
    assert said["licenses"] == "Apache-2.0"
    assert len(said["revision"].removesuffix("-dirty")) == 40
    assert "source" in said


@every_image
def test_it_runs_as_a_numbered_user_and_nothing_in_it_raises_rights(
    images: dict[str, str], name: str
) -> None:
    assert inspect(images[name])["Config"]["User"] == "64004:64004"
    raising = r"! -type l -perm /6000"
    own = r"( -user 64004 -o -group 64004 )"
    writable = r"! -type l -perm -o+w ! -perm -1000 ! -type c"
    for wrong in (raising, own, writable):
        look = ["find", "/", "-xdev", "-mindepth", "1", *wrong.split()]
        options = ("--rm", "--network", "none", "--user", "0")
        assert docker("run", *options, images[name], *look) == "", wrong


@every_image
@pytest.mark.parametrize("user", ["64004:64004", "12345:0"])
def test_it_runs_read_only_without_capabilities_as_any_user(
    images: dict[str, str], name: str, user: str
) -> None:
    options = ("--user", user)
    said = in_image(images[name], "mlaas4hep", "--version", options=options)
    assert said == f"mlaas4hep {VERSION}\n"
    status = in_image(images[name], "grep", "CapBnd", "/proc/self/status", options=options)
    assert int(status.split()[1], 16) == 0


@every_image
def test_every_package_is_in_the_bill_of_materials(images: dict[str, str], name: str) -> None:
    text = in_image(images[name], "cat", SBOM)
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    listed = {"deb": set(), "pypi": set()}
    for component in json.loads(text)["components"]:
        kind = component["purl"].removeprefix("pkg:").partition("/")[0]
        listed[kind].add((component["name"], component["version"]))
    rows = in_image(images[name], "dpkg-query", "-W", "-f", "${Package}\t${Version}\n")
    assert listed["deb"] == {tuple(row.split("\t")) for row in rows.splitlines()}
    # The image has no pip of its own: the tests' pip looks at it.
    lent = (
        *("--volume", f"{Path(pip.__path__[0])}:/lent/pip:ro"),
        *("--env", "PYTHONPATH=/lent", "--env", "PIP_DISABLE_PIP_VERSION_CHECK=1"),
    )
    command = ["python", "-m", "pip", "list", "--format", "json"]
    rows = json.loads(in_image(images[name], *command, options=lent))
    assert listed["pypi"] == {(row["name"], row["version"]) for row in rows}
    assert len(listed["deb"]) > 50
    assert len(listed["pypi"]) > 30


@every_image
def test_nothing_of_the_build_is_left(images: dict[str, str], name: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", images[name])
    assert [line for line in history.splitlines() if " RUN " in line] == []
    for word in ("APT_MIRROR", "PIP_INDEX", "_proxy", "site-ca"):
        assert word not in history
    assert "proxy" not in str(inspect(images[name])["Config"]).lower()
    look = 'ls /build /usr/local/share/ca-certificates/*; ls /opt; python -c "import pip"'
    said = in_image(images[name], "sh", "-c", f"({look}) 2>&1 || true")
    assert "cannot access '/build'" in said
    assert "cannot access '/usr/local/share/ca-certificates/*'" in said
    assert "No module named 'pip'" in said
    assert said.split().count("mlaas4hep") == 1
    assert "/opt/build" not in said


@pytest.mark.parametrize("name", ["service", "tfaas"])
def test_the_services_are_slim(images: dict[str, str], name: str) -> None:
    frameworks = "tensorflow", "keras", "sklearn", "torch", "onnx", "uproot", "awkward", "XRootD"
    code = (
        "import sys, importlib.util as u, mlaas4hep.web.{0} as _;"
        "print([n for n in {1} if u.find_spec(n) or n in sys.modules])"
    )
    module = {"service": "server", "tfaas": "tfaas"}[name]
    assert in_image(images[name], "python", "-c", code.format(module, frameworks)) == "[]\n"
    assert inspect(images[name])["Size"] < 450e6


@pytest.mark.parametrize("name", ["service", "tfaas"])
def test_a_service_becomes_healthy_and_stops_when_told(
    images: dict[str, str], name: str, start: Callable[..., str]
) -> None:
    options = ("--health-interval", "1s", "--env", "MLAAS4HEP_STORE=/tmp/store")
    service = start(images[name], options=options)
    wait_for(lambda: inspect(service)["State"]["Health"]["Status"], "healthy")
    docker("stop", "--time", "60", service)
    assert inspect(service)["State"]["ExitCode"] == 0


@pytest.mark.parametrize("name", ["service", "tfaas"])
def test_a_service_that_does_not_answer_is_unhealthy(
    images: dict[str, str], name: str, start: Callable[..., str]
) -> None:
    options = ("--health-interval", "1s", "--health-start-period", "0s", "--health-retries", "1")
    silent = start(images[name], "sleep", "600", options=options)
    wait_for(lambda: inspect(silent)["State"]["Health"]["Status"], "unhealthy")


def test_the_service_image_has_the_runner(
    images: dict[str, str], start: Callable[..., str]
) -> None:
    runner = start(images["service"], "mlaas4hep", "runner", "--store", "/tmp/store")
    look = ["find", "/tmp", "-name", "mlaas4hep.sqlite"]
    wait_for(lambda: docker("exec", runner, *look), "/tmp/store/mlaas4hep.sqlite\n")
    docker("stop", "--time", "60", runner)
    assert inspect(runner)["State"]["ExitCode"] == 0
