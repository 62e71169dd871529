"""Debian packages that the tests need on the machine: only those missing are installed."""

from __future__ import annotations

import os
import subprocess

from shell import PartError, run, say

ENGINE = ("docker.io", "containerd", "runc", "iptables", "iproute2", "openssl", "debootstrap")
CLOUD = ("nftables", "util-linux", "mount", "openssh-client")
GRID = (
    "openssl",
    "util-linux",
    "xrootd-server",
    "xrootd-client",
    "xrootd-server-plugins",
    "xrootd-scitokens-plugins",
    "xrootd-voms-plugins",
    "voms-clients",
    "fetch-crl",
)
BROWSER = ("chromium", "chromium-driver", "fonts-dejavu-core", "libnss3-tools")


def install(*names: str) -> None:
    missing = [name for name in names if not installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise PartError(
            f"missing packages, and only root can install them: apt-get install {' '.join(missing)}"
        )
    say(f"installing {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    # Nothing is started: the tests run an engine of their own, with its own socket and folders.
    start_nothing = {"RUNLEVEL": "1"}
    run("apt-get", "update", "-qq")
    run(
        "apt-get",
        "install",
        "-qq",
        "-y",
        "--no-install-recommends",
        *missing,
        env=quiet | start_nothing,
    )


def installed(name: str) -> bool:
    said = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return said.stdout == "installed"
