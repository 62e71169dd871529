"""The scenario of molecule that is under test, and playbooks on its machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vm import NAME

from support.machine import ROOT
from support.playbook import NEWEST, Played, play_on

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "full_stack")
GROUP = "mlaas4hep"
SITE, UNINSTALL = "mlaas4hep.stack.site", "mlaas4hep.stack.uninstall"


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
        hosts = {GROUP: {"hosts": {NAME: {}}}}
        (inventory / "hosts.json").write_text(json.dumps(hosts))
        (inventory / "group_vars").symlink_to(ROOT / "molecule" / SCENARIO / "group_vars")
    played = play_on(NAME, playbook, "-i", inventory, *options, ansible=ansible, **variables)
    assert played.ok == expected, "\n".join(played.messages) or played.text
    return played
