"""Programs that import the package see its types: the wheel says that it has them (PEP 561)."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

APP = Path(__file__).parents[1]


def test_the_wheel_holds_the_marker_of_types(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=APP, check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    assert "mlaas4hep/py.typed" in zipfile.ZipFile(wheel).namelist()
