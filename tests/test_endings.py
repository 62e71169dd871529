"""No test can hang: each command that a test runs has an end of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests", "tosca/tests", "app/tests")
RUNS = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")}
WAITS = {"wait", "communicate"}


def endless(source: str) -> Iterator[int]:
    """Lines with a command, or a wait for a process, that has no timeout.

    ``**options`` counts as one: the helpers that take them have a default.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        bounded = {keyword.arg for keyword in node.keywords} & {"timeout", None}
        name = ast.unparse(node.func)
        if name in RUNS and not bounded:
            yield node.lineno
        if name.rpartition(".")[2] in WAITS and "process" in name and not (node.args or bounded):
            yield node.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_of_a_test_has_an_end(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in files for line in endless(path.read_text())
    ]
    assert found == []


def test_a_command_without_an_end_is_found() -> None:
    forever = ["subprocess.run(['ssh'])", "process.wait()"]
    ended = ["subprocess.run(['ssh'], timeout=9)", "process.wait(9)", "run(['ssh'])"]
    assert list(endless("\n".join([*forever, *ended]))) == [1, 2]
