"""The parts that run: containers with fixed addresses and names on the tests' network."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import downloads
import pki
import realm
from engine import DOCKER, HOST, NETWORK, docker, exists
from shell import CACHE, HERE, PartError, run, say

IMAGES = HERE / "images"
DIGESTS = CACHE / "digests.json"

REGISTRY = "mlaas4hep-test-registry"
PRIVATE = "mlaas4hep-test-private-registry"
KEYCLOAK = "mlaas4hep-test-keycloak"
PEBBLE = "mlaas4hep-test-pebble"
ADDRESSES = {
    REGISTRY: "10.213.0.2",
    KEYCLOAK: "10.213.0.3",
    PEBBLE: "10.213.0.4",
    PRIVATE: "10.213.0.5",
}
NAMES = {
    REGISTRY: ("registry-1.docker.io", "quay.io", "mirror.test"),
    KEYCLOAK: ("iam.test",),
    PEBBLE: ("acme.test",),
    PRIVATE: ("private.test",),
}
# What a deployment pulls, under its publisher's name, and the image here that stands for it.
PUBLISHED = {
    "docker.io/library/debian:bookworm-slim": "debian:bookworm-slim",
    downloads.CADDY_IMAGE: "mlaas4hep-test/caddy",
    downloads.OAUTH2_PROXY_IMAGE: "mlaas4hep-test/oauth2-proxy",
}


def build(name: str, *contexts: Path) -> str:
    """The image of `images/NAME`, with the files of these folders beside its Dockerfile."""
    image = f"mlaas4hep-test/{name}"
    context = CACHE / "contexts" / name
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(IMAGES / name, context)
    for folder in contexts:
        shutil.copytree(folder, context, dirs_exist_ok=True)
    say(f"image {image}")
    docker("build", "-q", "--network", "host", "-t", image, context)
    return image


def node() -> str:
    """A bare machine that also has what the IM would download from outside."""
    build("vm")
    with_lock = CACHE / "node"
    with_lock.mkdir(exist_ok=True)
    pki.authority()
    for file in (pki.BUNDLE, HERE.parent / "locks/node.txt"):
        shutil.copy(file, with_lock)
    return build("node", with_lock)


def start(name: str, image: str, *options: str | Path) -> None:
    """A running container of this image; one of another image is replaced."""
    if exists("container", name):
        wanted = docker("image", "inspect", "-f", "{{.Id}}", image)
        if docker("inspect", "-f", "{{.Image}} {{.State.Running}}", name) == f"{wanted} true":
            return
        docker("rm", "-f", name)
    aliases = [word for host in NAMES[name] for word in ("--network-alias", host)]
    docker("run", "-d", "--name", name, "--network", NETWORK, "--ip", ADDRESSES[name], *aliases,
           "-v", f"{pki.certificate(name, *NAMES[name])}:/tls:ro", *options, image)  # fmt: skip


def wait(name: str, url: str) -> None:
    """Until this address of the part answers with success."""
    host = NAMES[name][0]
    latest = ""
    for _ in range(600):
        try:
            run("curl", "-sSf", "-m", "5", "-o", "/dev/null", "--noproxy", "*", "--cacert", pki.CA,
                "--resolve", f"{host}:443:{ADDRESSES[name]}", f"https://{host}{url}")  # fmt: skip
            return
        except PartError as error:
            latest = str(error)
        if docker("inspect", "-f", "{{.State.Running}}", name) != "true":
            break
        time.sleep(0.5)
    raise PartError(f"{name} does not answer: {latest}\n{docker('logs', '--tail', '30', name)}")


def registry() -> None:
    """A registry that has what a deployment pulls, under the publishers' names.

    Another has the same, for who logs in (images/registry/login.json).
    """
    image = build("registry")
    start(REGISTRY, image, "-v", f"{REGISTRY}:/var/lib/registry")
    wait(REGISTRY, "/v2/")
    login = {"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "tests",
             "REGISTRY_AUTH_HTPASSWD_PATH": "/etc/registry.htpasswd"}  # fmt: skip
    start(PRIVATE, image, "-v", f"{REGISTRY}:/var/lib/registry:ro",
          *(word for pair in login.items() for word in ("-e", "=".join(pair))))  # fmt: skip
    wait(PRIVATE, "/")
    for name in ("caddy", "oauth2-proxy"):
        build(name, downloads.go(name))
    digests = {
        image.split("/")[-1].split(":")[0]: push(name, image) for name, image in PUBLISHED.items()
    }
    note(digests)


def note(digests: dict[str, str]) -> None:
    known = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    DIGESTS.write_text(json.dumps(known | digests, indent=1) + "\n")


def images() -> None:
    """The project's own images, built from the tree, in the registry."""
    registry()
    said = run(sys.executable, HERE.parents[1] / "docker/build.py", "--network", "host",
               "--ca-bundle", pki.MACHINE,
               env={"DOCKER_HOST": HOST, "DOCKER": DOCKER, "DOCKER_BUILDKIT": "0"})  # fmt: skip
    tags = [line.split()[0] for line in said.splitlines() if line.startswith("mlaas4hep/")]
    note({tag.split("/")[1].split(":")[0]: push(f"docker.io/{tag}", tag) for tag in tags})


def push(name: str, image: str) -> str:
    """The name with the digest under which the registry now has the image."""
    tagged = f"{ADDRESSES[REGISTRY]}:443/{name.partition('/')[2]}"
    docker("tag", image, tagged)
    said = docker("push", tagged)
    digest = next(word for word in said.split() if word.startswith("sha256:"))
    return f"{name}@{digest}"


def keycloak() -> None:
    realms = CACHE / "realms"
    realms.mkdir(exist_ok=True)
    for name in ("mlaas4hep", "other"):
        (realms / f"{name}-realm.json").write_text(json.dumps(realm.realm(name), indent=1))
    start(KEYCLOAK, build("keycloak", downloads.keycloak(), realms))
    wait(KEYCLOAK, "/realms/mlaas4hep/.well-known/openid-configuration")


def pebble() -> None:
    start(PEBBLE, build("pebble", downloads.go("pebble")))
    wait(PEBBLE, "/dir")


def stop() -> None:
    for name in ADDRESSES:
        if exists("container", name):
            docker("rm", "-f", name)
