"""The templates as they are made, and with changes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TOSCA = Path(__file__).parents[1]
sys.path[:0] = [str(TOSCA), str(Path(__file__).parent)]

import generate  # noqa: E402

URL = "https://release.example.org/mlaas4hep/9.8.7"
MADE = generate.files("9.8.7", URL)
TEMPLATES = {
    path: yaml.safe_load(text)
    for path, text in MADE.items()
    if path.count("/") == 0 and path.endswith(".yaml")
}


@pytest.fixture(params=sorted(TEMPLATES))
def template(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each self-contained template, for changes."""
    return copy.deepcopy(TEMPLATES[request.param])


def filled(tree: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """The template as an operator leaves it: what must be given, and what else is named."""
    given = {"image": "ost://keystone.example.org/1111", "allowed_groups": "physicists"} | inputs
    for name, value in given.items():
        tree["topology_template"]["inputs"][name]["default"] = value
    return tree
