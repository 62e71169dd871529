"""build/stack.json: seconds from a bare machine to the first prediction, MiB per container."""

from __future__ import annotations

import json
from typing import Any

from machine import ROOT

FILE = ROOT / "build/stack.json"


def note(**figures: Any) -> None:
    """Add figures; those of the same name are replaced."""
    FILE.parent.mkdir(exist_ok=True)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(known | figures, indent=1, sort_keys=True) + "\n")
