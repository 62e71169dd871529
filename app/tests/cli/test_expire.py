from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlaas4hep.jobs.database import Folder, Job
from support.service import Service

DAY = 86400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an ended job and its folder, both 40 days old, and a new folder."""
    service = Service(tmp_path / "store")
    service.upload("luca")
    service.upload("new")
    [job] = service.run(service.submit("luca"))
    old = time.time() - 40 * DAY
    with service.database.write() as session:
        row = session.get_one(Job, job.id)
        row.created = row.finished = old
        row.owner = "user:ann"
        session.get_one(Folder, "luca").uploaded = old
    monkeypatch.setenv("COLUMNS", "120")
    return service.settings.store


def shown(out: str) -> list[list[str]]:
    """The rows of the table."""
    rows = [line.strip().strip("│").split("│") for line in out.splitlines() if "│" in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_a_dry_run_shows_and_deletes_nothing(command, store):
    ended = command("expire", "--dry-run", "--store", store, "--keep-days", "30")
    assert ended.code == 0, ended.err
    assert "would be deleted: unused for 30 days" in ended.out
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 40 * DAY))
    assert [row[:4] for row in shown(ended.out)] == [
        ["job", "luca_1", "user:ann", day],
        ["folder", "luca", "", day],
    ]
    assert (store / "jobs/luca_1/log.txt").exists()
    assert len(list((store / "uploads").iterdir())) == 2


def test_what_is_old_is_deleted_and_named(command, store, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_KEEP_DAYS", "30")
    ended = command("expire", "--store", store)
    assert ended.code == 0, ended.err
    assert " deleted: unused for 30 days" in ended.out
    assert [row[1] for row in shown(ended.out)] == ["luca_1", "luca"]
    assert list((store / "jobs").iterdir()) == []
    assert [p.name.split(".")[0] for p in (store / "uploads").iterdir()] == ["new"]
    assert (store / "models/luca_1").exists()
    assert shown(command("expire", "--store", store).out) == []


def test_without_a_number_of_days_nothing_is_done(command, store):
    ended = command("expire", "--store", store)
    assert ended.code == 2
    assert "MLAAS4HEP_KEEP_DAYS is 0" in ended.err
    assert "--keep-days" in ended.err
