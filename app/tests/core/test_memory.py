from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core import memory
from mlaas4hep.core.memory import memory_limit


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        ({}, None),
        ({"": "max"}, None),
        ({"a": "4000", "a/b": "max"}, 4000),
        ({"a": "4000", "a/b": "3000"}, 3000),
        ({"a": "2000", "a/b": "3000", "a/c": "1"}, 2000),
    ],
)
def test_the_least_limit_above(
    tmp_path: Path, monkeypatch: Any, limits: dict[str, str], least: int | None
) -> None:
    (tmp_path / "groups/a/b").mkdir(parents=True)
    (tmp_path / "groups/a/c").mkdir()
    for folder, limit in limits.items():
        (tmp_path / "groups" / folder / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.max").write_text("1\n")  # no group
    (tmp_path / "own").write_text("4:cpu:/x\n0::/a/b\n")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert memory_limit() == least
    (tmp_path / "own").write_text("4:cpu:/x\n")
    assert memory_limit() is None
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "none")
    assert memory_limit() is None


def test_the_limit_of_version_1(tmp_path: Path, monkeypatch: Any) -> None:
    """Where both are mounted, memory belongs to one of them."""
    (tmp_path / "memory/a").mkdir(parents=True)
    (tmp_path / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory/a/memory.limit_in_bytes").write_text("2147483648\n")
    (tmp_path / "own").write_text("13:hugetlb:/\n4:memory:/a\n0::/\n")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert memory_limit() == 2 << 30
    (tmp_path / "own").write_text("4:memory:/\n0::/\n")
    assert memory_limit() is None
