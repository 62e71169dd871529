#!/usr/bin/env python3
"""Build the images mlaas4hep/service, mlaas4hep/tfaas and mlaas4hep/job.

The one place that knows their names, versions, contexts and arguments. An image that was built
from the same sources and arguments is left as it is. Needs Python 3.10 or newer, nothing but its
standard library, and the command `docker` (or the one that DOCKER names).
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
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKER = os.environ.get("DOCKER", "docker")
CONTEXT_LABEL = "org.mlaas4hep.context"
SITE_CA = "docker/shared/system/site-ca.pem"


@dataclass(frozen=True)
class Image:
    """One image: the folder of its Dockerfile, the lock of its packages, its tag's suffix."""

    folder: str
    lock: str
    suffix: str = ""

    @property
    def tag(self) -> str:
        """Name and tag: the tag is the application's version."""
        return f"mlaas4hep/{self.folder}:{version()}{self.suffix}"


IMAGES = {
    "service": Image("service", "service"),
    "tfaas": Image("tfaas", "tfaas"),
    "job": Image("job", "job"),
    "job-gpu": Image("job", "job-gpu", "-gpu"),
}
USUAL = ("service", "tfaas", "job")


@dataclass
class Context:
    """What the builder gets: files by their path in the context."""

    files: dict[str, tuple[bytes, bool]] = field(default_factory=dict)

    def add(self, name: str, path: Path) -> None:
        """One file, or all of a folder."""
        if path.is_dir():
            for entry in sorted(path.iterdir()):
                if entry.name != "__pycache__":
                    self.add(f"{name}/{entry.name}", entry)
        else:
            self.files[name] = path.read_bytes(), os.access(path, os.X_OK)

    def checksum(self, arguments: dict[str, str]) -> str:
        """The identity of files and arguments together."""
        digest = hashlib.sha256(repr(sorted(arguments.items())).encode())
        for name, (content, executable) in sorted(self.files.items()):
            digest.update(f"\0{name}\0{executable}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def tar(self) -> bytes:
        """The context as the builder reads it: the same bytes for the same files."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, (content, executable) in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755 if executable else 0o644
                archive.addfile(entry, io.BytesIO(content))
        return stream.getvalue()


def sources(image: Image) -> dict[str, Path]:
    """The files and folders that an image is made of."""
    names = [
        "docker/shared/system",
        "docker/shared/app",
        f"docker/{image.folder}/Dockerfile",
        "app/pyproject.toml",
        "app/README.md",
        "app/src",
        "LICENSE",
        "app/locks/build.txt",
        f"app/locks/{image.lock}.txt",
    ]
    return {name: ROOT / name for name in names}


def version() -> str:
    """The application's version."""
    text = (ROOT / "app/pyproject.toml").read_text()
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    if not found:
        sys.exit(f'{ROOT / "app/pyproject.toml"} has no line: version = "N.N.N"')
    return found[1]


def revision(image: Image, checksum: str) -> str:
    """The commit that last changed the image's sources; outside git the sources' checksum."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments, "--", *sources(image)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if not (ROOT / ".git").exists():
        return f"sha256:{checksum}"
    return git("log", "-1", "--format=%H") + ("-dirty" if git("status", "--porcelain") else "")


def build(image: Image, given: argparse.Namespace) -> None:
    """Build one image unless it is there as it would be built; say which."""
    context = Context()
    for name, path in sources(image).items():
        if not path.exists():
            sys.exit(f"{path} is missing: {image.tag} is made of {', '.join(sources(image))}")
        context.add(name, path)
    kept = {
        "BASE": given.base,
        "UID": str(given.uid),
        "LOCK": image.lock,
        "VERSION": version() + image.suffix,
        "SOURCE": given.source,
    }
    ca_bundle = read_ca_bundle(given.ca_bundle)
    if given.keep_ca:
        kept["KEEP_CA"] = "yes"
    checksum = context.checksum(kept | ({"CA": ca_bundle.decode()} if given.keep_ca else {}))
    if not given.fresh and built_from(image) == checksum:
        print(f"{image.tag} unchanged")
        return
    if given.check:
        print(f"{image.tag} would be built")
        return
    if ca_bundle:
        context.files[SITE_CA] = ca_bundle, False
    arguments = kept | {"REVISION": revision(image, checksum)}
    # Addresses may hold a password: passed by the environment, not on the command line.
    passed_on = {"APT_MIRROR": given.apt_mirror, "PIP_INDEX_URL": given.pip_index}
    passed_on = {name: value for name, value in passed_on.items() if value}
    command = [DOCKER, "build", "--tag", image.tag, "--file", f"docker/{image.folder}/Dockerfile"]
    command += ["--label", f"{CONTEXT_LABEL}={checksum}"]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name in [*passed_on, "http_proxy", "https_proxy", "no_proxy"]:
        if name in passed_on or name in os.environ:
            command += ["--build-arg", name]
    if given.network:
        command += ["--network", given.network]
    if given.fresh:
        command += ["--no-cache"]
    print(f"{image.tag} is being built", file=sys.stderr, flush=True)
    ended = subprocess.run(
        [*command, "-"], input=context.tar(), stdout=sys.stderr, env=os.environ | passed_on
    )
    if ended.returncode:
        sys.exit(
            f"{image.tag} was not built: {DOCKER} build ended with status {ended.returncode};"
            " its reason is above"
        )
    print(f"{image.tag} built")


def built_from(image: Image) -> str:
    """The checksum that the image with this tag was built from; empty when there is none."""
    command = [DOCKER, "image", "ls", "--quiet", image.tag]
    if not subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.strip():
        return ""
    form = f'{{{{index .Config.Labels "{CONTEXT_LABEL}"}}}}'
    command = [DOCKER, "image", "inspect", "--format", form, image.tag]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def read_ca_bundle(path: Path | None) -> bytes:
    """The site's CAs; a file without a certificate is an error now rather than in the build."""
    if path is None:
        return b""
    content = path.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in content:
        sys.exit(
            f"--ca-bundle {path} holds no PEM certificate; it needs '-----BEGIN CERTIFICATE-----'"
        )
    return content


def main() -> None:
    """Read the command line, build in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help=f"{', '.join(IMAGES)}; the usual: {' '.join(USUAL)}",
    )
    parser.add_argument(
        "--base",
        default="debian:bookworm-slim",
        help="base image: Debian or Ubuntu with Python 3.11 to 3.13 (%(default)s)",
    )
    parser.add_argument(
        "--uid", type=int, default=64004, help="user and group number in the image (%(default)s)"
    )
    parser.add_argument(
        "--ca-bundle", type=Path, help="PEM file of the site's CAs, trusted during the build"
    )
    parser.add_argument(
        "--keep-ca", action="store_true", help="keep these CAs in the images' trust store"
    )
    parser.add_argument(
        "--apt-mirror", help="http://HOST instead of the host in the base image's apt sources"
    )
    parser.add_argument(
        "--pip-index", help="address of a Python package index instead of the usual one"
    )
    parser.add_argument("--network", help="network of the build, for example host")
    parser.add_argument(
        "--source",
        default="",
        help="address of the sources, for the label org.opencontainers.image.source",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="build anew without the cache: newest Debian packages"
    )
    parser.add_argument(
        "--check", action="store_true", help="build nothing, say what would be built"
    )
    given = parser.parse_args()
    for name in given.images:
        if name not in IMAGES:
            parser.error(f"there is no image {name!r}; there are {', '.join(IMAGES)}")
    if given.uid <= 0:
        parser.error(f"--uid {given.uid}: the images don't run as root; give a number above 0")
    if given.keep_ca and not given.ca_bundle:
        parser.error("--keep-ca keeps what --ca-bundle names; give both")
    for name in given.images or USUAL:
        build(IMAGES[name], given)


if __name__ == "__main__":
    main()
