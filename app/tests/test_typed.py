"""Programs that import the package see its types: the wheel says that it has them (PEP 561)."""

from __future__ import annotations

import os
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


def test_a_notebook_sees_the_type_of_open_data(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(
        "from mlaas4hep import open_data\nreveal_type(open_data)\nopen_data(files=5)\n"
    )
    check = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}", "--follow-imports=silent"]
    done = subprocess.run(
        [*check, script],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(APP / "src")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "-> mlaas4hep.training.library.Data" in done.stdout
    assert 'Argument "files" to "open_data" has incompatible type "int"' in done.stdout
