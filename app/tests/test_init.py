"""What importing the package does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = "import mlaas4hep, onnxruntime, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    """The switch is set first, whatever the user has set, and no number of the machine is kept."""
    subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ
        | {"ORT_DISABLE_TELEMETRY": "0", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
        timeout=60,
    )
    assert not any(tmp_path.rglob("deviceid"))
