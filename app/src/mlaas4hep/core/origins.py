"""Servers of grid data that are read through the installation's cache, and how a training does.

The cache has a door for each origin, or, where groups read different folders, one for each origin
and folder: an XRootD server with a port of its own, which opens nothing else. The data proxy lets a
training connect to the doors of its owner's groups only. A training in a container has the same
doors at its own 127.0.0.1, by the relay and the data proxy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple, Self

USUAL_PORT = 1094
EVERYTHING = "/"
"""The folder of a door that isn't kept to one."""
DOORS, ORIGINS, STATUS = "MLAAS4HEP_CACHE_DOORS", "MLAAS4HEP_CACHE_ORIGINS", "MLAAS4HEP_CACHE"
"""Variables of a training's environment: its doors, as JSON, all origins, the cache's status."""


def origins_of(text: str) -> list[str]:
    """The origins of a comma list, each as HOST:PORT."""
    return [with_port(entry.strip()) for entry in text.split(",") if entry.strip()]


def with_port(host: str) -> str:
    """HOST:PORT of a server of root:// that is named with or without its port."""
    return host if ":" in host else f"{host}:{USUAL_PORT}"


class Door(NamedTuple):
    """Files of an ``origin`` (HOST:PORT) below ``folder``, at the ``number``-th port from first."""

    number: int
    origin: str
    folder: str


def doors_of(origins: Iterable[str], folders: Iterable[str]) -> list[Door]:
    """The doors to these origins; ``folders`` are all that groups may read, none: everything."""
    wanted = product(origins, sorted(set(folders)) or [EVERYTHING])
    return [Door(number, origin, folder) for number, (origin, folder) in enumerate(wanted)]


@dataclass(frozen=True)
class Cache:
    """The cache at ``target`` (HOST:PORT of the first door), its status, and its doors."""

    target: str
    status_port: int
    doors: tuple[Door, ...]

    @property
    def status(self) -> str:
        """HOST:PORT at which it says whether a file is still the one that is cached."""
        return f"{self.target.rpartition(':')[0]}:{self.status_port}"

    def at(self, door: Door) -> tuple[str, int]:
        """Host and port of a door."""
        host, _, first = self.target.rpartition(":")
        return host, int(first) + door.number

    def open_to(self, paths: Iterable[str] | None) -> list[Door]:
        """The doors of who may read these folders, None: all."""
        if paths is None:
            return list(self.doors)
        mine = set(paths)
        return [door for door in self.doors if door.folder in mine]

    def pass_for(self, doors: Iterable[Door]) -> str:
        """What a credential says of the doors: ``NUMBERS@DIGEST``.

        The digest is that of all doors: after a change of the settings a number is another door's.
        """
        return f"{'.'.join(str(door.number) for door in doors)}@{self._digest}"

    def passed(self, text: str) -> list[Door]:
        """The doors of ``pass_for``; none where it was made for other ones."""
        numbers, _, digest = text.partition("@")
        if digest != self._digest or not numbers:
            return []
        return [self.doors[int(number)] for number in numbers.split(".")]

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.doors).encode()).hexdigest()[:16]

    def tunnels(self, doors: Iterable[Door], first: int = USUAL_PORT) -> dict[int, str]:
        """Where each port of a training's own, from ``first`` on, leads to."""
        return {first + door.number: "{}:{}".format(*self.at(door)) for door in doors}

    def environment(self, doors: Iterable[Door], first: int = USUAL_PORT) -> dict[str, str]:
        """What a training's environment has, so that it reads by these doors."""
        return {
            DOORS: json.dumps([(f"127.0.0.1:{first + door.number}", door) for door in doors]),
            ORIGINS: ",".join(dict.fromkeys(door.origin for door in self.doors)),
            STATUS: f"http://{self.status}",
            "XRD_NETWORKSTACK": "IPv4",  # all that the sandbox allows
        }


@dataclass(frozen=True)
class Doors:
    """Where a training reaches the ``origins``: its doors, by address, and the cache's status."""

    doors: dict[str, Door]
    origins: tuple[str, ...]
    status: str

    @classmethod
    def of_environment(cls) -> Self | None:
        """None where files of root:// are read from their servers themselves."""
        if DOORS not in os.environ:
            return None
        return cls(
            {at: Door(*door) for at, door in json.loads(os.environ[DOORS])},
            tuple(os.environ[ORIGINS].split(",")),
            os.environ[STATUS],
        )

    def to(self, origin: str, path: str) -> tuple[str, Door] | None:
        """Address and door of a path at an origin, if one leads there."""
        found = [
            (at, door)
            for at, door in self.doors.items()
            if door.origin == origin and lies_in(path, door.folder)
        ]
        return max(found, key=lambda each: len(each[1].folder), default=None)

    def folders(self, origin: str) -> list[str]:
        """What may be read at an origin."""
        return [door.folder for door in self.doors.values() if door.origin == origin]


def lies_in(path: str, *folders: str) -> bool:
    """Whether a path is below one of these folders, each with a slash at the end."""
    return path.startswith(folders) and ".." not in path.split("/")
