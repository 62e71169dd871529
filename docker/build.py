#!/usr/bin/env python3
"""Build the images of MLaaS4HEP.

The one place that knows their names, versions, sources and arguments: `make images` runs it, the
role that builds on a host asks it for an `Order`. An image that was built from the same sources and
arguments is left as it is. Needs Python 3.10 or newer, nothing but its standard library, and the
command `docker` (or the one that DOCKER names).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKER = os.environ.get("DOCKER", "docker")
BASE = "debian:bookworm-slim"
USER = 64004
CHECKSUM_LABEL = "org.mlaas4hep.context"
DOCKERFILE = "docker/Dockerfile"
SITE_CA = "docker/system/site-ca.pem"
CERTIFICATE = "-----BEGIN CERTIFICATE-----"


class BuildError(Exception):
    """An image can't be built; the message says why."""


@dataclass(frozen=True)
class Image:
    """One image: the last stage of the Dockerfile that makes it, its tag's suffix."""

    target: str
    suffix: str = ""
    python: str = ""
    """Whose Python packages it has, if not its own."""

    @property
    def lock(self) -> str:
        """The lock of its packages."""
        return self.python or self.target + self.suffix

    def tag(self, version: str) -> str:
        """Its name at this version of the application."""
        return f"mlaas4hep/{self.target}:{version}{self.suffix}"

    @property
    def sources(self) -> list[str]:
        """The files and folders that it is made of."""
        return [
            DOCKERFILE,
            "docker/system",
            "docker/app",
            "LICENSE",
            "app/README.md",
            "app/pyproject.toml",
            "app/src",
            "app/locks/build.txt",
            f"app/locks/{self.lock}.txt",
        ]


IMAGES = {
    "service": Image("service"),
    "tfaas": Image("tfaas"),
    "job": Image("job"),
    "job-gpu": Image("job", "-gpu"),
    "grid": Image("grid", python="service"),
}
USUAL = ("service", "tfaas", "job")


@dataclass(frozen=True)
class Order:
    """All that a builder needs, be it the command `docker build` or the engine's API.

    `checksum` is the identity of sources and arguments; the image bears it as CHECKSUM_LABEL.
    """

    tag: str
    dockerfile: str
    target: str
    arguments: dict[str, str]
    checksum: str
    context: bytes

    @property
    def labels(self) -> dict[str, str]:
        """The labels to give to the builder."""
        return {CHECKSUM_LABEL: self.checksum}


def order(
    name: str,
    *,
    base: str = BASE,
    uid: int = USER,
    source: str = "",
    ca_bundle: str = "",
    keep_ca: bool = False,
) -> Order:
    """What to build for an image. `ca_bundle` is the text of the site's CAs, in PEM."""
    if name not in IMAGES:
        raise BuildError(f"there is no image {name!r}; there are {', '.join(IMAGES)}")
    if uid <= 0:
        raise BuildError(f"user {uid}: the images don't run as root; give a number above 0")
    if ca_bundle and CERTIFICATE not in ca_bundle:
        raise BuildError(f"the CA bundle holds no PEM certificate: no line {CERTIFICATE!r}")
    if keep_ca and not ca_bundle:
        raise BuildError("there is no CA bundle to keep: name the file with the site's CAs too")
    image = IMAGES[name]
    files = read_sources(image)
    arguments = {
        "BASE": base,
        "UID": str(uid),
        "LOCK": image.lock,
        "KEEP_CA": "yes" if keep_ca else "no",
        "VERSION": version() + image.suffix,
        "SOURCE": source,
    }
    # CAs that only the build trusts leave no trace in the image.
    kept_ca = ca_bundle if keep_ca else ""
    checksum = identity(files, [repr(sorted(arguments.items())), kept_ca])
    if ca_bundle:
        files[SITE_CA] = ca_bundle.encode(), False
    return Order(
        tag=image.tag(version()),
        dockerfile=DOCKERFILE,
        target=image.target,
        arguments=arguments | {"REVISION": revision(image, checksum)},
        checksum=checksum,
        context=pack(files),
    )


def version() -> str:
    """The application's version."""
    project = ROOT / "app/pyproject.toml"
    found = project.exists() and re.search(
        r'^version = "([^"]+)"', project.read_text(), re.MULTILINE
    )
    if not found:
        raise BuildError(f"{project} is missing or has no line 'version = \"N.N.N\"'")
    return found[1]


def revision(image: Image, checksum: str) -> str:
    """The commit that last changed the image's sources; outside git the sources' checksum."""
    if not (ROOT / ".git").exists():
        return f"sha256:{checksum}"
    changed = command("git", "-C", str(ROOT), "status", "--porcelain", "--", *image.sources)
    last = command("git", "-C", str(ROOT), "log", "-1", "--format=%H", "--", *image.sources)
    return last + ("-dirty" if changed else "")


Files = dict[str, tuple[bytes, bool]]
"""Content, and whether it is executable, by path in the context."""


def read_sources(image: Image) -> Files:
    """The files that an image is made of."""
    files: Files = {}
    for name in image.sources:
        path = ROOT / name
        if not path.exists():
            raise BuildError(f"{path} is missing: {', '.join(image.sources)} are needed")
        for file in [path, *path.rglob("*")]:
            in_context = str(file.relative_to(ROOT))
            if file.is_file() and "__pycache__" not in file.parts and in_context != SITE_CA:
                files[in_context] = file.read_bytes(), os.access(file, os.X_OK)
    return files


def identity(files: Files, more: list[str]) -> str:
    """One checksum for names, contents and whatever else makes a difference."""
    digest = hashlib.sha256(repr(more).encode())
    for name, (content, executable) in sorted(files.items()):
        digest.update(f"\0{name}\0{executable}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def pack(files: Files) -> bytes:
    """The context as builders read it: a tar, the same bytes for the same files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, (content, executable) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def built_from(tag: str) -> str:
    """The checksum that the image with this tag was built from; empty when there is none."""
    if not command(DOCKER, "image", "ls", "--quiet", tag):
        return ""
    label = f'{{{{index .Config.Labels "{CHECKSUM_LABEL}"}}}}'
    return command(DOCKER, "image", "inspect", "--format", label, tag)


def command(*words: str) -> str:
    """What a command says."""
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode:
        raise BuildError(f"{words[0]}: {ended.stderr.strip()}")
    return ended.stdout.strip()


def build(wanted: Order, given: argparse.Namespace) -> None:
    """Have the engine build one image."""
    # Addresses may hold a password: passed by the environment, not on the command line.
    addresses = {"APT_MIRROR": given.apt_mirror, "PIP_INDEX_URL": given.pip_index}
    addresses = {name: value for name, value in addresses.items() if value}
    proxies = [name for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ]
    words = [DOCKER, "build", "--tag", wanted.tag]
    words += ["--file", wanted.dockerfile, "--target", wanted.target]
    for name, value in wanted.labels.items():
        words += ["--label", f"{name}={value}"]
    for name, value in wanted.arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    for name in [*addresses, *proxies]:
        words += ["--build-arg", name]
    if given.network:
        words += ["--network", given.network]
    if given.fresh:
        words += ["--no-cache"]
    environment = os.environ | addresses
    ended = subprocess.run([*words, "-"], input=wanted.context, stdout=sys.stderr, env=environment)
    if ended.returncode:
        raise BuildError(f"{wanted.tag} was not built: the reason is in the builder's lines above")


def main() -> None:
    """Read the command line, build in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="*", help=f"of {', '.join(IMAGES)}; without: {' '.join(USUAL)}")
    add("--base", default=BASE, help="Debian or Ubuntu with Python 3.11 to 3.13 (%(default)s)")
    add("--uid", type=int, default=USER, help="number of user and group (%(default)s)")
    add("--ca-bundle", type=Path, help="PEM file of the site's CAs, trusted during the build")
    add("--keep-ca", action="store_true", help="and in the images too")
    add("--apt-mirror", help="http://HOST in place of the hosts in the base's apt sources")
    add("--pip-index", help="address of the Python package index in place of the usual one")
    add("--network", help="network of the build, for example host")
    add("--source", default="", help="address of the sources, for the images' label")
    add("--fresh", action="store_true", help="without the cache: newest Debian packages")
    add("--check", action="store_true", help="build nothing, say what would be built")
    given = parser.parse_args()
    try:
        for name in given.images or USUAL:
            wanted = order(
                name,
                base=given.base,
                uid=given.uid,
                source=given.source,
                ca_bundle=given.ca_bundle.read_text() if given.ca_bundle else "",
                keep_ca=given.keep_ca,
            )
            if not given.fresh and built_from(wanted.tag) == wanted.checksum:
                print(f"{wanted.tag} unchanged", flush=True)
            elif given.check:
                print(f"{wanted.tag} would be built", flush=True)
            else:
                build(wanted, given)
                print(f"{wanted.tag} built", flush=True)
    except (BuildError, OSError) as error:
        sys.exit(f"build.py: {error}")


if __name__ == "__main__":
    main()
