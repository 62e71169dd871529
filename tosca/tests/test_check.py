"""Wrong values, which dodas and the IM let pass: told at once, with and without a machine."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import check
import pytest
import strict
import yaml
from test_templates import SLIPS, at

from conftest import MADE, TEMPLATES, filled

NAME = "mlaas4hep.yaml"
STACK = "tosca.nodes.mlaas4hep.Stack"
# What reaches the machine, and what the message says of it.
WRONG = {
    "certificate": ("acne", "it must be one of acme, files, internal"),
    "images": ("pul", "it must be one of build, pull"),
    "users_cidr": ("all", "it must be like 192.0.2.0/24"),
    "admins_cidr": ("192.0.2.0", "it must be like 192.0.2.0/24"),
    "old_ports_cidr": ("192.0.2.0/33", "it must be like 192.0.2.0/24"),
    "issuer": ("", "it must be like https://iam.cloud.infn.it/"),
    "allowed_groups": (" , ", "it must be like physicists,my-group or *"),
    "acme_directory": ("stagging", "it must be like production, staging or https://"),
}
# What does not, or is refused by the IM, in words of its own and one at a time.
BEFORE = {
    "image": ("0b2c1d4e", "it must be like ost://keystone.example.org/"),
    "num_cpus": ("four", '"four" is not an integer'),
    "mem_size": (8, '"8" is not a valid scalar-unit'),
    "fail2ban": ("perhaps", '"perhaps" is not a boolean'),
}


def problems(tree: Any) -> list[str]:
    return check.problems(yaml.safe_dump(tree))


def test_a_template_that_is_filled_in_is_ready(template: dict[str, Any]) -> None:
    assert problems(filled(template)) == []


def test_every_wrong_value_is_told_once_and_at_once(template: dict[str, Any]) -> None:
    wrong = WRONG | BEFORE
    found = problems(filled(template, **{name: value for name, (value, _) in wrong.items()}))
    assert len(found) == len(wrong)
    for name, (value, says) in wrong.items():
        (message,) = [text for text in found if text.startswith(f"{name} is {value!r}")]
        assert says in message


@pytest.mark.parametrize("missing", ["image", "allowed_groups"])
def test_what_must_be_given(template: dict[str, Any], missing: str) -> None:
    tree = filled(template)
    del tree["topology_template"]["inputs"][missing]["default"]
    assert problems(tree) == [f"{missing} has no default; it must be given"]


@pytest.mark.parametrize("text", ["", "- a", "topology_template:", "a: ["])
def test_what_is_no_template(text: str) -> None:
    (problem,) = check.problems(text)
    assert problem.startswith("it is ")


def without_server(tree: dict[str, Any]) -> None:
    tree["topology_template"]["node_templates"]["stack"]["requirements"] = [{"host": "nowhere"}]


def input_of_nothing(tree: dict[str, Any]) -> None:
    tree["topology_template"]["inputs"]["isuer"] = {"type": "string", "default": "x"}


LET_PASS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "certificate": (partial(filled, certificate="acne"), "certificate is 'acne'; it must be one"),
    "cores": (partial(filled, num_cpus="four"), "num_cpus is 'four'"),
    "memory without a unit": (partial(filled, mem_size=8), "mem_size is 8"),
    "image without ost://": (partial(filled, image="0b2c1d4e"), "image is '0b2c1d4e'; it must be"),
    "empty image": (partial(filled, image=""), "image is ''; it must be like ost://"),
    "users_cidr": (partial(filled, users_cidr="all"), "users_cidr is 'all'; it must be like"),
    "empty issuer": (partial(filled, issuer=""), "issuer is ''; it must be like https://"),
    "version": (at(tosca_definitions_version="tosca_simple_yaml_9_9"), "tosca_simple_yaml_9_9"),
    "requirement": (without_server, '"nowhere" was not found'),
    "input": (input_of_nothing, "isuer is no input of this release"),
}
"""Changes of a template that dodas finds right, and what the check says of each."""


@pytest.mark.parametrize("name", LET_PASS)
def test_what_dodas_lets_pass(name: str) -> None:
    change, says = LET_PASS[name]
    template = filled(copy.deepcopy(TEMPLATES[NAME]))
    change(template)
    strict.validate(yaml.safe_dump(template))
    assert says in problems(template)[0]


def test_a_property_that_there_is_not() -> None:
    template = filled(copy.deepcopy(TEMPLATES[NAME]))
    SLIPS["property"](template)
    assert '"issuers"' in problems(template)[0]


def test_the_command(tmp_path: Path) -> None:
    def run(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "my.yaml").write_text(text)
        words = [sys.executable, check.__file__, tmp_path / "my.yaml"]
        return subprocess.run(words, capture_output=True, text=True, timeout=300)

    ready = run(yaml.safe_dump(filled(copy.deepcopy(TEMPLATES[NAME]))))
    assert (ready.returncode, ready.stderr) == (0, "")
    assert "is ready for dodas create" in ready.stdout
    wrong = run(MADE[NAME])
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[1:] == [
        "  - image has no default; it must be given",
        "  - allowed_groups has no default; it must be given",
    ]


def first_task(folder: Path, **inputs: Any) -> subprocess.CompletedProcess[str]:
    """The first task of start.yml, played with the variables that the IM makes of the template."""
    tree = filled(copy.deepcopy(TEMPLATES[NAME]), **inputs)
    values = {k: v["default"] for k, v in tree["topology_template"]["inputs"].items()}
    properties = tree["node_types"][STACK]["properties"]
    handed = tree["node_types"][STACK]["interfaces"]["Standard"]["start"]["inputs"]
    variables = {
        variable: values.get(name := source["get_property"][1], properties[name].get("default"))
        for variable, source in handed.items()
        if isinstance(source, dict)
    }
    play = yaml.safe_load(MADE["start.yml"])[0]
    play |= {"hosts": "localhost", "gather_facts": False, "tasks": play["tasks"][:1]}
    book = folder / "start.json"
    book.write_text(json.dumps([play]))
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local",
         "-e", json.dumps(variables), book],
        capture_output=True, text=True, cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}, timeout=300,
    )  # fmt: skip


def test_the_machine_tells_them_at_once_before_anything_is_changed(tmp_path: Path) -> None:
    ended = first_task(tmp_path, **{name: value for name, (value, _) in WRONG.items()})
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Nothing was changed" in ended.stdout
    for name, (value, says) in WRONG.items():
        expected = json.dumps(f"{name} is {json.dumps(value)}; {says}")[1:-1]
        assert expected in ended.stdout, name


def test_the_machine_takes_the_usual_values(tmp_path: Path) -> None:
    ended = first_task(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
