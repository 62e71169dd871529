"""Make the files of a release, ready to be put at its address (`make release`).

build/release/VERSION then has the collection's tarball, the playbook that the IM runs, the
templates (which name both by their address), the dashboard's files, as archives the images that
the container engine here has, and SHA256SUMS.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import generate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docker"))
import build  # noqa: E402

GALAXY = Path(sys.executable).with_name("ansible-galaxy")
DOCKER = os.environ.get("DOCKER", "docker")
# Where the version is written; a release sets it there, in its own copy.
VERSIONED = (
    "galaxy.yml",
    "app/pyproject.toml",
    "app/src/mlaas4hep/__init__.py",
    "roles/common/meta/argument_specs.yml",
    "roles/common/defaults/main.yml",
    "roles/common/README.md",
)


class ReleaseError(Exception):
    """The release can't be made; the message says why."""


def copy_of_the_tree(folder: Path) -> None:
    """What git knows, and new files that it does not ignore."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def set_version(folder: Path, version: str) -> None:
    """Set the version wherever the tree's own is written."""
    old = generate.current_version()
    for name in VERSIONED:
        text = (folder / name).read_text()
        found = re.sub(rf"(?<![\d.]){re.escape(old)}(?![\d.])", version, text)
        if found == text and version != old:
            raise ReleaseError(
                f"{name} does not have the version {old} of galaxy.yml; correct one of them"
            )
        (folder / name).write_text(found)


def collection(version: str, to: Path) -> None:
    """The tarball of the collection."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        copy_of_the_tree(tree)
        set_version(tree, version)
        ended = subprocess.run(
            [GALAXY, "collection", "build", "--force", "--output-path", to],
            cwd=tree, capture_output=True, text=True,
        )  # fmt: skip
        if ended.returncode:
            raise ReleaseError(
                f"ansible-galaxy collection build failed:\n{ended.stdout}{ended.stderr}"
            )


def archives(version: str, to: Path) -> list[str]:
    """Save the images of this version; the names of those that the container engine lacks."""
    missing = []
    for name in build.USUAL:
        image = build.IMAGES[name].tag(version)
        if (
            not shutil.which(DOCKER)
            or subprocess.run([DOCKER, "image", "inspect", image], capture_output=True).returncode
        ):
            missing.append(image)
            continue
        to.mkdir(exist_ok=True)
        with (
            subprocess.Popen([DOCKER, "save", image], stdout=subprocess.PIPE) as saved,
            gzip.open(to / f"{name}-{version}.tar.gz", "wb", compresslevel=1) as archive,
        ):
            assert saved.stdout
            shutil.copyfileobj(saved.stdout, archive, 1 << 20)
        if saved.returncode:
            raise ReleaseError(f"docker save {image} ended with {saved.returncode}")
    return missing


def checksums(folder: Path) -> None:
    """SHA256SUMS, as sha256sum --check reads it."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS"):
        with path.open("rb") as file:
            lines.append(
                f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n"
            )
    (folder / "SHA256SUMS").write_text("".join(lines))


def release(
    version: str, url: str, folder: Path, images: dict[str, str] | None = None
) -> list[str]:
    """All files of the release; the names of images that have no archive."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?", version):
        raise ReleaseError(f"the version is {version!r}; it must be like 1.2.3")
    if not url.startswith(("http://", "https://")):
        raise ReleaseError(
            f"the release's address is {url!r}; it must begin with https:// or http://"
        )
    for name, image in (images or {}).items():
        if name not in (known := generate.IMAGES + generate.MORE_IMAGES):
            raise ReleaseError(f"an image is {name!r}; there are {', '.join(known)}")
        if "@sha256:" not in image:
            raise ReleaseError(f"{name} is {image!r}, which has no digest; add @sha256:...")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    collection(version, folder)
    generate.write(folder, generate.files(version, url.rstrip("/"), images))
    missing = archives(version, folder / "images")
    checksums(folder)
    return missing


def main() -> None:
    """Entry point."""
    asked = argparse.ArgumentParser(description="Make the files of a release.")
    asked.add_argument("--version", default=generate.current_version())
    asked.add_argument("--release-url", required=True, help="where the files will be")
    asked.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="INPUT=NAME@DIGEST",
        help="an image in a registry, such as tfaas_image=registry.example.org/tfaas@sha256:...",
    )
    given = asked.parse_args()
    folder = ROOT / "build/release" / given.version
    images = {name: image for name, _, image in (text.partition("=") for text in given.image)}
    try:
        missing = release(given.version, given.release_url, folder, images)
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    for image in missing:
        print(f"no archive of {image}: the container engine does not have it (make images)")
    print(f"{folder.relative_to(ROOT)}: put its files at {given.release_url}")


if __name__ == "__main__":
    main()
