"""The tutorial, typed in by a reader: every indented line is run, in its order, in one shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from mlaas4hep.demo.run import NAME, Inputs, five_files
from mlaas4hep.demo.simulate import write_files
from support.ports import free_port

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial/first-model.md"
SHELL = """\
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
set -m
ready() { curl -sS --retry 60 --retry-delay 1 --retry-connrefused -o /dev/null "$1/healthz"; }
"""
ENDED = """
until curl -sS {server}/jobs/mine_1 | grep -qE '"state": ?"(succeeded|failed)"'; do sleep 0.3; done
"""


def commands(text: str) -> str:
    """The indented lines, but for those that show what is in a file."""
    lines = re.findall(r"^ {4}(.*)$", text, re.M)
    shell = re.compile(r'(?!signal\.root |background\.root |\{"branch")')
    return "\n".join(line for line in lines if shell.match(line))


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    demo = tmp_path / "demo"  # what `make demo` leaves there, which has tests of its own
    demo.mkdir()
    signal, background, mixture = write_files(demo, n=2000)
    five_files(demo / NAME, Inputs([signal, background], ["1", "0"], predict=mixture))
    ports = {"8083": str(free_port()), "8080": str(free_port())}
    text = commands(TUTORIAL.read_text())
    for written, free in ports.items():
        text = text.replace(written, free)
    tfaas, server = (f"http://127.0.0.1:{port}" for port in ports.values())
    text = text.replace("mlaas4hep tfaas &", f"mlaas4hep tfaas & ready {tfaas}")
    text = text.replace("mlaas4hep server &", f"mlaas4hep server & ready {server}")
    ask = f"curl {server}/jobs/mine_1"
    text = text.replace(ask, ENDED.format(server=server) + ask)
    ran = subprocess.run(
        ["bash", "-c", SHELL + text.replace("curl ", "curl -sS -w '\\n' ")],
        cwd=tmp_path,
        env=os.environ
        | {
            "MLAAS4HEP_STORE": str(tmp_path / "store"),
            "MLAAS4HEP_TFAAS_PORT": ports["8083"],
            "MLAAS4HEP_SERVER_PORT": ports["8080"],
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    lines = re.findall(r'^\{"(?:model|process_name)".*\}$', ran.stdout, re.M)
    answers = [json.loads(line) for line in lines]
    assert {"model": "my_model"} in answers
    assert any(len(a.get("predictions", [])) == 1 for a in answers)
    assert '"state":"succeeded"' in ran.stdout
    for path in (
        "my_model/report.html",
        "pictures/jet_sum.png",
        "out_of_fold.root",
        "scores.root",
        "mine_1.tar.gz",
    ):
        assert (tmp_path / "my_first" / path).is_file(), path
    assert len(re.findall(r"^[ [][[]0\.\d+ *[]]", ran.stdout, re.M)) == 5  # the client's answers
