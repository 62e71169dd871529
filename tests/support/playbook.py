"""Playbooks of the collection on a machine of the tests, and what they say that they changed."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.machine import ROOT

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


def play_on(
    machine: str,
    playbook: str | Path,
    *options: str | Path,
    ansible: str = NEWEST,
    **variables: Any,
) -> Played:
    """Play a playbook on a machine of the tests."""
    environment = os.environ | {
        "PATH": f"/usr/bin:{os.environ['PATH']}",  # the connection calls docker
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"),
        "ANSIBLE_INVENTORY_ENABLED": "yaml,host_list",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    ended = subprocess.run(
        [ROOT / ansible / "bin/ansible-playbook", "-c", "community.docker.docker", *options,
         "-e", json.dumps(variables), playbook],
        env=environment, capture_output=True, text=True, cwd=ROOT, timeout=1200,
    )  # fmt: skip
    text = ended.stdout + ended.stderr
    assert "{" in ended.stdout, text
    said = json.loads(ended.stdout[ended.stdout.index("{") :])
    return Played(ended.returncode == 0, text, *_read(said, machine))


def _read(said: dict[str, Any], machine: str) -> tuple[list[str], list[str]]:
    """Changed tasks and messages of the callback's JSON."""
    changed, messages = [], []
    for part in said["plays"]:
        for task in part["tasks"]:
            result = task["hosts"].get(machine, {})
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
    if not isinstance(item, dict):
        return item
    names = ("path", "dest", "key")
    return next((item[name] for name in names if name in item), str(item))
