"""The three services as processes of their own, on free loopback ports, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from mlaas4hep.core.errors import MlaasError

MAIN = "mlaas4hep.cli.main"
STOP_SECONDS = 15


class Services:
    """Server, runner and TFaaS over one store; leaving the context leaves no process behind."""

    def __init__(self, store: Path, logs: Path) -> None:
        self._store = store
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.server_url = ""
        self.tfaas_url = ""

    def start(self) -> Services:
        """Start all three; on return they answer."""
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            self.tfaas_url = self._start("tfaas", "--port", "0")
            self.server_url = self._start("server", "--port", "0")
            self._start("runner", "--stop-jobs")
        except BaseException:
            self.stop()
            raise
        return self

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, name: str, *options: str) -> str:
        """Start a service and wait for its first line, which ends with where it listens."""
        log = self._logs / f"{name}.log"
        with log.open("w") as stream:
            # A session of its own: Ctrl-C reaches the demo alone, which stops them in order.
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [sys.executable, "-m", MAIN, name, "--store", str(self._store), *options],
                env=os.environ | {"MLAAS4HEP_TFAAS_URL": self.tfaas_url},
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
            )
        self._processes[name] = process
        assert process.stdout is not None  # noqa: S101 - for the type checker
        line = process.stdout.readline()
        if not line:
            tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-8:])
            raise MlaasError(f"{name} did not start:\n  {tail}", f"The whole log is {log}.")
        return line.split()[-1]

    @property
    def pids(self) -> list[int]:
        """Process ids of the running services."""
        return [p.pid for p in self._processes.values()]

    def stop(self) -> None:
        """Stop the runner (and with it the trainings), then the others."""
        for name in ("runner", "server", "tfaas"):
            if (process := self._processes.pop(name, None)) is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
