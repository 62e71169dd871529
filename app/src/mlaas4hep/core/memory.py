"""How much memory this process may use."""

from __future__ import annotations

from pathlib import Path

OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def memory_limit() -> int | None:
    """Bytes: the least limit of the process's control group (v2) and those above it, if any.

    A job's container has one, and so may a batch system's slot.
    """
    try:
        lines = OWN_GROUP.read_text().splitlines()
        own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    group = GROUPS / own.lstrip("/")
    limits = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(GROUPS):
            break
        try:
            text = (folder / "memory.max").read_text().strip()
        except OSError:  # the topmost group has none
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=None)
