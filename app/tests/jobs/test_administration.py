"""An administrator looks at, gives away, frees and deletes what users have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlaas4hep.core.errors import ConflictError, NotFoundError, UsageError
from mlaas4hep.jobs.administration import Administration
from mlaas4hep.jobs.database import Counter
from mlaas4hep.models.owners import Owners, TakenError
from mlaas4hep.models.repository import Repository
from support.service import Service, packed, small_files

ANN, BOB = "user:ann", "user:bob"


def upload(service: Service, name: str, owner: str) -> None:
    with service.folders.upload(name, owner) as upload:
        upload.archive.write_bytes(packed(small_files()))
        upload.finish()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Ann has a folder with a trained model, and one without; Bob has one."""
    service = Service(tmp_path / "store")
    for name, owner in (("luca", ANN), ("empty", ANN), ("other", BOB)):
        upload(service, name, owner)
    service.run(service.submit("luca"))
    return service


@pytest.fixture
def admin(service: Service, monkeypatch: pytest.MonkeyPatch) -> Administration:
    monkeypatch.setenv("MLAAS4HEP_ADMIN", "root")
    return Administration(service.settings, service.database)


def audit(service: Service) -> list[dict[str, object]]:
    path = service.settings.store / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_users_and_what_they_have(admin: Administration, service: Service) -> None:
    ann, bob = admin.users()
    assert (ann.owner, bob.owner) == (ANN, BOB)
    assert [ann.count(kind) for kind in ("folder", "job", "model")] == [2, 1, 1]
    assert [bob.count(kind) for kind in ("folder", "job", "model")] == [1, 0, 0]
    assert bob.size == service.folders.get("other").size
    assert ann.last_used >= service.queue.get("luca_1").finished
    names = {"folder luca", "job luca_1", "model luca_1"}
    assert {f"{t.kind} {t.name}" for t in admin.things("luca")} == names
    assert {f"{t.kind} {t.name}" for t in admin.things(ANN)} == names | {"folder empty"}
    assert all(t.size > 0 for t in admin.things(ANN))


def test_an_unknown_user_or_name_is_an_error_with_the_nearest(admin: Administration) -> None:
    for call in (admin.things, admin.delete):
        with pytest.raises(NotFoundError, match="nothing belongs to 'user:anne'") as caught:
            call("user:anne")
        assert "user:ann" in caught.value.remedy
        with pytest.raises(NotFoundError):
            call("")


def test_all_of_a_user_is_deleted_and_nothing_of_others(
    admin: Administration, service: Service
) -> None:
    gone = admin.delete(ANN)
    assert len(gone) == 4
    assert [user.owner for user in admin.users()] == [BOB]
    assert [path.name.partition(".")[0] for path in service.settings.uploads.iterdir()] == ["other"]
    assert list(service.settings.jobs.iterdir()) == []
    assert Repository(service.settings.models).names() == []
    with pytest.raises(NotFoundError):
        service.queue.get("luca_1")
    with service.database.read() as session:  # the next training is no second luca_1
        assert session.get_one(Counter, "luca").last == 1
    with pytest.raises(TakenError):  # a name stays its owner's
        service.folders.upload("luca", BOB)
    [line] = audit(service)
    assert (line["by"], line["action"], line["of"]) == ("root", "delete", ANN)
    assert set(line["things"]) == {"folder empty", "folder luca", "job luca_1", "model luca_1"}


def test_what_is_in_use_is_not_deleted(admin: Administration, service: Service) -> None:
    service.submit("luca")
    before = admin.things(ANN)
    with pytest.raises(ConflictError, match="luca_2 of user:ann still wait or run"):
        admin.delete(ANN)
    assert [t.name for t in admin.things(ANN)] == [t.name for t in before]
    assert len(admin.delete("empty")) == 1


def test_a_name_that_is_given_away(admin: Administration, service: Service) -> None:
    known = Owners(Repository(service.settings.models))  # as of a service that runs
    assert known.sees("luca_1", ANN)
    given = admin.give("luca", BOB)
    assert {t.kind for t in given} == {"folder", "job", "model"}
    assert known.sees("luca_1", BOB)
    assert not known.sees("luca_1", ANN)
    assert service.queue.get("luca_1", BOB).owner == BOB
    assert service.folders.get("luca", BOB).owner == BOB
    with pytest.raises(NotFoundError):
        service.folders.get("luca", ANN)
    [line] = audit(service)
    assert (line["action"], line["before"], line["owner"]) == ("give", ANN, BOB)


@pytest.mark.parametrize("owner", ["bob", "", "user:a\nb", "group:x"])
def test_it_is_given_to_users_and_robots_only(admin: Administration, owner: str) -> None:
    with pytest.raises(UsageError, match="is not an owner"):
        admin.give("luca", owner)


def test_a_name_is_free_when_nothing_is_left(admin: Administration, service: Service) -> None:
    with pytest.raises(ConflictError, match="luca is still in use: folder luca, job luca_1, model"):
        admin.free("luca")
    with pytest.raises(NotFoundError, match="the name 'luka' has no owner"):
        admin.free("luka")
    admin.delete("luca")
    assert admin.free("luca") == ANN
    upload(service, "luca", BOB)
    assert service.folders.get("luca", BOB).owner == BOB
    [job] = service.run(service.submit("luca"))
    assert job.process_name == "luca_2"
    assert [line["action"] for line in audit(service)] == ["delete", "free"]


def test_a_backup_while_a_training_runs_is_restored(
    admin: Administration, service: Service, tmp_path: Path
) -> None:
    upload(service, "long", ANN)
    with service.folders.upload("long", ANN) as new:
        new.archive.write_bytes(packed(small_files(seconds=2)))
        new.finish()
    [running] = service.until(service.submit("long"), condition=lambda job: job.progress)
    admin.backup(tmp_path / "copy.sqlite")
    service.run(running)
    restored = Service(service.settings.store, database=f"sqlite:///{tmp_path}/copy.sqlite")
    assert restored.queue.get("luca_1").state == "succeeded"
    [job] = restored.run(restored.queue.get("long_1"))  # a runner finds what became of it
    assert job.state == "succeeded"
