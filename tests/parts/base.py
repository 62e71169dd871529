"""debian:bookworm-slim, made from Debian's packages as its publisher makes it.

No image is pulled from outside.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine import DOCKER, HOST, exists
from shell import CACHE, PartError, new_folder, run, say

NAME = "debian:bookworm-slim"
SLIM = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
)
# What the publisher's image has beside the packages: it starts no service, keeps no archive,
# leaves out documents.
FILES = {
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/apt/apt.conf.d/docker-clean": 'APT::Keep-Downloaded-Packages "false";\n'
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin"; };\n',
    "etc/dpkg/dpkg.cfg.d/docker": "force-unsafe-io\npath-exclude /usr/share/doc/*\n"
    "path-include /usr/share/doc/*/copyright\npath-exclude /usr/share/man/*\n"
    "path-exclude /usr/share/locale/*\n",
}
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))


def make() -> None:
    if exists("image", NAME):
        return
    kept = CACHE / "debian-bookworm"
    if not kept.exists():
        say(f"making {NAME} with debootstrap (a minute or two, once)")
        with new_folder(kept) as folder:
            bootstrap(folder / "root")
            run("tar", "-C", folder / "root", "-cf", folder / "root.tar", ".")
            shutil.rmtree(folder / "root")
    run(
        DOCKER, "import", "--change", "CMD bash", kept / "root.tar", NAME, env={"DOCKER_HOST": HOST}
    )


def bootstrap(root: Path) -> None:
    sources = next(
        (path for path in SOURCES if path.exists() and "bookworm" in path.read_text()), None
    )
    if not sources:
        raise PartError(
            f"none of {', '.join(map(str, SOURCES))} names Debian 12's packages (bookworm)"
        )
    run("debootstrap", "--variant=minbase", "bookworm", root)
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    shutil.copy(sources, root / str(sources.relative_to("/")))
    for name, text in FILES.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755 if name.startswith("usr/sbin") else 0o644)
    # Debian's updates since the release, security fixes among them, as in the publisher's image.
    run("chroot", root, "apt-get", "update", "-qq")
    run(
        "chroot",
        root,
        "apt-get",
        "-qq",
        "-y",
        "dist-upgrade",
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )
    for name in SLIM:
        run("find", root / name, "!", "-type", "d", "!", "-name", "copyright", "-delete")
        run("find", root / name, "-mindepth", "1", "-type", "d", "-empty", "-delete")
    for name in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (root / name).mkdir(parents=True, exist_ok=True)
