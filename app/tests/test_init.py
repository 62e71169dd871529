"""What importing the package does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("first", "is_silent"), [("mlaas4hep", True), ("os", False)])
def test_onnxruntime_reports_to_nobody(tmp_path: Path, first: str, is_silent: bool) -> None:
    """It keeps the number by which it identifies a machine in HOME; without us, it does."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", f"import {first}, onnxruntime"],
        env=environment | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
        timeout=60,
    )
    assert (not any(tmp_path.rglob("deviceid"))) == is_silent
