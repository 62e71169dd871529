"""build/stack.json: seconds from a bare machine to the first prediction, MiB per container.

    python tests/stack/timings.py

prints the tables of docs/how-to/install.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine import VM

ROOT = Path(__file__).parents[2]
FILE = ROOT / "build/stack.json"
PHASES = ("preflight", "container_engine", "images", "mlaas4hep", "tfaas", "upload", "train",
          "predict", "sum")  # fmt: skip
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


def memory(vm: VM) -> dict[str, float]:
    """MiB that each container has in use, without the files that the kernel keeps for it."""
    found = {}
    for line in vm.run("docker stats --no-stream --format '{{.Name}} {{.MemUsage}}'").splitlines():
        name, number, unit = re.match(r"(\S+) ([\d.]+)(\w+)", line).groups()
        found[name] = round(float(number) * MIB[unit], 1)
    return found


def tables() -> str:
    """What the documents show, in Markdown."""
    known = json.loads(FILE.read_text())
    first = known["seconds_from_bare_machine"]
    adds = known["seconds_to_add_sign_in"]
    rows = ["| from the bare machine | s |", "|---|---|"]
    rows += [f"| {phase} | {first[phase]:.0f} |" for phase in PHASES if first[phase] >= 2]
    rows += [
        f"| a second run, which changes nothing | {known['seconds_second_run']:.0f} |",
        f"| a run that adds sign-in | {sum(adds.values()):.0f} |",
        "",
        "| container | MiB |",
        "|---|---|",
    ]
    rows += [f"| {name} | {mib:.0f} |" for name, mib in sorted(known["mib_full_stack"].items())]
    return "\n".join(rows)


if __name__ == "__main__":
    print(tables())
