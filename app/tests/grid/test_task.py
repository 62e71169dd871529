"""When something that fails is tried again."""

from __future__ import annotations

import pytest

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.grid import renewer
from mlaas4hep.grid.renewer import Task


def test_it_is_tried_ever_more_rarely_until_it_goes_well(monkeypatch: pytest.MonkeyPatch):
    now, fails = 0.0, True
    tried = []

    def make() -> None:
        tried.append(now)
        if fails:
            raise MlaasError("away")

    monkeypatch.setattr(renewer.time, "monotonic", lambda: now)
    task = Task("it", make)
    while now < 4000:
        task.run()
        now += 1
    assert tried == [0, 5, 15, 35, 75, 155, 315, 635, 1275, 2175, 3075, 3975]
    assert (task.failed, task.done, str(task.error)) == (12, 0, "away")
    task.hurry()  # a new certificate: at once
    fails = False
    task.run()
    assert (tried[-1], task.done, task.error) == (4000, 1, None)
    fails = True
    for _ in range(7):
        task.run()
        now += 1
    assert tried[-2:] == [4000, 4005]  # as rarely as at first


def test_the_same_failure_is_logged_once(caplog: pytest.LogCaptureFixture):
    said = ["away", "away", "refused"]

    def make() -> None:
        raise MlaasError(said.pop(0), "Wait.")

    task = Task("it", make)
    for _ in range(3):
        task.hurry()
        task.run()
    assert [record.message for record in caplog.records] == ["it: away", "it: refused"]
