import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient

from mlaas4hep.core.files import remove_tree
from mlaas4hep.jobs.database import Job, State
from mlaas4hep.jobs.executors.base import ExecutorAwayError, JobStatus, Life
from mlaas4hep.jobs.executors.process import ProcessExecutor
from mlaas4hep.jobs.runner import Runner
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.server import create_app
from support.service import PATIENCE, Service, small_files, submission
from support.small_runner import SCRIPT, small_command

RUNNER = SCRIPT.with_name("small_runner.py")


def start(service: Service, mode: str, **submission: str) -> Job:
    """Submit a training that does ``mode``."""
    service.upload("luca", small_files(mode))
    return service.submit("luca", **submission)


def running(service: Service, mode: str, **submission: str) -> Job:
    """A training that is in the middle of ``mode``."""
    job = start(service, mode, **submission)
    [job] = service.until(job, condition=lambda job: job.progress)
    return job


def processes_of(service: Service, job: Job) -> list[psutil.Process]:
    group = int((service.home(job) / "lock").read_text())
    return [p for p in psutil.process_iter() if session_of(p) == group]


def session_of(process: psutil.Process) -> int:
    """0 of one that has ended since it was listed."""
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def test_a_job_succeeds_and_its_model_is_published(service: Service) -> None:
    [job] = service.run(start(service, "succeed"))
    assert (job.state, job.reason, job.servable, job.why_not) == ("succeeded", "", True, "")
    assert job.metrics["auc"] == 0.75
    assert job.exit_code == 0
    assert job.progress == {"phase": "training", "done": 3, "total": 10, "figures": {"loss": 0.5}}
    assert job.created <= (job.started or 0) <= (job.finished or 0)
    assert Repository(service.settings.models).get("luca_1").name == "luca_1"
    assert "training of luca_1" in (service.home(job) / "log.txt").read_text()


def test_a_model_that_can_not_be_served_is_kept_but_not_published(service: Service) -> None:
    [job] = service.run(start(service, "not servable"))
    assert (job.state, job.servable) == ("succeeded", False)
    assert job.why_not == "no ONNX operator does that"
    assert Repository(service.settings.models).names() == []
    assert (service.home(job) / "luca_1.tar.gz").is_file()


@pytest.mark.parametrize(
    ("mode", "reason", "remedy"),
    [
        ("fail", "no branch 'mett' in a.root", "Did you mean 'met'?"),
        (
            "exit",
            "exit code 3, without a result; last output line: training of luca_1",
            "See its log.",
        ),
        ("crash", "the training crashed: signal 11 (SIGSEGV)", "log"),
        pytest.param(
            *("real-time signal", "the training crashed: signal 35", "log"),
            marks=pytest.mark.hostile("signal 35"),
        ),
        ("bad result", "exit code 0, without a result", "log"),
        ("no bundle", "the model can't be published: luca_1 is not a bundle", ""),
        ("link", "the model can't be published: the bundle holds a link: passwd", ""),
        pytest.param(
            *("many in bundle", "the bundle holds more than 1000 files and folders", ""),
            marks=pytest.mark.hostile("a bundle of 12,000 files"),
        ),
        (
            "pipe",
            "the model can't be published: the bundle holds something that is not a file: pipe",
            "",
        ),
        (
            "giant",
            "the model can't be published: bundle.json in the bundle luca_1 is larger than 4 MB",
            "",
        ),
        ("linked log", "exit code 3, without a result; last output line: (none)", ""),
    ],
)
def test_how_jobs_fail(service: Service, mode: str, reason: str, remedy: str) -> None:
    [job] = service.run(start(service, mode))
    assert job.state == "failed"
    assert reason in job.reason
    assert remedy in job.remedy
    assert Repository(service.settings.models).names() == []


def test_too_much_memory_is_killed_with_both_numbers(service: Service) -> None:
    [job] = service.run(start(service, "memory", memory="200mb"))
    assert job.state == "failed"
    assert job.reason.startswith("killed: used ")
    assert job.reason.endswith(" MB of the 200 MB asked for")
    assert "chunk_size" in job.remedy


def test_a_training_beyond_its_time_is_killed_with_its_children(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_job_seconds=2)
    job = running(service, "hang")
    processes = processes_of(service, job)
    [job] = service.run(job)
    assert "killed: ran longer than 2 seconds" in job.reason
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []


def test_cancelling_kills_the_training_and_its_children(service: Service) -> None:
    job = running(service, "hang")
    deadline = time.monotonic() + PATIENCE
    while len(processes := processes_of(service, job)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    service.queue.cancel("luca_1")
    [job] = service.run(job)
    assert (job.state, job.reason) == ("failed", "cancelled by its user")
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []


@pytest.mark.parametrize("mode", ["no lock", "lock is a pipe", "lock names others"])
def test_a_training_that_spoils_its_lock_runs_once_and_can_be_cancelled(
    service: Service, mode: str
) -> None:
    job = running(service, mode)
    deadline = time.monotonic() + PATIENCE
    lock = service.home(job) / "lock"
    while lock.is_file() and lock.read_text() != "1" and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(3):
        service.runner.step()
    assert service.queue.get("luca_1").state == "running"
    assert (service.home(job) / "log.txt").read_text().count("training of luca_1") == 1
    process = service.executor._children[service.home(job)]
    service.queue.cancel("luca_1")
    [job] = service.run(job)
    assert job.reason == "cancelled by its user"
    assert process.poll() == -signal.SIGKILL


def test_a_child_that_left_the_session_does_not_keep_the_job_alive(service: Service) -> None:
    [job] = service.run(start(service, "leave child"))
    assert job.state == "succeeded"
    assert service.life(job) is Life.ENDED


def test_a_training_sees_no_secret_and_has_its_cores(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLAAS4HEP_DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    [job] = service.run(start(service, "succeed", cpus="0.5"))
    seen = json.loads((service.home(job) / "seen.json").read_text())
    assert "secret" not in seen["env"].values()
    assert seen["env"]["OMP_NUM_THREADS"] == "1"
    assert seen["env"]["PATH"] == os.environ["PATH"]
    assert len(seen["cores"]) == 1
    assert seen["core_dump"] == 0


def test_two_trainings_of_one_core_get_different_cores(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_jobs=2)
    service.upload("luca", small_files(seconds=1))
    jobs = service.run(service.submit("luca"), service.submit("luca"))
    cores = [json.loads((service.home(job) / "seen.json").read_text())["cores"] for job in jobs]
    assert (cores[0] != cores[1]) or len(os.sched_getaffinity(0)) == 1


def test_max_jobs_run_at_once_and_the_others_wait_in_line(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = Service(tmp_path / "store", max_jobs=2)
    request.addfinalizer(service.kill_all)
    service.upload("luca", small_files("hang"))
    for _ in range(4):
        service.submit("luca")
    service.runner.step()
    states = {job.process_name: job.state for job in service.queue.recent()}
    assert states == {
        "luca_1": "running", "luca_2": "running", "luca_3": "waiting", "luca_4": "waiting",
    }  # fmt: skip
    first = service.queue.cancel("luca_1")
    service.run(first)
    assert service.queue.get("luca_3").state == "running"
    assert service.queue.get("luca_4").state == "waiting"


def states(service: Service) -> dict[str, str]:
    return {job.process_name: job.state for job in service.queue.recent()}


def submit_for(service: Service, owner: str, **changes: str) -> Job:
    """A waiting job of somebody; folders of the same name are no matter here."""
    job = service.queue.submit(submission("luca", **changes))
    with service.database.write() as session:
        session.get_one(Job, job.id).owner = owner
    return job


def test_waiting_jobs_of_others_go_first(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    service = Service(tmp_path / "store", max_jobs=3, max_jobs_per_user=2)
    request.addfinalizer(service.kill_all)
    service.upload("luca", small_files("hang"))
    for owner in ("ann", "ann", "ann", "ben", "ben"):
        submit_for(service, owner)
    service.runner.step()
    assert states(service) == {
        "luca_1": "running", "luca_2": "running", "luca_3": "waiting",
        "luca_4": "running", "luca_5": "waiting",
    }  # fmt: skip
    service.run(service.queue.cancel("luca_4"))
    assert states(service)["luca_3"] == "waiting"  # ann has two, so ben's is next
    assert states(service)["luca_5"] == "running"
    service.run(service.queue.cancel("luca_1"))
    assert states(service)["luca_3"] == "running"


def test_one_user_leaves_room_though_nobody_else_waits(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = Service(tmp_path / "store", max_jobs=3, max_jobs_per_user=1)
    request.addfinalizer(service.kill_all)
    service.upload("luca", small_files("hang"))
    submit_for(service, "ann")
    submit_for(service, "ann")
    service.runner.step()
    assert states(service) == {"luca_1": "running", "luca_2": "waiting"}


def test_trainings_with_a_gpu_run_one_at_a_time(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = Service(tmp_path / "store", max_jobs=3)
    request.addfinalizer(service.kill_all)
    service.upload("luca", small_files("hang"))
    for _ in range(3):
        service.submit("luca")
    with service.database.write() as session:
        for job in service.queue.recent():
            session.get_one(Job, job.id).device = "gpu" if job.id < 3 else "cpu"
    claimed = [service.runner._claim() for _ in range(3)]
    assert [job and job.process_name for job in claimed] == ["luca_1", "luca_3", None]


@pytest.mark.parametrize("mode", ["fill", "fill uploaded", "log", "many files"])
def test_a_training_that_writes_too_much_is_killed(tmp_path: Path, mode: str) -> None:
    service = Service(tmp_path / "store", max_job_disk_bytes=8 << 20)
    job = start(service, mode)
    [job] = service.run(job)
    assert job.state == "failed"
    assert job.reason == ("killed: wrote more than 8 MB (max_job_disk_bytes)")
    assert service.life(job) is Life.ENDED


@pytest.mark.hostile("a log without end while the runner is away")
def test_a_log_is_bounded_while_no_runner_looks(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_job_disk_bytes=8 << 20)
    job = start(service, "log")
    service.runner.step()
    deadline = time.monotonic() + PATIENCE
    while service.life(job) is not Life.ENDED and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (service.home(job) / "log.txt").stat().st_size == 8 << 20
    [job] = service.run(job)
    assert (job.state, job.reason) == (
        "failed",
        "killed: wrote more than 8 MB (max_job_disk_bytes)",
    )


def test_what_was_uploaded_does_not_count_as_written(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_job_disk_bytes=8 << 20)
    service.upload("luca", small_files() | {"big.dat": bytes(20 << 20)})
    [job] = service.run(service.submit("luca"))
    assert (job.state, job.reason) == ("succeeded", "")


def test_an_executor_that_is_away_decides_nothing(service: Service) -> None:
    class Away(ProcessExecutor):
        here = True

        def look(self, home: Path) -> JobStatus:
            if not self.here:
                raise ExecutorAwayError("nobody answers")
            return super().look(home)

    service.executor = away = Away(small_command)
    service.runner = Runner(service.settings, service.executor)
    job = running(service, "succeed")
    away.here = False
    for _ in range(2):
        with pytest.raises(ExecutorAwayError):
            service.runner.step()
    assert service.queue.get("luca_1").state == "running"
    away.here = True
    [job] = service.run(job)
    assert job.state == "succeeded"


def test_the_runner_deletes_what_is_old(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", keep_days=10)
    [job] = service.run(start(service, "succeed"))
    with service.database.write() as session:
        session.get_one(Job, job.id).finished = time.time() - 11 * 86400
    service.restart_runner()
    deadline = time.monotonic() + PATIENCE
    while service.home(job).exists() and time.monotonic() < deadline:
        service.runner.step()
    assert not service.home(job).exists()
    assert Repository(service.settings.models).names() == ["luca_1"]


def test_a_folder_replaced_while_a_job_runs(service: Service) -> None:
    service.upload("luca", small_files(seconds=1, data__txt="old"))
    first = service.submit("luca")
    service.until(first, condition=lambda job: job.progress)
    service.upload("luca", small_files(data__txt="new"))
    second = service.submit("luca")
    jobs = service.run(first, second)
    assert [job.metrics["data"] for job in jobs] == ["old", "new"]
    service.folders.sweep()
    assert len(list(service.settings.uploads.iterdir())) == 1


def test_a_new_runner_adopts_what_runs_with_its_limits(service: Service) -> None:
    job = running(service, "hang")
    service.restart_runner()
    service.runner.step()
    assert service.queue.get("luca_1").state == "running"
    service.queue.cancel("luca_1")
    [job] = service.run(job)
    assert job.reason == "cancelled by its user"


def test_a_new_runner_publishes_what_ended_meanwhile(service: Service) -> None:
    job = running(service, "succeed")
    while service.life(job) is not Life.ENDED:
        time.sleep(0.02)
    service.restart_runner()
    [job] = service.run(job)
    assert job.state == "succeeded"
    assert Repository(service.settings.models).names() == ["luca_1"]


def test_a_training_that_died_without_a_runner_has_failed(service: Service) -> None:
    job = running(service, "hang")
    service.executor.kill(service.home(job))
    while service.life(job) is not Life.ENDED:
        time.sleep(0.02)
    service.restart_runner()
    [job] = service.run(job)
    assert job.state == "failed"
    assert "ended without a result" in job.reason


def test_a_job_claimed_by_a_runner_that_died_before_it_started_is_run(service: Service) -> None:
    job = start(service, "succeed")
    with service.database.write() as session:  # what a claim writes
        row = session.get_one(Job, job.id)
        row.state, row.started = State.RUNNING, time.time()
    [job] = service.run(job)
    assert job.state == "succeeded"


def test_a_training_that_is_slow_to_begin_is_left_alone(service: Service) -> None:
    job = start(service, "succeed")
    with service.database.write() as session:
        row = session.get_one(Job, job.id)
        row.state, row.started = State.RUNNING, time.time()
    service.home(job).mkdir(parents=True)
    with (service.home(job) / "lock").open("w") as lock:  # held, with no process id in it yet
        fcntl.flock(lock, fcntl.LOCK_EX)
        beginning = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()])
    for _ in range(3):
        service.runner.step()
    assert beginning.poll() is None
    assert service.queue.get("luca_1").state == "running"
    service.queue.cancel("luca_1")
    service.runner.step()
    assert beginning.wait(PATIENCE) == -signal.SIGKILL
    [job] = service.run(job)
    assert job.reason == "cancelled by its user"


def test_publishing_again_after_a_kill_in_between_does_no_harm(service: Service) -> None:
    [job] = service.run(start(service, "succeed"))
    with service.database.write() as session:  # as if killed between repository and row
        row = session.get_one(Job, job.id)
        row.state, row.finished = State.RUNNING, None
    service.restart_runner()
    [job] = service.run(job)
    assert job.state == "succeeded"
    assert Repository(service.settings.models).names() == ["luca_1"]


def test_a_reason_noted_before_the_kill_outlives_the_runner(service: Service) -> None:
    job = running(service, "hang")
    with service.database.write() as session:
        session.get_one(Job, job.id).stop = "killed: used 3.2 GB of the 3 GB asked for"
    service.executor.kill(service.home(job))
    service.restart_runner()
    [job] = service.run(job)
    assert job.reason == "killed: used 3.2 GB of the 3 GB asked for"


def test_a_command_that_can_not_start_fails_the_job(service: Service) -> None:
    service.executor = ProcessExecutor(lambda order: ["/no/such/python"])
    service.runner = Runner(service.settings, service.executor)
    [job] = service.run(start(service, "succeed"))
    assert job.state == "failed"
    assert "exit code 1" in job.reason
    assert "can't start /no/such/python" in job.reason


def test_a_folder_that_vanished_fails_the_job(service: Service) -> None:
    job = start(service, "succeed")
    service.folders.path(job.version).rename(service.settings.store / "elsewhere")
    [job] = service.run(job)
    assert f"the uploaded folder of the job, {job.version}, is not there any more" in job.reason


def test_an_executor_that_raises_fails_that_job_alone(service: Service) -> None:
    class Strange(ProcessExecutor):
        def look(self, home: Path) -> JobStatus:
            if home.name == "luca_1":
                raise RuntimeError("no idea")
            return super().look(home)

    service.executor = Strange(small_command)
    service.runner = Runner(service.settings, service.executor)
    service.upload("luca", small_files(seconds=0.5))
    first, second = service.run(service.submit("luca"), service.submit("luca"))
    assert first.reason == "internal error: RuntimeError: no idea"
    assert second.state == "succeeded"


def test_a_look_that_takes_long_keeps_no_other_job_waiting(tmp_path: Path) -> None:
    looking = threading.Event()

    class Slow(ProcessExecutor):
        def look(self, home: Path) -> JobStatus:
            if home.name == "luca_1":
                looking.wait(PATIENCE)
            return super().look(home)

    service = Service(tmp_path / "store", max_jobs=2)
    service.executor = Slow(small_command)
    service.runner = Runner(service.settings, service.executor)
    service.upload("luca", small_files(seconds=0.5))
    slow, other = service.submit("luca"), service.submit("luca")
    [other] = service.run(other)
    assert (other.state, service.queue.get("luca_1").state) == ("succeeded", "running")
    looking.set()
    [slow] = service.run(slow)
    assert slow.state == "succeeded"


@pytest.mark.hostile("1,100 nested folders")
@pytest.mark.parametrize("where", ["uploaded", "home", "bundle"])
def test_what_a_training_nests_is_its_own_affair(tmp_path: Path, where: str) -> None:
    service = Service(tmp_path / "store", keep_days=1)
    service.upload("evil", small_files("nest", told={"where": where}))
    service.upload("honest")
    [evil] = service.run(service.submit("evil"))
    assert evil.state == "succeeded" or "nested deeper" in evil.reason  # it is seen, or too quick
    if where == "bundle":
        assert evil.state == "failed"
    service.folders.delete("evil")
    assert service.folders.all()[0].name == "honest"
    assert len(list(service.settings.uploads.iterdir())) == 1
    with service.database.write() as session:
        session.get_one(Job, evil.id).finished = time.time() - 2 * 86400
    service.restart_runner()
    [honest] = service.run(service.submit("honest"))
    assert honest.state == "succeeded"
    deadline = time.monotonic() + PATIENCE
    while service.home(evil).exists() and time.monotonic() < deadline:
        service.runner.step()
    assert not service.home(evil).exists()
    assert list((service.settings.models / ".staging").iterdir()) == []


@pytest.mark.hostile("one thing of one user ends a sweep for all")
def test_a_sweep_that_fails_for_one_folder_removes_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.000000000000", "b.000000000000", "c.000000000000"):
        (service.settings.uploads / name / "files").mkdir(parents=True)

    def refuse(path: Path) -> None:
        if path.name.startswith("b"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove_tree(path)

    monkeypatch.setattr("mlaas4hep.jobs.folders.remove_tree", refuse)
    service.runner.step()
    deadline = time.monotonic() + PATIENCE
    while len(list(service.settings.uploads.iterdir())) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [p.name for p in service.settings.uploads.iterdir()] == ["b.000000000000"]


LEFT = {
    "result.json": [
        '{"state": "succeeded", "metrics": {"auc": 1e999}}',
        '{"state": "succeeded", "metrics": {"auc": NaN, "loss": 1' + "0" * 400 + "}}",
        '{"state": "succeeded", "metrics": {"n": 1' + "0" * 10_000 + "}}",
        '{"state": "succeeded", "metrics": {"auc": ' + "[" * 900 + "]" * 900 + "}}",
        r'{"state": "succeeded", "metrics": {"auc\ud800": "\u0000"}}',
        r'{"state": "failed", "error": {"message": "a\ud800b\u0000", "remedy": "\u0000"}}',
        '{"state": "failed", "error": {"message": ' + "[" * 900 + "]" * 900 + "}}",
        '{"state": ["succeeded"], "error": "text", "metrics": 1}',
    ],
    "progress.json": [
        '{"phase": "training", "done": 1, "total": 2, "loss": 1e999}',
        '{"phase": "training", "done": 1' + "0" * 400 + ', "total": 2}',
        r'{"phase": "\ud800\u0000", "done": 1, "total": 2, "a\ud800": 1' + "0" * 400 + "}",
    ],
}


@pytest.mark.hostile("metrics with a 400-digit integer, a surrogate, 900 levels")
@pytest.mark.hostile("a NUL byte or 1e999 in what a training wrote")
@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in LEFT for content in LEFT[name]]
)
def test_whatever_a_training_writes_the_runner_and_all_answers_go_on(
    service: Service, name: str, content: str
) -> None:
    service.upload("evil", small_files("leave", told={"name": name, "content": content}))
    service.upload("honest")
    evil, honest = service.run(service.submit("evil"), service.submit("honest"))
    assert honest.state == "succeeded"
    assert "internal error" not in evil.reason
    assert "\0" not in repr(evil.reason + evil.remedy) + json.dumps(evil.metrics)
    with TestClient(create_app(service.settings), "http://127.0.0.1:8080") as http:
        for path in ("/jobs", "/jobs/evil_1", "/", "/status_docker?process_name=evil_1"):
            assert http.get(path).status_code == 200
        assert http.get("/jobs/evil_1").json()["metrics"] == evil.metrics


def test_a_full_disk_when_publishing_fails_the_job_and_says_so(service: Service) -> None:
    service.upload("luca", small_files() | {"model.onnx": bytes(3_000_000)})
    job = service.submit("luca")
    service.runner.step()
    while service.life(job) is not Life.ENDED:
        time.sleep(0.02)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        [job] = service.run(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert job.state == "failed"
    assert "can't be published: [Errno 27] File too large" in job.reason
    assert "model.onnx" in job.reason
    assert Repository(service.settings.models).names() == []


def spawn(service: Service, *options: str) -> subprocess.Popen[str]:
    """The runner as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), *options],
        env=os.environ | {"MLAAS4HEP_STORE": str(service.settings.store)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == f"runner works on {service.settings.store}\n"
    return process


def until_running(service: Service, name: str) -> Job:
    deadline = time.monotonic() + PATIENCE
    while not (job := service.queue.get(name)).progress and time.monotonic() < deadline:
        time.sleep(0.05)
    return job


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_runner_leaves_its_jobs_running(service: Service, number: int) -> None:
    start(service, "hang")
    process = spawn(service)
    job = until_running(service, "luca_1")
    process.send_signal(number)
    assert process.wait(PATIENCE) == 0
    assert service.life(job) is Life.ALIVE
    assert service.queue.get("luca_1").state == "running"


def test_a_runner_told_so_stops_its_jobs(service: Service) -> None:
    start(service, "hang")
    process = spawn(service, "--stop-jobs")
    job = until_running(service, "luca_1")
    processes = processes_of(service, job)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    job = service.queue.get("luca_1")
    assert (job.state, job.reason) == ("failed", "the service was stopped")
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []
