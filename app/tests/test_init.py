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


LIGHT = """
import sys, mlaas4hep
assert not {"numpy", "uproot", "awkward", "mlaas4hep.training"} & set(sys.modules)
assert not hasattr(mlaas4hep, "open_files")
from mlaas4hep import open_data
assert open_data is sys.modules["mlaas4hep.training.library"].open_data
assert not {"tensorflow", "onnxruntime"} & set(sys.modules)
"""


def test_open_data_has_a_short_name_that_costs_nothing_until_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=60)
