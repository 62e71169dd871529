"""The table of how a job ends, in docs/how-to/troubleshooting.md, and the code's reasons agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "app/src/mlaas4hep/jobs"
SOURCES = {
    "queue.py": {"CANCELLED"},
    "runner.py": {
        "stop_jobs", "_start", "_give_up", "_watch", "_why_too_large", "_conclude", "_why_failed",
        "_how_it_died",
    },
    "orders.py": {"order_of"},
    "checks.py": {"check_environment", "check_resources", "inside"},
    "executors/containers.py": {"GONE", "start", "_cause"},
    "executors/process.py": {"start"},
}  # fmt: skip
"""Functions and constants that hold reasons, by file of the jobs."""
ELSEWHERE = {
    "no branch 'mett' in a.root", "ValueError: ...", "the training failed; see its log",
    "not started: ...", "device driver", "state", "succeeded", "servable", "is empty",
    "root://... can't be read: ...", "https://", "s3://",
}  # fmt: skip
"""What the table's first column and texts quote besides: examples of trainings' own messages."""


def text_of(node: ast.expr) -> str:
    """A text, with "…" for each value in it; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + "…"
    return ""


def reasons(tree: ast.AST) -> Iterator[str]:
    """The first text of each error, end or pair of reason and remedy; the second is the remedy."""
    for node in ast.walk(tree):
        match node:
            case ast.Call():
                given = node.args
            case ast.Return(value=ast.Tuple(elts=given)) | ast.Assign(value=ast.Tuple(elts=given)):
                pass
            case ast.Return(value=ast.expr() as value) | ast.Assign(value=value):
                given = [value]
            case _:
                continue
        said = next(filter(None, map(text_of, given)), "")
        if said.count(" ") > 1 and re.search("[a-z]", said):
            yield said


def all_reasons() -> set[str]:
    found: set[str] = set()
    for name, wanted in SOURCES.items():
        parts: dict[str, ast.AST] = {}
        for node in ast.walk(ast.parse((JOBS / name).read_text())):
            if isinstance(node, ast.FunctionDef):
                parts[node.name] = node
            elif isinstance(node, ast.Assign):
                parts[ast.unparse(node.targets[0])] = node
        assert wanted <= set(parts), name
        found |= {said for part in wanted for said in reasons(parts[part])}
    return found - {"job started", "job can't be handled"}


def documented() -> list[str]:
    text = (ROOT / "docs/how-to/troubleshooting.md").read_text()
    table = text[text.index("## How a job ended") : text.index("\nJobs also wait")]
    rows = re.findall(r"^\| (.+?) \| ", table, re.MULTILINE)
    return [quoted for row in rows for quoted in re.findall(r"`([^`]+)`", row)]


def pattern(quoted: str) -> re.Pattern[str]:
    """What the table quotes, with its examples of values as any value."""
    values = r"\.\.\.|'NAME'|\bNAME\b|\b[45N] GB\b|\bN\b|signal 11 \(SIGSEGV\)"
    return re.compile(".*".join(map(re.escape, re.split(values, quoted))))


REASONS = all_reasons()


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_each_reason_is_explained(reason: str) -> None:
    assert [quoted for quoted in documented() if pattern(quoted).search(reason)]


@pytest.mark.parametrize("quoted", documented())
def test_each_reason_that_is_explained_exists(quoted: str) -> None:
    if quoted not in ELSEWHERE:
        assert [reason for reason in REASONS if pattern(quoted).search(reason)]
