"""Servers of grid data that are read through the installation's cache, and how a training does.

Each origin has a port of its own at the cache, in the order of the list. A training in a container
has the same ports at its own 127.0.0.1, by the relay and the data proxy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

USUAL_PORT = 1094
ORIGINS, STATUS = "MLAAS4HEP_CACHED_ORIGINS", "MLAAS4HEP_CACHE_STATUS"
"""Variables of a training's environment: ORIGIN=DOOR, ..., and where the cache says how it is."""
PATHS, TOKEN = "MLAAS4HEP_CACHE_PATHS", "MLAAS4HEP_CACHE_TOKEN"
"""What it may read, where that is limited, and the token that says so to the cache."""
ISSUER, AUDIENCE = "https://mlaas4hep.invalid/jobs", "mlaas4hep-xrootd-cache"
"""Of these tokens. No address leads to the issuer: the cache has its key from the operator."""


def origins_of(text: str) -> list[str]:
    """The origins of a comma list, each as HOST:PORT."""
    return [with_port(entry.strip()) for entry in text.split(",") if entry.strip()]


def with_port(host: str) -> str:
    """HOST:PORT of a server of root:// that is named with or without its port."""
    return host if ":" in host else f"{host}:{USUAL_PORT}"


@dataclass(frozen=True)
class Cache:
    """The cache at ``target`` (HOST:PORT of the first origin), its status, and what it caches."""

    target: str
    status_port: int
    origins: tuple[str, ...]

    @property
    def status(self) -> str:
        """HOST:PORT at which it says whether a file is still the one that is cached."""
        return f"{self.target.rpartition(':')[0]}:{self.status_port}"

    @property
    def ports(self) -> list[tuple[str, int]]:
        """Host and port of each origin at the cache."""
        host, _, first = self.target.rpartition(":")
        return [(host, int(first) + number) for number in range(len(self.origins))]

    def tunnels(self, first: int = USUAL_PORT) -> dict[int, str]:
        """Where each port of a training's own, from ``first`` on, leads to."""
        return {first + n: f"{host}:{port}" for n, (host, port) in enumerate(self.ports)}

    def environment(self, first: int = USUAL_PORT) -> dict[str, str]:
        """What a training's environment has, so that it reads by these ports."""
        doors = (f"{origin}=127.0.0.1:{first + n}" for n, origin in enumerate(self.origins))
        return {
            ORIGINS: ",".join(doors),
            STATUS: f"http://{self.status}",
            "XRD_NETWORKSTACK": "IPv4",  # all that the sandbox allows
        }


@dataclass(frozen=True)
class Doors:
    """Where a training reaches the origins: a door for each, and the cache's status."""

    doors: dict[str, str]
    status: str
    paths: tuple[str, ...] | None = None
    token: str = ""

    @classmethod
    def of_environment(cls) -> Self | None:
        """None where files of root:// are read from their servers themselves."""
        said = os.environ.get(ORIGINS, "")
        if not said:
            return None
        pairs = (entry.partition("=") for entry in said.split(","))
        paths = os.environ.get(PATHS)
        return cls(
            {origin: door for origin, _, door in pairs},
            os.environ.get(STATUS, ""),
            None if paths is None else tuple(filter(None, paths.split(","))),
            os.environ.get(TOKEN, ""),
        )

    @property
    def first(self) -> str:
        """The origin whose files are meant by /store/..."""
        return next(iter(self.doors))
