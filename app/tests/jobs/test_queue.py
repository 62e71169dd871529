import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import select

from mlaas4hep.core.errors import (
    BusyError,
    ConflictError,
    LimitError,
    NotFoundError,
    UsageError,
    did_you_mean,
)
from mlaas4hep.jobs.checks import check_files
from mlaas4hep.jobs.database import Counter, Job
from mlaas4hep.jobs.queue import Submission
from support.service import Service, packed, small_files, submission


def test_numbers_count_up_per_name_and_are_never_used_again(service: Service) -> None:
    for name in ("luca", "luca_1", "a_b_3"):
        service.upload(name)
    names = [service.submit(name).process_name for name in ("luca", "luca_1", "a_b_3", "luca")]
    assert names == ["luca_1", "luca_1_1", "a_b_3_1", "luca_2"]
    for name in names:
        service.queue.cancel(name)
    service.folders.delete("luca")
    service.upload("luca")
    assert service.submit("luca").process_name == "luca_3"


def test_luca_1_is_not_luca_10(service: Service) -> None:
    service.upload("luca")
    for _ in range(10):
        service.submit("luca")
    service.queue.cancel("luca_1")
    assert service.queue.get("luca_1").state == "failed"
    assert service.queue.get("luca_10").state == "waiting"


def test_submits_in_parallel_get_different_numbers(service: Service) -> None:
    service.upload("luca")
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda: got.append(service.submit("luca").process_name))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"luca_{k}" for k in range(1, 9)]


def test_numbers_of_a_lost_database_are_left_alone(service: Service) -> None:
    service.upload("luca")
    (service.settings.jobs / "luca_1").mkdir(parents=True)
    (service.settings.models / "luca_2").mkdir(parents=True)
    assert service.submit("luca").process_name == "luca_3"


def test_limits(tmp_path: Path) -> None:
    service = Service(
        tmp_path / "s", max_job_cpus=4, max_job_memory_bytes=2 * 1024**3, max_queued_jobs=2
    )
    service.upload("luca")
    with pytest.raises(LimitError, match=r"2 GB.*max_job_memory_bytes"):
        service.submit("luca", memory="3gb")
    with pytest.raises(LimitError, match=r"4 cores.*max_job_cpus"):
        service.submit("luca", memory="1gb", cpus="5")
    for _ in range(2):
        service.submit("luca", memory="1gb", cpus="4")
    with pytest.raises(BusyError, match="2 trainings wait already"):
        service.submit("luca", memory="1gb")


def test_waiting_jobs_of_one_user_are_limited(tmp_path: Path) -> None:
    service = Service(tmp_path / "s", max_queued_jobs_per_user=2)
    for name, owner in (("luca", "ann"), ("mara", "ben")):
        with service.folders.upload(name, owner) as upload:
            upload.archive.write_bytes(packed(small_files()))
            upload.finish()
    for _ in range(2):
        service.queue.submit(submission("luca"), owner="ann")
    with pytest.raises(BusyError, match=r"2 of your trainings.*max_queued_jobs_per_user") as caught:
        service.queue.submit(submission("luca"), owner="ann")
    assert "DELETE /jobs/" in caught.value.remedy
    assert service.queue.submit(submission("mara"), owner="ben").owner == "ben"


def test_unknown_folders_and_jobs_name_the_nearest(service: Service) -> None:
    with pytest.raises(NotFoundError):
        service.queue.submit(submission("nobody"))
    service.upload("luca")
    service.submit("luca")
    with pytest.raises(NotFoundError) as caught:
        service.queue.get("luca_l")
    assert "'luca_1'" in caught.value.remedy


def test_a_waiting_job_is_cancelled_at_once_and_only_once(service: Service) -> None:
    service.upload("luca")
    service.submit("luca")
    job = service.queue.cancel("luca_1")
    assert (job.state, job.reason) == ("failed", "cancelled by its user")
    with pytest.raises(ConflictError, match="has ended already"):
        service.queue.cancel("luca_1")


def test_jobs_are_their_owners(service: Service) -> None:
    for name, owner in (("luca", "user:alice"), ("mario", "user:bob")):
        with service.folders.upload(name, owner) as incoming:
            incoming.archive.write_bytes(packed(small_files()))
            incoming.finish()
    with pytest.raises(NotFoundError) as caught:
        service.queue.submit(submission("luca"), "user:bob")
    assert "luca" not in caught.value.remedy
    job = service.queue.submit(submission("luca"), "user:alice")
    assert job.owner == "user:alice"
    service.queue.submit(submission("mario"), "user:bob")
    assert [j.process_name for j in service.queue.recent(owner="user:bob")] == ["mario_1"]
    assert len(service.queue.recent()) == 2
    for ask in (service.queue.get, service.queue.cancel):
        for name in ("luca_1", "luca_2", "LUCA_1", "../jobs/luca_1"):
            with pytest.raises(NotFoundError) as caught:
                ask(name, "user:bob")
            assert "luca" not in caught.value.remedy
    assert service.queue.get("luca_1", "user:alice").state == "waiting"
    assert service.queue.submit(submission("luca")).owner == "user:alice"  # without sign-in


@pytest.mark.hostile("six jobs with 60 MB of text each")
def test_a_list_cuts_long_texts_and_leaves_large_metrics(service: Service) -> None:
    service.upload("luca")
    for _ in range(3):
        service.submit("luca")
    with service.database.write() as session:
        for job in session.scalars(select(Job)):
            job.why_not, job.reason, job.remedy = "x" * 2_000_000, "r" * 1000, "é" * 1001
            job.metrics = {"auc": 0.5, "roc": [0.1] * 1000}
    jobs = service.queue.recent()
    assert [job.process_name for job in jobs] == ["luca_3", "luca_2", "luca_1"]
    for job in jobs:
        assert job.why_not == "x" * 997 + "..."
        assert (job.reason, job.remedy) == ("r" * 1000, "é" * 997 + "...")
        assert job.metrics == {"auc": 0.5}
    assert service.queue.get("luca_1").metrics["roc"] == [0.1] * 1000
    portions = service.queue.portions(2)
    assert [[job.id for job in portion] for portion in portions] == [[3, 2]]


@pytest.mark.hostile("one misspelt name among many long ones")
def test_no_transaction_is_held_while_names_are_compared(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def compared(name: str, known: Iterable[str]) -> str:
        with service.database.write() as session:  # waits in vain if another has begun
            session.add(Counter(name=f"written{len(asked)}", last=0))
        asked.append(name)
        return did_you_mean(name, known)

    for module in ("folders", "queue", "checks"):
        monkeypatch.setattr(f"mlaas4hep.jobs.{module}.did_you_mean", compared)
    service.upload("luca")
    with pytest.raises(UsageError, match=r"no file 'modle\.py'") as caught:
        service.submit("luca", model="modle.py")
    assert "'model.py'" in caught.value.remedy
    for failing in (
        lambda: service.submit("lucca"),
        lambda: service.folders.delete("lucca"),
        lambda: service.folders.delete_specs("lucca"),
        lambda: service.queue.get("luca_7"),
        lambda: service.queue.cancel("luca_7"),
    ):
        with pytest.raises(NotFoundError):
            failing()
    assert len(asked) == 6


def test_a_folder_replaced_while_its_files_are_looked_at_is_looked_at_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.upload("luca")
    looked = []

    def replaced_meanwhile(root: Path, asked: Submission) -> None:
        looked.append(root)
        check_files(root, asked)
        if len(looked) == 1:
            service.upload("luca")

    monkeypatch.setattr("mlaas4hep.jobs.queue.check_files", replaced_meanwhile)
    job = service.submit("luca")
    assert job.version == service.folders.get("luca").version
    assert looked[1] == service.folders.path(job.version)
