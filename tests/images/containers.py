"""The engine that DOCKER_HOST names: build, run and look at images and containers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
NAMES = ("service", "tfaas", "job", "grid")
# The machine's own trust store as the site's CAs: builds work behind an inspecting proxy too.
CAS = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
OPTIONS = ["--network", "host", "--ca-bundle", str(CAS)]
LOCKED_DOWN = [
    *("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "200"),
]


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"timeout": 1200} | options
    ended = subprocess.run(command, capture_output=True, text=True, **options)
    assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stdout}\n{ended.stderr[-4000:]}"
    return ended


def docker(*words: str) -> str:
    return run(DOCKER, *words).stdout


def build(*words: str, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(root / "docker/build.py")
    return run(sys.executable, script, *OPTIONS, *words, env=os.environ | environment)


def inspect(thing: str) -> dict[str, Any]:
    return json.loads(docker("inspect", thing))[0]


def in_image(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    return docker("run", "--rm", *LOCKED_DOWN, *options, image, *command)


def wait_for(what: Callable[[], Any], expected: Any) -> None:
    for _ in range(600):
        if (found := what()) == expected:
            return
        time.sleep(0.2)
    pytest.fail(f"still {found!r}, not {expected!r}, after two minutes")
