"""Playbooks of the collection on the machine under test, and what they say that they changed."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import NAME, ROOT

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "full_stack")
GROUP = "mlaas4hep"
SITE, UNINSTALL = "mlaas4hep.stack.site", "mlaas4hep.stack.uninstall"
NEWEST, OLDEST = ".venv-stack", ".venv-core216"


@dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    ok: bool
    text: str
    """All that was said, also to the operator's eyes only."""
    changed: list[str]
    """The tasks that changed something, or would; of a loop, with the item."""
    messages: list[str]
    """What failed tasks, and those that print, said."""


def play(
    folder: Path,
    *options: str,
    playbook: str | Path = SITE,
    ansible: str = NEWEST,
    expected: bool = True,
    **variables: Any,
) -> Played:
    """Play it as the scenario does, with its variables and these. A surprise is shown in full."""
    inventory = folder / "inventory"
    if not inventory.exists():
        inventory.mkdir()
        host = {"ansible_connection": "community.docker.docker"}
        hosts = {GROUP: {"hosts": {NAME: host}}}
        (inventory / "hosts.json").write_text(json.dumps(hosts))
        (inventory / "group_vars").symlink_to(ROOT / "molecule" / SCENARIO / "group_vars")
    environment = os.environ | {
        "PATH": f"/usr/bin:{os.environ['PATH']}",  # the connection calls docker
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"),
        "ANSIBLE_INVENTORY_ENABLED": "yaml",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    ended = subprocess.run(
        [ROOT / ansible / "bin/ansible-playbook", "-i", inventory, *options,
         "-e", json.dumps(variables), playbook],
        env=environment, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    text = ended.stdout + ended.stderr
    assert "{" in ended.stdout, text
    said = json.loads(ended.stdout[ended.stdout.index("{") :])
    played = Played(ended.returncode == 0, text, *_read(said))
    assert played.ok == expected, "\n".join(played.messages) or text
    return played


def _read(said: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Changed tasks and messages of the callback's JSON."""
    changed, messages = [], []
    for part in said["plays"]:
        for task in part["tasks"]:
            result = task["hosts"].get(NAME, {})
            name = task["task"]["name"].rpartition(" : ")[2]
            for one in result.get("results") or [result]:
                if one.get("changed"):
                    changed.append(f"{name}: {_item(one)}" if "item" in one else name)
                prints = result.get("action") == "ansible.builtin.debug" and "msg" in one
                if one.get("failed") or prints:
                    messages.append(f"{name}: {one.get('msg')}")
    return changed, messages


def _item(result: dict[str, Any]) -> str:
    item = result["item"]
    return item.get("path") or item.get("dest") or str(item) if isinstance(item, dict) else item
