"""An Ansible callback that writes how long each part of the deployment took."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: phases
type: aggregate
short_description: seconds per part of the deployment
description: Appends one line of JSON per run of ansible-playbook to the file PHASES_FILE.
"""
COMMON = yaml.safe_load((Path(__file__).parents[3] / "roles/common/vars/main.yml").read_text())
PARTS = COMMON["__common_services"] + COMMON["__common_doors"]


class CallbackModule(CallbackBase):
    """Time belongs to the role whose tasks run, or the role that includes them; builds apart."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "phases"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.part = self.counted = "preflight"
        self.since = time.monotonic()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        role = task._role.get_name(include_role_fqcn=False) if task._role else ""
        if role in PARTS and Path(task.get_path().rsplit(":", 1)[0]).name != "preflight.yml":
            self.part = role
        self._count(
            "images" if task.get_name().split(" : ")[-1].startswith("Build (") else self.part
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self.part not in PARTS:
            return  # a playbook of the test's own
        self._count("summary")
        rounded = {part: round(seconds, 1) for part, seconds in self.seconds.items()}
        with Path(os.environ["PHASES_FILE"]).open("a") as file:
            file.write(json.dumps(rounded) + "\n")

    def _count(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[self.counted] = self.seconds.get(self.counted, 0) + now - self.since
        self.counted, self.since = part, now
