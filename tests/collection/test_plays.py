"""The playbooks, played as they are: but a part of a role only says that it was reached."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LISTED = yaml.safe_load((ROOT / "roles/common/vars/main.yml").read_text())
SERVICES, DOORS = LISTED["__common_services"], LISTED["__common_doors"]
GRID = LISTED["__common_grid"]
PARTS = [*SERVICES, *GRID, *DOORS]
"""What the stack is made of, in the order in which it is put up."""
CHECKED = ["mlaas4hep", "tfaas", *GRID, "gateway"]
"""The parts that users ask, as is done after the deployment."""
REPORT, PRUNE = "preflight report", "image prune"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collections, with this one's playbooks, every role's table of contents, what a site sets."""
    place = tmp_path_factory.mktemp("collections")
    stack = place / "ansible_collections/mlaas4hep/stack"
    shutil.copytree(ROOT / "playbooks", stack / "playbooks")
    shutil.copy(ROOT / "galaxy.yml", stack)
    for role in (ROOT / "roles").iterdir():
        if role.name == "common":
            shutil.copytree(role, stack / "roles/common")
            continue
        tasks = stack / "roles" / role.name / "tasks"
        tasks.mkdir(parents=True)
        if (role / "meta/main.yml").exists():
            (tasks.parent / "meta").mkdir()
            shutil.copy(role / "meta/main.yml", tasks.parent / "meta")
        for file in (role / "tasks").glob("*.yml"):
            said = {"name": "Part", "ansible.builtin.debug": {"msg": f"{role.name} {file.stem}"}}
            inner = {"ansible.builtin.include_role": {"name": "mlaas4hep.stack.service_container"}}
            runs = role.name in PARTS and file.stem == "service"
            (tasks / file.name).write_text(yaml.safe_dump([said, inner] if runs else [said]))
        if role.name in PARTS:
            shutil.copy(role / "tasks/main.yml", tasks)
    return place


def reached(
    stack: Path,
    playbook: str,
    *words: str,
    issuer: str = "https://issuer",
    origins: tuple[str, ...] = ("se.example.org",),
) -> list[str]:
    """The parts, in their order."""
    program = Path(sys.executable).with_name("ansible-playbook")
    inventory = stack / "inventory"
    inventory.write_text("[mlaas4hep]\nlocalhost ansible_connection=local\n")
    options = {"mlaas4hep_issuer": issuer, "mlaas4hep_xrootd_origins": origins,
               "ansible_become": False, "ansible_python_interpreter": sys.executable}  # fmt: skip
    words = ("-i", str(inventory), "-e", json.dumps(options), *words)
    done = subprocess.run(
        [program, *words, f"mlaas4hep.stack.{playbook}"],
        capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(stack), "LC_ALL": "C.UTF-8",
             "ANSIBLE_COLLECTIONS_PATH": str(stack)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r'"msg": "(\w+ \w+)"', done.stdout)


def all_of(part: str) -> list[str]:
    contents = yaml.safe_load((ROOT / "roles" / part / "tasks/main.yml").read_text())
    files = [entry["ansible.builtin.import_tasks"].removesuffix(".yml") for entry in contents]
    return [f"{part} {file}" for file in files] + ["service_container main"]


@pytest.mark.parametrize(
    ("issuer", "origins", "parts"),
    [
        ("https://issuer", ("se.example.org",), PARTS),
        ("https://issuer", (), [*SERVICES, *DOORS]),
        ("", (), SERVICES),
    ],
)
def test_site_looks_at_every_part_then_puts_up_each(
    stack: Path, issuer: str, origins: tuple[str, ...], parts: list[str]
) -> None:
    found = reached(stack, "site", issuer=issuer, origins=origins)
    end = found.index(REPORT)
    assert sorted(found[:end]) == sorted(f"{part} preflight" for part in parts)
    checked = [part for part in parts if part in CHECKED]
    assert found[end + 1 :] == [
        *(name for part in parts for name in all_of(part)),
        *(f"{part} check" for part in checked),
        PRUNE,
    ]


def test_uninstall_takes_down_the_same_parts_the_last_first(stack: Path) -> None:
    assert reached(stack, "uninstall") == [f"{part} uninstall" for part in reversed(PARTS)]


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ("tfaas", all_of("tfaas")),
        ("gateway", all_of("gateway")),
        ("tfaas_service", ["tfaas service", "service_container main"]),
        ("check", [f"{part} check" for part in CHECKED]),
        ("mlaas4hep_configure,gateway_preflight", ["mlaas4hep configure", "gateway preflight"]),
    ],
)  # fmt: skip
def test_tags_choose_roles_and_their_steps(stack: Path, tags: str, names: list[str]) -> None:
    """With what a step includes; after the look at everything, which every run begins with."""
    found = reached(stack, "site", "--tags", tags)
    assert found[found.index(REPORT) + 1 :] == [*names, PRUNE]
