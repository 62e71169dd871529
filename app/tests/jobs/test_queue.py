import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import select

from jobs.parts import Service, packed, small_files, submission
from mlaas4hep.core.errors import (
    BusyError,
    ConflictError,
    LimitError,
    NotFoundError,
    UsageError,
    did_you_mean,
)
from mlaas4hep.jobs.database import Counter, Job
from mlaas4hep.jobs.queue import Submission, check_files, parse_cpus, parse_memory, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3gb", 3 * 1024**3),
        ("3g", 3 * 1024**3),
        ("512m", 512 * 1024**2),
        ("1.5 GiB", 1536 * 1024**2),
        ("2GB", 2 * 1024**3),
        ("1tb", 1024**4),
        ("1048576", 1048576),
        ("100b", 100),
        ("7k", 7168),
    ],
)
def test_memory_as_docker_takes_it(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "gb", "-1gb", "0", "0gb", "3 eb", "1e9", "3gb;id", "NaN"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "two", "2;id"])
def test_cpus_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of cores"):
        parse_cpus(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(3 * 1024**3, "3 GB"), (3.2 * 1024**3, "3.2 GB"), (1, "1 bytes"), (5000 * 1024**3, "5000 GB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": "../files.txt"}, "files: .* leads outside"),
        ({"files": "/etc/passwd"}, "files: .* leads outside"),
        ({"files": "nothing.txt"}, "files: the folder has no file 'nothing.txt'"),
        ({"files": "files.txt,nothing.root"}, "files: the folder has no file 'nothing.root'"),
        ({"files": " , "}, "files is empty"),
        ({"files": "a\nb"}, "files holds control characters"),
        ({"files": "deep"}, "files: the folder has no file 'deep'"),
        ({"labels": "../../etc/passwd"}, "labels: .* leads outside"),
        ({"labels": "lables.txt"}, "labels: the folder has no file"),
        ({"labels": ""}, "labels is empty"),
        ({"model": "model.py;rm -rf ~"}, "model: the folder has no file"),
        ({"model": "/tmp/model.py"}, "model: .* leads outside"),
        ({"model": ""}, "model: '' is not a file name"),
        ({"model": "m" * 300}, "model: "),
        ({"model": "m" * 3000}, "model: .* is not a file name"),
        ({"model": "mödel.py"}, "model: the folder has no file"),
        ({"params": "a\0b"}, "params: .* is not a file name"),
        ({"params": "-rf"}, "params: the folder has no file"),
        ({"device": "gpu"}, "no GPU"),
        ({"device": "tpu"}, "device: 'tpu' is unknown"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"cpus": "all"}, "cpus: 'all' is not a number"),
    ],
)
def test_what_can_not_be_trained_is_refused_by_name(
    service: Service, changes: dict[str, str], message: str
) -> None:
    service.upload("luca", small_files() | {"deep/x.txt": b""})
    with pytest.raises(UsageError, match=message):
        service.submit("luca", **changes)
    assert service.queue.recent() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"files": "files.txt"},
        {"files": "deep/a.root"},
        {"files": "root://eos.example.org//a.root, https://example.org/b.root,deep/a.root"},
        {"files": "/store/user/a.root"},
        {"labels": "1,0"},
        {"labels": "signal,background"},
        {"labels": "Type"},
        {"model": "deep/model two.py"},
        {"model": "./model.py"},
    ],
)
def test_what_can_be_trained(service: Service, changes: dict[str, str]) -> None:
    more = {"deep/a.root": b"root", "deep/model two.py": b""}
    service.upload("luca", small_files() | more)
    assert service.submit("luca", **changes).state == "waiting"


def test_a_link_that_a_training_left_leads_nowhere(service: Service) -> None:
    folder = service.upload("luca")
    (service.folders.path(folder.version) / "model2.py").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"no file 'model2\.py'"):
        service.submit("luca", model="model2.py")


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


ENVIRONMENTS = {"default": "a/job:1", "torch": "a/torch:1", "gpu": {"image": "a/gpu:1", "gpus": 2}}


@pytest.mark.parametrize(
    ("asked", "device", "got"),
    [
        ("", "cpu", "default"),
        ("torch", "cpu", "torch"),
        ("gpu", "gpu", "gpu"),
        ("gpu", "cpu", "gpu"),
    ],
)
def test_environments_that_are_offered(tmp_path: Path, asked: str, device: str, got: str) -> None:
    service = Service(tmp_path / "s", executor="container", environments=ENVIRONMENTS)
    service.upload("luca")
    job = service.submit("luca", environment=asked, device=device)
    assert (job.environment, job.device) == (got, device)


@pytest.mark.parametrize(
    ("asked", "device", "message", "remedy"),
    [
        ("tourch", "cpu", "environment: 'tourch' is not offered here", "'torch'"),
        ("a/job:1", "cpu", "environment: 'a/job:1' is not offered here", ""),
        ("torch", "gpu", "the environment 'torch' has no GPU", "'gpu'"),
        ("", "gpu", "the environment 'default' has no GPU", "'gpu'"),
        ("gpu", "tpu", "device: 'tpu' is unknown", '"gpu"'),
    ],
)
def test_environments_that_are_not_offered(
    tmp_path: Path, asked: str, device: str, message: str, remedy: str
) -> None:
    service = Service(tmp_path / "s", executor="container", environments=ENVIRONMENTS)
    service.upload("luca")
    with pytest.raises(UsageError, match=message) as caught:
        service.submit("luca", environment=asked, device=device)
    assert remedy in caught.value.remedy


def test_processes_have_one_environment(service: Service) -> None:
    service.upload("luca")
    assert service.submit("luca").environment == "default"
    with pytest.raises(UsageError, match="'torch' is not offered here"):
        service.submit("luca", environment="torch")


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


@pytest.mark.hostile("cpus 1e-10 becomes no limit")
@pytest.mark.parametrize("cpus", ["1e-10", "0.0099"])
def test_next_to_no_core_is_refused_naming_the_least(service: Service, cpus: str) -> None:
    service.upload("luca")
    with pytest.raises(UsageError, match=r"cpus: .* is less than 0\.01, the least"):
        service.submit("luca", cpus=cpus)
    assert service.submit("luca", cpus="0.01").cpus == 0.01


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

    for module in ("folders", "queue"):
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
