"""The Dockerfile, scripts and locks as they are written."""

from __future__ import annotations

import re
import subprocess

import pytest
from containers import NAMES, ROOT

DOCKERFILE = ROOT / "docker/Dockerfile"
OWN = [name for name in NAMES if name != "grid"]  # grid has the packages of service
LOCKS = {name: ROOT / f"app/locks/{name}.txt" for name in ("app", "build", "job-gpu", *OWN)}
PIN = re.compile(r"^([a-z0-9-]+)(?:\[[a-z-]+\])?==(\S+)", re.MULTILINE)


def test_hadolint_has_no_remark() -> None:
    ended = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True, timeout=300)
    assert (ended.stdout, ended.returncode) == ("", 0)


def test_shellcheck_has_no_remark() -> None:
    scripts = sorted((ROOT / "docker").rglob("*.sh"))
    assert len(scripts) >= 6
    ended = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=300)
    assert (ended.stdout, ended.returncode) == ("", 0)


def test_both_builders_understand_it() -> None:
    text = DOCKERFILE.read_text()
    assert "# syntax" not in text
    assert "--mount" not in text


def test_the_legacy_builder_makes_no_files_for_an_image_that_is_not_asked_for() -> None:
    """It makes all stages above the one that it is told to make; of grid, the last, no other's."""
    last = DOCKERFILE.read_text().partition("FROM image AS")[2].partition("FROM system AS grid")[0]
    assert re.findall(r"^(COPY|ADD|RUN)", last, re.MULTILINE) == []
    stages = re.findall(r"^FROM image AS (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert stages == list(NAMES)


@pytest.mark.parametrize("name", [*OWN, "job-gpu"])
def test_a_lock_has_the_versions_of_the_application(name: str) -> None:
    known = set(PIN.findall(LOCKS["app"].read_text()))
    mine = set(PIN.findall(LOCKS[name].read_text()))
    if name == "job-gpu":
        foreign = {pin for pin in mine - known if not pin[0].startswith("nvidia-")}
        tensorflow = dict(known)["tensorflow-cpu"]
        assert foreign == {("tensorflow", tensorflow)}
        assert "tensorflow-cpu" not in dict(mine)
        assert any(pin[0].startswith("nvidia-cudnn") for pin in mine)
    else:
        assert mine <= known


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_a_lock_has_a_hash_for_every_version_and_no_address(name: str) -> None:
    text = LOCKS[name].read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=[a-z])", text[text.index("make lock") :])[1:]
    assert len(entries) == len(PIN.findall(text))
    assert all("--hash=sha256:" in entry for entry in entries)
