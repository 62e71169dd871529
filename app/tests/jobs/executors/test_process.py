"""Trainings as processes: what ``look`` says of them, from before they begin until all is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlaas4hep.jobs.executors.base import JobStatus, Life, Order
from mlaas4hep.jobs.executors.process import ProcessExecutor
from support.service import PATIENCE

PRINTING = "while True: print('x' * 1000)"
LEAVING = "import os, time; time.sleep(600) if os.fork() == 0 else os._exit(3)"


def order(home: Path) -> Order:
    return Order("luca_1", home, home.parent, "", "", "", "", 1, 1 << 30, "default", gpu=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "luca_1"
    yield home
    ProcessExecutor().kill(home)


def executor_of(code: str, **options: int) -> ProcessExecutor:
    """An executor whose trainings are this code."""
    return ProcessExecutor(lambda _: [sys.executable, "-c", code], **options)


def until(executor: ProcessExecutor, home: Path, life: Life) -> JobStatus:
    deadline = time.monotonic() + PATIENCE
    while (status := executor.look(home)).state is not life and time.monotonic() < deadline:
        time.sleep(0.02)
    assert status.state is life
    return status


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 11)", -11)],
)
def test_a_training_that_ended(home: Path, code: str, exit_code: int) -> None:
    executor = executor_of(code)
    assert executor.look(home) == JobStatus(Life.NEW)
    executor.start(order(home))
    until(executor, home, Life.ENDED)
    assert executor.look(home) == JobStatus(Life.ENDED, exit_code)
    assert ProcessExecutor().look(home) == JobStatus(Life.ENDED)  # its exit code is not known


def test_a_training_that_lives_is_known_to_the_next_runner(home: Path) -> None:
    executor = executor_of("import time; kept = b'x' * (100 << 20); time.sleep(600)")
    executor.start(order(home))
    following = ProcessExecutor()
    deadline = time.monotonic() + PATIENCE
    while following.look(home).memory < 100 << 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    for each in (executor, following):
        status = each.look(home)
        assert status == replace(JobStatus(Life.ALIVE), memory=status.memory)
        assert 100 << 20 < status.memory < 200 << 20
    following.kill(home)
    assert until(executor, home, Life.ENDED).exit_code == -9


def test_what_a_training_left_behind(home: Path) -> None:
    executor = executor_of(LEAVING)
    executor.start(order(home))
    status = until(executor, home, Life.LEFT_BEHIND)
    assert (status.exit_code, status.memory > 0) == (None, True)
    assert ProcessExecutor().look(home).state is Life.LEFT_BEHIND
    executor.kill(home)
    assert until(executor, home, Life.ENDED).exit_code == 3


@pytest.mark.hostile("a log without end while no runner looks")
def test_no_file_grows_beyond_its_limit(home: Path) -> None:
    executor = executor_of(PRINTING, biggest_file=1 << 20)
    executor.start(order(home))
    assert until(executor, home, Life.ENDED).exit_code not in (0, None)
    assert (home / "log.txt").stat().st_size == 1 << 20
