"""How much memory this process may use."""

from __future__ import annotations

from pathlib import Path

OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 writes "no limit" as a number of that size."""


def memory_limit() -> int | None:
    """Bytes: the least limit of the process's control group (v2 or v1) and those above, if any.

    A job's container has one, and so may a batch system's slot.
    """
    try:
        lines = [line.split(":", 2) for line in OWN_GROUP.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, own in (line for line in lines if len(line) == 3):
        if not controllers:
            limits += _limits(GROUPS, own, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(GROUPS / "memory", own, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(top: Path, own: str, name: str) -> list[int]:
    """Those of the group and the ones above it."""
    found = []
    group = top / own.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(top):
            break
        try:
            text = (folder / name).read_text().strip()
        except OSError:  # the topmost group of v2 has none
            continue
        if text.isdigit() and int(text) < _NO_LIMIT:
            found.append(int(text))
    return found
