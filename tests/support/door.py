"""The stack seen from outside the machine: by curl, as scripts do, with TLS verified."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

CURL = ("curl", "-sSi", "--noproxy", "*", "--max-time", "300")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.headers} {self.body[:300]}"


@dataclass(frozen=True)
class Door:
    """Where requests are sent; `where` comes before curl, when another machine sends them."""

    url: str
    options: tuple[str, ...] = ()
    where: tuple[str, ...] = field(default=())

    def ask(self, path: str, *options: str, token: str = "") -> Answer:
        """The answer to a request with these options of curl; redirects are not followed."""
        bearer = ("-H", f"Authorization: Bearer {token}") if token else ()
        command = [*self.where, *CURL, *self.options, *bearer, *options]
        ended = subprocess.run(
            [*command, self.url + path],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
        )
        assert ended.returncode == 0, f"curl {self.url}{path}: {ended.stderr}"
        head, _, body = ended.stdout.replace("\r\n", "\n").partition("\n\n")
        first, *lines = head.splitlines()
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        return Answer(int(first.split()[1]), {k.lower(): v for k, v in headers.items()}, body)


def leads(**addresses: str) -> tuple[str, ...]:
    """Options of curl: names lead to addresses, whatever the port; certificates are the names'."""
    return tuple(
        word for name, to in addresses.items() for word in ("--connect-to", f"{name}::{to}:")
    )
