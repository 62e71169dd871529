#!/usr/bin/python
"""Find the disk that is a volume for data, and never one that has something else on it."""

from __future__ import annotations

DOCUMENTATION = """
module: data_disk
short_description: Find the disk that is a volume for data
description:
  - Finds the disk that has this label, or else the only disk with nothing on it. Changes nothing.
options:
  device:
    description: The disk, when it is known.
    type: str
    default: ""
  label:
    description: Label of a disk that was found before.
    type: str
    required: true
  encrypted:
    description: Whether the volume is to be encrypted (LUKS).
    type: bool
    default: false
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Find the disk of the volume
  mlaas4hep.stack.data_disk:
    label: mlaas4hep-data
"""

RETURN = """
device:
  description: The disk.
  returned: success
  type: str
empty:
  description: Whether there is nothing on it yet.
  returned: success
  type: bool
"""

import re
import stat
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DISKS = re.compile(r"(sd|vd|xvd)[a-z]+|nvme\d+n\d+")


class DiskNotFoundError(Exception):
    """No disk, or not one: what was found, what is needed, what to do."""


def disks(folder):
    """Whole disks among the machine's devices that have no partitions."""
    found = sorted(path for path in folder.iterdir() if DISKS.fullmatch(path.name))
    return [path for path in found if path.is_block_device() and not _partitions(path)]


def _partitions(disk):
    return [p for p in disk.parent.iterdir() if re.fullmatch(disk.name + r"p?\d+", p.name)]


def content(disk):
    """What is on it, such as TYPE and LABEL; nothing when it is empty."""
    words = ["/sbin/blkid", "-p", "-o", "export", str(disk)]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 (ours)
    # blkid's 2 says that there is nothing it knows.
    if asked.returncode not in (0, 2):
        raise DiskNotFoundError(f"{disk} can't be read: {asked.stderr.strip() or 'blkid failed'}")
    lines = [line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line]
    return {name: value for name, value in lines if name != "DEVNAME"}


def choose(found, label, device):
    """The disk to use: the labelled one, the one that is named, or the only empty one."""
    if device and not (Path(device).exists() and stat.S_ISBLK(Path(device).stat().st_mode)):
        raise DiskNotFoundError(
            f"machine_volume_device is {device!r}, which is no disk of the machine; "
            f"it has {described(found)}. Correct it, or leave it empty"
        )
    ours = [disk for disk, inside in found.items() if inside.get("LABEL") == label]
    if ours:
        return ours[0]
    empty = [disk for disk, inside in found.items() if not inside]
    if device:
        if Path(device) not in empty:
            raise DiskNotFoundError(
                f"machine_volume_device is {device}, which is not empty; it has "
                f"{described({device: content(device)})}. Name an empty disk, or empty it: "
                f"wipefs -a {device}"
            )
        return Path(device)
    if len(empty) != 1:
        raise DiskNotFoundError(
            f"the machine has {len(empty)} empty disks; one is needed for the volume, and there "
            f"are {described(found)}. "
            + ("Name one with machine_volume_device" if empty else "Attach a volume to the machine")
        )
    return empty[0]


def described(found):
    """Disks and what is on each."""
    words = [
        f"{disk} ({inside.get('TYPE') or inside.get('PTTYPE') or 'empty'})"
        for disk, inside in found.items()
    ]
    return ", ".join(words) or "no disks without partitions"


def check_encryption(disk, inside, encrypted):
    """A volume that has data can't be encrypted, or decrypted, afterwards."""
    if inside and (inside.get("TYPE") == "crypto_LUKS") != encrypted:
        raise DiskNotFoundError(
            f"machine_volume_encrypted is {encrypted}, and the volume {disk} was made "
            f"{'without' if encrypted else 'with'} encryption; that is decided once. Set it back"
        )


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        {
            "device": {"type": "str", "default": ""},
            "label": {"type": "str", "required": True},
            "encrypted": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    device, label = module.params["device"], module.params["label"]
    try:
        names = {
            *disks(Path("/dev")),
            *([Path(device)] if device and Path(device).is_block_device() else []),
        }
        found = {disk: content(disk) for disk in sorted(names)}
        disk = choose(found, label, device)
        check_encryption(disk, found[disk], module.params["encrypted"])
    except DiskNotFoundError as problem:
        module.fail_json(msg=f"{problem}.")
    module.exit_json(changed=False, device=str(disk), empty=not found[disk])


if __name__ == "__main__":
    main()
