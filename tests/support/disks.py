"""Disks of machines: files that this computer has as block devices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.machine import run


@dataclass(frozen=True)
class Disk:
    """An empty disk: a file, and the loop device that has it."""

    file: Path
    device: str

    @classmethod
    def make(cls, file: Path, size: int) -> Disk:
        """A disk of ``size`` bytes."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(size)
        return cls(file, run("losetup", "--find", "--show", file))

    def destroy(self) -> None:
        """Detach and delete it."""
        run("losetup", "--detach", self.device)
        self.file.unlink()


def detach_all(folder: Path) -> None:
    """Detach the disks of this folder, be they of a run that was killed."""
    known = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    for device, file in (line.split(maxsplit=1) for line in known.splitlines()):
        if file.startswith(str(folder)):
            run("losetup", "--detach", device)
