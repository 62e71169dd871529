from __future__ import annotations

from pathlib import Path

import pytest

from support.service import Service


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in which nobody's folder luca has a trained model."""
    service = Service(tmp_path / "store")
    service.upload("luca")
    service.run(service.submit("luca"))
    monkeypatch.setenv("COLUMNS", "120")
    return service.settings.store


def test_who_has_what(command, store):
    ended = command("admin", "users", "--store", store)
    assert ended.code == 0, ended.err
    [row] = [line for line in ended.out.splitlines() if "(none)" in line]
    assert [cell.strip() for cell in row.strip("│ ").split("│")][2:5] == ["1", "1", "1"]
    ended = command("admin", "usage", "luca", "--store", store)
    assert [word in ended.out for word in ("folder", "job", "model", "luca_1")] == [True] * 4


def test_nothing_is_deleted_without_yes(command, store):
    ended = command("admin", "delete", "luca", "--store", store)
    assert ended.code == 0, ended.err
    assert "3 things" in ended.out
    assert "would be deleted; add --yes" in ended.out
    assert (store / "models/luca_1").exists()
    assert not (store / "audit.jsonl").exists()


def test_delete_free_and_backup(command, store, tmp_path):
    assert " deleted" in command("admin", "delete", "luca", "--yes", "--store", store).out
    assert not (store / "models/luca_1").exists()
    ended = command("admin", "free", "luca", "--store", store)
    assert ended.out == "the name luca is free; it belonged to (none)\n"
    assert command("admin", "backup", tmp_path / "copy.sqlite", "--store", store).code == 0
    assert (tmp_path / "copy.sqlite").stat().st_size > 0


def test_give_shows_first(command, store):
    shown = command("admin", "give", "luca", "user:bob", "--store", store)
    assert "would be given to user:bob; add --yes" in shown.out
    done = command("admin", "give", "luca", "user:bob", "--yes", "--store", store)
    assert "given to user:bob" in done.out
    assert "user:bob" in command("admin", "users", "--store", store).out


def test_a_mistake_is_explained(command, store):
    ended = command("admin", "delete", "luka", "--yes", "--store", store)
    assert ended.code == 2
    assert "nothing belongs to 'luka'" in ended.err
    assert "luca" in ended.err
