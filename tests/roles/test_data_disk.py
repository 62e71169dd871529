"""Which disk becomes the volume: the one that was, the only empty one, and never somebody's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

LABEL = "mlaas4hep-data"


def disk(folder: Path, name: str, label: str = "") -> Path:
    """A file that blkid and mkfs take for a disk."""
    path = folder / name
    with path.open("wb") as new:
        new.truncate(8 << 20)
    if label:
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-L", label, path], check=True, timeout=300)
    return path


def test_the_labelled_one_before_an_empty_one(data_disk: ModuleType, tmp_path: Path) -> None:
    empty, ours = disk(tmp_path, "vdb"), disk(tmp_path, "vdc", LABEL)
    found = {path: data_disk.content(path) for path in (empty, ours)}
    assert data_disk.choose(found, LABEL, "") == ours
    assert found[empty] == {}


def test_the_only_empty_one(data_disk: ModuleType, tmp_path: Path) -> None:
    somebodys, empty = disk(tmp_path, "vdb", "photos"), disk(tmp_path, "vdc")
    found = {path: data_disk.content(path) for path in (somebodys, empty)}
    assert data_disk.choose(found, LABEL, "") == empty


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({}, "has 0 empty disks.*no disks without partitions.*Attach a volume"),
        ({"vdb": "photos"}, r"has 0 empty disks.*vdb \(ext4\).*Attach a volume"),
        ({"vdb": "", "vdc": ""}, r"has 2 empty disks.*vdb \(empty\).*vdc.*machine_volume_device"),
    ],
)
def test_no_guess(data_disk: ModuleType, tmp_path: Path, names: dict[str, str], says: str) -> None:
    paths = [disk(tmp_path, name, label) for name, label in names.items()]
    found = {path: data_disk.content(path) for path in paths}
    with pytest.raises(data_disk.DiskNotFoundError) as refused:
        data_disk.choose(found, LABEL, "")
    assert re.search(says, str(refused.value)), str(refused.value)


def test_encryption_is_decided_once(data_disk: ModuleType) -> None:
    for inside, asked in (({"TYPE": "ext4"}, True), ({"TYPE": "crypto_LUKS"}, False)):
        data_disk.check_encryption("/dev/vdb", inside, not asked)
        with pytest.raises(data_disk.DiskNotFoundError, match="decided once"):
            data_disk.check_encryption("/dev/vdb", inside, asked)
    data_disk.check_encryption("/dev/vdb", {}, True)
