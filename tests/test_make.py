"""make says what is missing instead of failing in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def environment(path: str) -> dict[str, str]:
    """With this PATH, and without what a make that runs these tests hands down."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return ours | {"PATH": path, "MFLAGS": ""}


def make(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", ".venv/made", *options],
        cwd=folder,
        env=environment(f"{folder / 'bin'}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_the_venv_module_it_names_debians_package(folder: Path) -> None:
    python = folder / "bin/python3"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    ended = make(folder)
    assert ended.returncode == 2
    assert "apt install python3-venv" in ended.stderr
    assert not (folder / ".venv").exists()


def test_without_a_python_it_can_use_it_names_the_versions(folder: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        old = folder / "bin" / name
        old.write_text("#!/bin/sh\nexit 1\n")  # what sys.exit(not supported) gives
        old.chmod(0o755)
    ended = make(folder)
    assert ended.returncode == 2
    assert "Python 3.11 to 3.13" in ended.stderr


def test_an_old_python_is_passed_over(folder: Path) -> None:
    old = folder / "bin/python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what sys.exit(not supported) gives
    old.chmod(0o755)
    (folder / "bin/python3.13").symlink_to(sys.executable)
    said = subprocess.run(
        ["make", "-s", "--eval", "show: ; @echo $(PYTHON)", "show"],
        cwd=folder,
        env=environment(f"{folder / 'bin'}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.stdout.strip() == "python3.13"


def test_without_a_compiler_for_root_it_names_debians_package(folder: Path) -> None:
    for name in ("bash", "echo", "make"):
        found = shutil.which(name)
        assert found
        (folder / "bin" / name).symlink_to(found)
    ended = subprocess.run(
        ["make", "c++"],
        cwd=folder,
        env=environment(str(folder / "bin")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    assert "apt install g++" in ended.stderr


@pytest.mark.parametrize("given", ["/nonexistent", "/etc", "/etc/passwd"])
def test_a_dodas_command_that_is_none_is_named(folder: Path, given: str) -> None:
    ended = subprocess.run(
        ["make", "-o", ".venv-im/made", "dodas-cli", f"DODAS_BIN={given}"],
        cwd=folder,
        env=environment(os.environ["PATH"]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    assert f"DODAS_BIN is {given}, which is not a program" in ended.stderr
