#!/usr/bin/python
"""Remove images of earlier versions, but for the version before."""

from __future__ import annotations

DOCUMENTATION = """
module: old_images
short_description: Remove images of earlier versions, but for the version before
description:
  - Of each part that is named, keeps the image in use and the one that was brought last before it.
  - Removes only images that the roles have brought, as /etc/docker/mlaas4hep.images says, and
    images of MLaaS4HEP that have lost their name to a newer build. One that a container uses stays.
options:
  used:
    description: The image that is in use now, by part. Other parts are left alone.
    type: dict
    default: {}
  uninstall:
    description: Whether all images of all parts go.
    type: bool
    default: false
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Remove what is older than the version before
  mlaas4hep.stack.old_images:
    used: {tfaas: "mlaas4hep/tfaas:0.2.0"}
"""

RETURN = """
removed:
  description: Images that are gone, or would be in check mode.
  returned: success
  type: list
  elements: str
kept:
  description: Images that are there to go back to.
  returned: success
  type: list
  elements: str
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.stack.plugins.module_utils.engine import ran

BROUGHT = Path("/etc/docker/mlaas4hep.images")
"""A line PART NAME for each image that the roles pulled or built, the newest last."""
BASE = "base"
"""The part of the image that builds start from."""
STAGE = "org.mlaas4hep.stage"


def read(file):
    """Pairs of part and name."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(line.rsplit(maxsplit=1)) for line in lines]


def split(brought, used):
    """Names of images to keep for going back, and of those that are older."""
    kept, older = [], []
    for part in used:
        # Two parts may use one image.
        others = [name for of, name in brought if of == part and name not in used.values()]
        kept += others[-1:]
        older += others[:-1]
    return kept, [name for name in older if name not in kept]


def inspect(image):
    """What the engine knows of an image; nothing when there is none."""
    asked = ran("docker", "image", "inspect", image)
    return json.loads(asked.stdout)[0] if asked.returncode == 0 else {}


def images(*filters):
    """What the engine knows of the images that these filters find."""
    words = [word for one in filters for word in ("--filter", one)]
    listed = ran("docker", "image", "ls", "--quiet", "--no-trunc", *words).stdout.split()
    return [found for name in dict.fromkeys(listed) if (found := inspect(name))]


def nameless(used):
    """Builds whose name a newer one has, and stages from long before every build in use."""
    lost = [i for i in images("dangling=true", f"label={STAGE}=image") if not i["RepoDigests"]]
    built = [i for name in used if STAGE in labels(i := inspect(name))]
    # Builds take hours at most; younger stages are the cache of the next build.
    oldest = min((created(i) for i in built), default=datetime.min + timedelta(days=1))
    stages = images("dangling=true", f"label={STAGE}=build")
    return lost + [i for i in stages if created(i) < oldest - timedelta(days=1)]


def bases(brought):
    """What earlier builds started from, whose name a newer pull has."""
    ours = {repository(name) for part, name in brought if part == BASE}
    return [
        image
        for image in images("dangling=true")
        if ours & {repository(digest) for digest in image["RepoDigests"]}
    ]


def repository(image):
    """Its name without tag or digest; a registry may have a port."""
    folder, slash, name = image.partition("@")[0].rpartition("/")
    return folder + slash + name.partition(":")[0]


def labels(image):
    """Its labels, if there are any."""
    return image.get("Config", {}).get("Labels") or {}


def created(image):
    """When it was made."""
    return datetime.fromisoformat(image["Created"][:19])


def in_use():
    """Identities of images that containers have, running or not."""
    containers = ran("docker", "ps", "--all", "--quiet", "--no-trunc").stdout.split()
    asked = ran("docker", "inspect", "--format", "{{.Image}}", *containers) if containers else None
    return set(asked.stdout.split()) if asked else set()


def main():
    """Read the arguments, remove, report."""
    module = AnsibleModule(
        argument_spec={
            "used": {"type": "dict", "default": {}},
            "uninstall": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    brought = read(BROUGHT)
    if module.params["uninstall"]:
        # The base in the end: the engine keeps what another image was built on.
        kept, older = [], [name for part, name in sorted(brought, key=lambda one: one[0] == BASE)]
    else:
        kept, older = split(brought, module.params["used"])
    busy = in_use()
    old = {name: found for name in older if (found := inspect(name))}
    old |= {found["Id"]: found for found in nameless(module.params["used"].values())}
    removed = [name for name, found in old.items() if found["Id"] not in busy]
    if not module.check_mode:
        # Whether one is still needed, only the engine knows.
        removed += [found["Id"] for found in bases(brought)]
        removed = [n for n in removed if ran("docker", "image", "rm", n).returncode == 0]
        there = [(part, name) for part, name in brought if name not in older or inspect(name)]
        if there != brought:
            BROUGHT.write_text("".join(f"{part} {name}\n" for part, name in there))
        if not there:
            BROUGHT.unlink(missing_ok=True)
    kept = [name for name in kept if inspect(name)]
    module.exit_json(changed=bool(removed), removed=removed, kept=kept)


if __name__ == "__main__":
    main()
