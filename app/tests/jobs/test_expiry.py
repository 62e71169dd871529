import time
from pathlib import Path

import pytest

from mlaas4hep.core.errors import NotFoundError
from mlaas4hep.jobs.database import Folder, Job
from mlaas4hep.jobs.expiry import expire, find_old
from mlaas4hep.models.repository import Repository
from support.service import Service, small_files

DAY = 86400


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path / "store", keep_days=30)


def aged(service: Service, job: Job, days: float) -> None:
    """As if the job had been submitted and ended ``days`` ago."""
    with service.database.write() as session:
        row = session.get_one(Job, job.id)
        row.created = row.finished = time.time() - days * DAY


def aged_folder(service: Service, name: str, days: float) -> None:
    with service.database.write() as session:
        session.get_one(Folder, name).uploaded = time.time() - days * DAY


def names(service: Service) -> list[tuple[str, str]]:
    return [(old.kind, old.name) for old in find_old(service.settings, service.database)]


def test_an_ended_job_and_its_unused_folder_go_and_the_model_stays(service: Service) -> None:
    service.upload("luca")
    [job] = service.run(service.submit("luca"))
    version = service.folders.get("luca").version
    assert names(service) == []
    aged_folder(service, "luca", 32)
    aged(service, job, 31)
    assert names(service) == [("job", "luca_1"), ("folder", "luca")]
    gone = expire(service.settings, service.database)
    assert [old.name for old in gone] == ["luca_1", "luca"]
    assert not service.home(job).exists()
    assert not (service.settings.uploads / version).exists()
    assert service.folders.all() == []
    assert Repository(service.settings.models).get("luca_1").name == "luca_1"
    assert names(service) == []
    assert expire(service.settings, service.database) == []


def test_the_row_of_an_expired_job_stays_and_says_so(service: Service) -> None:
    service.upload("luca")
    [job] = service.run(service.submit("luca"))
    aged(service, job, 31)
    begun = time.time()
    expire(service.settings, service.database)
    job = service.queue.get("luca_1")
    assert (job.state, job.metrics["auc"]) == ("succeeded", 0.75)
    assert begun <= (job.expired or 0) <= time.time()
    with pytest.raises(NotFoundError, match=r"luca_1 were deleted.* 30 days after.*keep_days"):
        service.queue.home(job)
    assert service.submit("luca").process_name == "luca_2"


def test_what_is_younger_or_in_use_stays(service: Service) -> None:
    for name in ("used", "running", "submitted", "fresh"):
        service.upload(name, small_files("hang" if name == "running" else "succeed"))
    [ended] = service.run(service.submit("used"))
    aged(service, ended, 29)
    [running] = service.until(service.submit("running"), condition=lambda job: job.progress)
    with service.database.write() as session:
        session.get_one(Job, running.id).created = 0
    service.submit("submitted")
    for name in ("used", "running", "submitted"):
        aged_folder(service, name, 400)
    assert names(service) == []
    assert expire(service.settings, service.database) == []
    assert len(service.folders.all()) == 4
    service.kill_all()


def test_zero_days_keep_all(service: Service) -> None:
    service.upload("luca")
    aged_folder(service, "luca", 10_000)
    assert names(service) == [("folder", "luca")]
    for_ever = service.settings.model_copy(update={"keep_days": 0})
    assert find_old(for_ever, service.database) == []
    assert expire(for_ever, service.database) == []
    assert len(service.folders.all()) == 1


def test_a_folder_used_while_others_are_deleted_stays(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody submits between the look and the deletion."""
    service.upload("luca")
    aged_folder(service, "luca", 31)
    old = find_old(service.settings, service.database)
    monkeypatch.setattr("mlaas4hep.jobs.expiry.find_old", lambda *_: old)
    service.submit("luca")
    assert expire(service.settings, service.database) == []
    assert service.folders.get("luca").files == 5


def test_a_deletion_that_was_cut_short_is_completed(service: Service) -> None:
    service.upload("luca")
    [job] = service.run(service.submit("luca"))
    aged(service, job, 31)
    (service.home(job) / "result.json").unlink()  # killed here: files gone, the row not marked
    assert [old.name for old in expire(service.settings, service.database)] == ["luca_1"]
    assert service.queue.get("luca_1").expired


def test_folders_that_a_training_locked_go_too(service: Service) -> None:
    service.upload("luca")
    [job] = service.run(service.submit("luca"))
    aged(service, job, 31)
    locked = service.home(job) / "a/b"
    locked.mkdir(parents=True)
    (locked / "x").touch()
    (service.home(job) / "out").symlink_to(service.settings.models)
    locked.chmod(0)
    locked.parent.chmod(0)
    expire(service.settings, service.database)
    assert not service.home(job).exists()
    assert Repository(service.settings.models).names() == ["luca_1"]


def test_rows_that_name_other_folders_delete_nothing(service: Service) -> None:
    """Whoever can write to the database can't make the runner delete what it may not."""
    service.upload("luca")
    [job] = service.run(service.submit("luca"))
    aged(service, job, 31)
    with service.database.write() as session:
        session.get_one(Job, job.id).process_name = "../models"
    assert names(service) == []
    expire(service.settings, service.database)
    assert Repository(service.settings.models).names() == ["luca_1"]


def test_sizes_are_those_of_the_files(service: Service) -> None:
    service.upload("luca", {"a": bytes(100_000), "deep/b": bytes(50_000)})
    aged_folder(service, "luca", 31)
    [old] = find_old(service.settings, service.database)
    folders = 2 * 4096  # files/ and deep/
    assert old.size == 100_000 + 50_000 + folders
