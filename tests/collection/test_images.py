"""The images have the same names and the same version wherever they are written."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NAMED_IN = [
    *(ROOT / "roles").glob("*/meta/argument_specs.yml"),
    ROOT / "tosca/start.yml",
    ROOT / "tosca/options.yml",
    ROOT / "app/src/mlaas4hep/core/settings.py",
    ROOT / "docker/README.md",
]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlaas4hep_build", ROOT / "docker/build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_every_image_is_a_last_stage_of_the_dockerfile(build: ModuleType) -> None:
    text = (ROOT / build.DOCKERFILE).read_text()
    made = re.findall(r"^FROM image AS (\w+)$", text, re.MULTILINE)
    assert set(made) == {image.target for image in build.IMAGES.values()}
    assert set(build.USUAL) == set(made) - {"grid"}  # which few sites need


def test_what_an_image_is_made_of_is_all_that_is_copied_into_it(build: ModuleType) -> None:
    text = (ROOT / build.DOCKERFILE).read_text()
    for image in build.IMAGES.values():
        copied = {
            source.replace("${LOCK}", image.lock)
            for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
            for source in line.split()
        }
        assert copied | {build.DOCKERFILE} == set(image.sources)


def test_no_other_name_of_an_image_is_written_anywhere(build: ModuleType) -> None:
    known = {image.target for image in build.IMAGES.values()}
    found = {
        name: path
        for path in NAMED_IN
        for name in re.findall(r"mlaas4hep/(\w+)(?::|`)", path.read_text())
    }
    assert set(found) == known, found


def test_there_is_one_version(build: ModuleType) -> None:
    versions = {
        build.version(),
        load("galaxy.yml")["version"],
        load("roles/common/defaults/main.yml")["mlaas4hep_version"],
        *re.findall(r'__version__ = "(.*)"', (ROOT / "app/src/mlaas4hep/__init__.py").read_text()),
    }
    assert len(versions) == 1, versions
