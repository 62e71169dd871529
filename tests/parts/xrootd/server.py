"""A server of the tests: processes on loopback that a test stops, kills and starts again."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Self

from .commands import GridError, run

USER = "xrootd"
"""Debian's package makes it: XRootD refuses to run as root."""
PATIENCE = 60
"""Seconds in which a server must be there or gone; it takes one or two."""
_CONFIGURATION = Path(__file__).parent / "configuration"


def free_port() -> int:
    """A port on which nobody listens.

    It is below those that the kernel gives to connections that go out, so that a server that was
    killed finds its own again.
    """
    for port in random.sample(range(20000, 32000), 200):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise GridError("no free port between 20000 and 32000")


@dataclass
class Program:
    """A process of a server; it is there when its log has the text ``ready``."""

    words: tuple[str | Path, ...]
    log: Path
    ready: str
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    since: int = 0
    network: Path | None = None
    """The network namespace to run in, if not this computer's: /proc/PID/ns/net."""

    def start(self) -> None:
        self.log.touch()
        self.since = self.log.stat().st_size
        as_user = ("--reuid", USER, "--regid", USER, "--clear-groups") if os.geteuid() == 0 else ()
        # It dies with the thread that starts it, even if the tests are killed.
        inside = ("nsenter", f"--net={self.network}") if self.network else ()
        words = (*inside, "setpriv", "--pdeathsig", "KILL", *as_user, *self.words)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                env=os.environ | self.env,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, ready: str = "") -> None:
        """Until its log has this text, by default the one that says that it is there."""
        assert self.process
        end = time.monotonic() + PATIENCE
        while (ready or self.ready).encode() not in (said := self._said()):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > end:
                how = f"ended with {self.process.returncode}" if ended else "does not start"
                tail = said.decode(errors="replace")[-3000:]
                raise GridError(f"{' '.join(map(str, self.words))} {how}:\n{tail}")
            time.sleep(0.02)

    def _said(self) -> bytes:
        with self.log.open("rb") as log:
            log.seek(self.since)
            return log.read()

    def signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, number: int) -> None:
        self.signal(signal.SIGCONT)
        self.signal(number)
        if self.process:
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
            self.process = None


class Server:
    """Processes with a folder of their own in /tmp.

    ``url`` is the address of the folder ``data``: a file that lies there as NAME is ``url/NAME``.
    ``log`` is that of the process that clients talk to. To be used with ``with``, or ended by
    ``close()``, which also removes the folder.
    """

    url: str
    data: Path
    log: Path

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"mlaas4hep-{name}-"))
        self.folder.chmod(0o755)
        self.programs: list[Program] = []

    def start(self) -> None:
        """Start it, and wait until it answers; its port is the same each time."""
        for program in self.programs:
            program.start()
        try:
            for program in self.programs:
                program.wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Let it end; its files stay."""
        for program in self.programs:
            program.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        for program in self.programs:
            program.end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: connections are accepted, and nothing is answered."""
        for program in self.programs:
            program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for program in self.programs:
            program.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, file: Path, name: str = "") -> str:
        """Copy a file to the server; its URL."""
        kept = self.data / (name or file.name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
        return f"{self.url}/{name or file.name}"

    def own(self) -> None:
        """Give all files so far to the user as whom the server runs."""
        if os.geteuid() == 0:
            run("chown", "-R", f"{USER}:{USER}", self.folder)


def configuration(*names: str, **values: object) -> str:
    """The templates of these names with their values, as one."""
    return "".join(
        Template((_CONFIGURATION / f"{name}.cfg").read_text()).substitute(values) for name in names
    )
