"""A user, who has files and a script (user.sh)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.machine import ROOT, Machine, docker, neighbour

HERE = Path(__file__).parent
FOLDER = "/tmp/user"


@dataclass(frozen=True)
class Files:
    """What the user has: a folder to upload, and events to predict for, with their truth."""

    folder: Path

    @property
    def upload(self) -> Path:
        return self.folder / "upload"

    @property
    def truth(self) -> list[int]:
        return json.loads((self.folder / "events.json").read_text())["truth"]


def example(folder: Path) -> Files:
    """The application's example, made by the application."""
    python = ROOT / ".venv/bin/python"
    subprocess.run([python, HERE / "example.py", folder], check=True, timeout=300)
    for name in ("user.sh", "person.py"):
        shutil.copy(HERE / name, folder)
    return Files(folder)


@dataclass(frozen=True)
class Session:
    """What the user's script got."""

    job: str
    seconds: dict[str, float]
    state: dict[str, Any]
    log: str
    bundle: list[str]
    predictions: list[float]

    @classmethod
    def on(cls, vm: Machine, files: Files, **environment: str) -> Session:
        """Of the script run on the machine itself."""
        vm.put(files.folder, FOLDER)
        return cls.of(["exec", *variables(environment), vm.name])

    @classmethod
    def outside(cls, files: Files, user: str, name: str, **environment: str) -> Session:
        """Of the script run on a neighbour, where the user signs in."""
        signs_in = {"PERSON": f"python3 {FOLDER}/person.py", "WHO": f"{user} {user}-pw"}
        with neighbour("-v", f"{files.folder}:{FOLDER}") as there:
            return cls.of(["exec", *variables(signs_in | environment), there.name], name)

    @classmethod
    def of(cls, where: list[str], name: str = "higgs") -> Session:
        """Of the script run by `docker WHERE…`, with the files in FOLDER there."""
        said = docker(*where, "bash", f"{FOLDER}/user.sh", name, FOLDER)
        words = dict(line.split(maxsplit=1) for line in said.splitlines())

        def read(file: str) -> str:
            return docker(*where, "cat", f"{FOLDER}/{file}")

        return cls(
            job=words.pop("job"),
            seconds={phase: float(took) for phase, took in words.items()},
            state=json.loads(read("job.json")),
            log=read("log.txt"),
            bundle=read("bundle.txt").split(),
            predictions=[row[0] for row in json.loads(read("predictions.json"))["predictions"]],
        )


def variables(environment: dict[str, str]) -> list[str]:
    return [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]


def area_under_curve(truth: list[int], scores: list[float]) -> float:
    """Area under the ROC curve: how often a signal event has the higher score of a pair."""
    signal = [score for score, label in zip(scores, truth, strict=True) if label == 1]
    background = [score for score, label in zip(scores, truth, strict=True) if label == 0]
    won = sum((s > b) + (s == b) / 2 for s in signal for b in background)
    return won / (len(signal) * len(background))
