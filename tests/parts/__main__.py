"""What the stack's tests need of the real world.

`python tests/parts up NAME…`, `down`, `status`, `environment`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import base
import downloads
import engine
import packages
import pki
import places
from shell import PartError, alone


def machine() -> None:
    places.build("vm")


def node() -> None:
    packages.install(*packages.CLOUD)
    places.node()


def neighbour() -> None:
    places.build("neighbour")


def browser() -> None:
    packages.install(*packages.BROWSER)


def xrootd() -> None:
    packages.install(*packages.GRID)
    downloads.seaweedfs()


PARTS: dict[str, tuple[str, Callable[[], None]]] = {
    "engine": (f"container engine at {engine.HOST}, with {base.NAME}", base.make),
    "pki": (
        f"test authority {pki.CA}, and what a machine here trusts: {pki.BUNDLE}",
        pki.authority,
    ),
    "vm": ("image of a bare machine with systemd: mlaas4hep-test/vm", machine),
    "node": ("image of a cloud's machine, with the IM's Ansible: mlaas4hep-test/node", node),
    "neighbour": ("image of another machine of the network: mlaas4hep-test/neighbour", neighbour),
    "registry": (
        "registry under the names " + ", ".join(places.NAMES[places.REGISTRY]),
        places.registry,
    ),
    "images": ("the project's images, built from the tree, in the registry", places.images),
    "keycloak": ("identity provider https://iam.test/realms/mlaas4hep", places.keycloak),
    "pebble": ("ACME server https://acme.test/dir", places.pebble),
    "browser": ("Chromium of Debian", browser),
    "xrootd": ("programs of XRootD and SeaweedFS; the tests run them as processes", xrootd),
}


def up(names: list[str]) -> None:
    if set(names) - {"xrootd"}:
        engine.start()
        names = ["engine", *names]
    for name in dict.fromkeys(names):
        PARTS[name][1]()


def down() -> None:
    if engine.process():
        places.stop()
        engine.stop()


def status() -> None:
    running = bool(engine.process())
    print(f"engine: {engine.HOST if running else 'not running'}")
    for name, address in places.ADDRESSES.items():
        there = running and engine.exists("container", name)
        state = engine.docker("inspect", "-f", "{{.State.Status}}", name) if there else "not there"
        print(f"{name}: {state} ({address}: {', '.join(places.NAMES[name])})")


def environment() -> None:
    print(f"DOCKER_HOST={engine.HOST}")
    print(f"DOCKER={engine.DOCKER}")
    print(f"MLAAS4HEP_TEST_CA={pki.CA}")
    print(f"MLAAS4HEP_TEST_CA_BUNDLE={pki.BUNDLE}")
    print(f"MLAAS4HEP_TEST_DIGESTS={places.DIGESTS}")


def main() -> int:
    explained = "\n".join(f"  {name:10} {what}" for name, (what, _) in PARTS.items())
    options = argparse.ArgumentParser(
        prog="python tests/parts",
        description=__doc__,
        epilog=f"parts:\n{explained}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is named").add_argument(
        "names", nargs="+", choices=list(PARTS), metavar="NAME"
    )
    commands.add_parser("down", help="stop all; what was made stays in the cache")
    commands.add_parser("status", help="what runs")
    commands.add_parser("environment", help="variables with which tests find the parts")
    asked = options.parse_args()
    try:
        if asked.command in ("status", "environment"):
            {"status": status, "environment": environment}[asked.command]()
        else:
            with alone():
                up(asked.names) if asked.command == "up" else down()
    except PartError as error:
        print(f"parts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
