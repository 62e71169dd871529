"""The READMEs of the roles: every role has its sections, and Ansible accepts the examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
INTERNAL = ("common", "image", "preflight", "service_container")
SECTIONS = ["Requirements", "Example", "Options"]


def plays(role: Path) -> list[dict[str, Any]]:
    """What its README shows; variables alone, as plays of the role that takes them."""
    blocks = re.findall(r"```yaml\n(.*?)```", (role / "README.md").read_text(), re.DOTALL)
    shown = [yaml.safe_load(block) for block in blocks]
    alone = {"hosts": "mlaas4hep", "roles": [f"mlaas4hep.stack.{role.name}"]}
    return [
        play
        for block in shown
        for play in (block if isinstance(block, list) else [alone | {"vars": block}])
    ]


def given(role: Path) -> dict[str, Any]:
    """The variables of its example."""
    play = plays(role)[0]
    return {**play.get("vars", {}), **play.get("tasks", [{}])[0].get("vars", {})}


def options(role: str) -> dict[str, Any]:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    return specs["argument_specs"]["main"]["options"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_role_has_requirements_and_an_example_of_its_own_options(role: Path) -> None:
    headings = re.findall(r"^## (.*)", (role / "README.md").read_text(), re.MULTILINE)
    assert headings == SECTIONS + ([] if role.name in INTERNAL else ["Tags", "Uninstall"])
    known = {name for taken in (role.name, "common") for name in options(taken)}
    assert set(given(role)) <= known
    assert set(given(role)) & set(options(role.name))
    assert {name for name, option in options(role.name).items() if option.get("required")} <= set(
        given(role)
    )


def test_ansible_accepts_every_example(tmp_path: Path) -> None:
    """Played, so that it checks the options; of each role only the tasks are left out."""
    stack = tmp_path / "ansible_collections/mlaas4hep/stack"
    shutil.copytree(ROOT / "roles", stack / "roles")
    for tasks in stack.glob("roles/*/tasks/*.yml"):
        tasks.write_text("[]")
    shown = [play | {"gather_facts": False} for role in ROLES for play in plays(role)]
    (tmp_path / "shown.yml").write_text(json.dumps(shown))
    (tmp_path / "inventory").write_text("[mlaas4hep]\nlocalhost ansible_connection=local\n")
    python = {"ansible_become": False, "ansible_python_interpreter": sys.executable}
    program = Path(sys.executable).with_name("ansible-playbook")
    ended = subprocess.run(
        [program, "-i", tmp_path / "inventory", "-e", json.dumps(python), tmp_path / "shown.yml"],
        capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
             "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for role in ROLES:
        for entry in ["main"] if role.name in INTERNAL else ["main", "uninstall"]:
            checked = (
                f"mlaas4hep.stack.{role.name} : Validating arguments against arg spec '{entry}'"
            )
            assert checked in ended.stdout, checked
