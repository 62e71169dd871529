"""The settings of a container engine that others may use as well: theirs stay as they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

DAEMON = Path("/etc/docker/daemon.json")
OURS = Path("/etc/docker/mlaas4hep.json")
"""Which of them the role wrote, with their values; all others are not the role's."""
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
NOBODY = 65534


class Settings:
    """What is written there, and what would be."""

    def __init__(self, defaults, options, daemon=DAEMON, ours=OURS):
        """Reads the files; ValueError when one is no object of JSON.

        ``options`` are the site's word and must not contradict what others wrote; ``defaults`` give
        way to it.
        """
        self.before = _read(daemon)
        self._written = _read(ours)
        self._others = {k: v for k, v in self.before.items() if k not in self._written}
        wanted = {**defaults, **options}
        self.ours = {k: v for k, v in wanted.items() if k not in self._others}
        self.after = {**self._others, **self.ours}
        self.conflicts = [
            (name, self._others[name], value)
            for name, value in options.items()
            if self._others.get(name, value) != value
        ]
        self.changed = (self.before, self._written) != (self.after, self.ours)


def _read(file):
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object of JSON")
    return found


def data_root(options, daemon=DAEMON):
    """Where the engine has images, or will have."""
    try:
        there = _read(daemon)
    except ValueError:  # another check says it
        there = {}
    return Path({"data-root": "/var/lib/docker", **options, **there}["data-root"])


def text(settings):
    """As it stands in the file."""
    return json.dumps(settings, indent=4) + "\n"


def refusal(settings):
    """What the engine that is installed says against these settings; empty when it takes them."""
    dockerd = shutil.which("dockerd", path=PROGRAMS)
    if not dockerd:
        return ""
    words = [dockerd, *_flags()]
    if "--validate" in ran(dockerd, "--help").stdout:
        words.append("--validate")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text(settings))
        file.flush()
        Path(file.name).chmod(0o644)
        # One that can't validate yet (20.10) reads its settings, and then wants to be root.
        nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        asked = ran(*words, "--config-file", file.name, **nobody)
        said = asked.stderr.replace(f" with file {file.name}", "").strip()
    fine = asked.returncode == 0 or "root privileges" in said
    return "" if fine else (said.splitlines() or ["it gives no reason"])[-1]


def _flags():
    """What the service is started with beside the file: a setting must not be in both."""
    shown = ran("systemctl", "show", "docker", "--property", "ExecStart").stdout
    found = re.search(r"argv\[\]=\S+ (.*?) ;", shown)
    return [word for word in shlex.split(found[1]) if not word.startswith("$")] if found else []


def ran(*words, **options):
    """How a command ended that only looks; one that is missing finds nothing."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, **options)  # noqa: S603 (the words are ours)
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 127, "", "")
