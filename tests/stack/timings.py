"""build/stack.json: seconds from a bare machine to the first prediction, MiB per container."""

from __future__ import annotations

import json
import re
from typing import Any

from machine import ROOT, Machine

FILE = ROOT / "build/stack.json"
MIB = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}


def note(**figures: Any) -> None:
    """Add figures; those of the same name are replaced."""
    FILE.parent.mkdir(exist_ok=True)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(known | figures, indent=1, sort_keys=True) + "\n")


def deployments(scenario: str) -> list[dict[str, float]]:
    """Seconds per part of each run of the roles on this machine, the first one first."""
    lines = (ROOT / f"build/phases-{scenario}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def memory(vm: Machine) -> dict[str, float]:
    """MiB that each container has in use, without the files that the kernel keeps for it."""
    found = {}
    for line in vm.run("docker stats --no-stream --format '{{.Name}} {{.MemUsage}}'").splitlines():
        name, number, unit = re.match(r"(\S+) ([\d.]+)(\w+)", line).groups()
        found[name] = round(float(number) * MIB[unit], 1)
    return found
