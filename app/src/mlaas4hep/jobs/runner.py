"""The runner: takes jobs from the queue, starts, watches and publishes them, one runner per store.

It keeps no state in memory: it reads the job's row, lock and result.json each time, so the next
runner continues where a killed one stopped. It enforces the limits of time, disk and a process's
memory: while no runner runs, trainings continue without these limits. The executor knows where a
training runs; while it doesn't answer, the runner decides nothing.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mlaas4hep.core.errors import BundleError, MlaasError
from mlaas4hep.core.files import disk_use
from mlaas4hep.core.log import about
from mlaas4hep.core.settings import Settings
from mlaas4hep.core.units import size
from mlaas4hep.jobs.checks import check_plain
from mlaas4hep.jobs.database import Database, Job, State
from mlaas4hep.jobs.executors import executor_of
from mlaas4hep.jobs.executors.base import Executor, ExecutorAwayError, JobStatus, Life
from mlaas4hep.jobs.expiry import expire
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.jobs.orders import order_of
from mlaas4hep.jobs.outcome import Result, last_line, read_progress, read_result, text
from mlaas4hep.jobs.presence import only_runner
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.models.repository import Repository

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
SWEEP_SECONDS = 30.0
EXPIRY_SECONDS = 3600.0
DISK_SECONDS = 1.0
"""Between two looks at what a training has written; longer when a look takes long."""
GRACE_SECONDS = 30.0
"""How long a training may run after it has written its result."""
WRITE_LESS = "Write less: see what the training prints and keeps."
STOP_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""How long a step waits for looks at jobs and for a sweep: what takes longer goes on beside it."""


def run(settings: Settings, *, stop_jobs: bool = False, executor: Executor | None = None) -> None:
    """Run trainings until SIGTERM or SIGINT.

    Running trainings go on and the next runner adopts them; with ``stop_jobs`` they are killed
    and have failed. ConflictError when another runner works on the same store.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with only_runner(settings.store):
        runner = Runner(settings, executor or executor_of(settings))
        print(f"runner works on {settings.store}", flush=True)
        while not stopping.wait(POLL_SECONDS):
            runner.safe_step()
        if stop_jobs:
            runner.stop_jobs()


class Runner:
    """One pass over the jobs at a time: ``step``."""

    def __init__(self, settings: Settings, executor: Executor) -> None:
        self._settings = settings
        self._executor = executor
        self._database = Database(settings.database_url)
        self._folders = Folders(settings, self._database)
        self._repository = Repository(settings.models)
        self._swept = -SWEEP_SECONDS
        self._expired = -EXPIRY_SECONDS
        self._lookers = ThreadPoolExecutor(max(1, settings.max_jobs), "job")
        self._looks: dict[str, Future[None]] = {}
        self._sweeper = ThreadPoolExecutor(1, "sweep")
        self._sweep: Future[None] | None = None
        self._next_disk_look: dict[Path, float] = {}

    def safe_step(self) -> None:
        """A step that survives a database or disk which fails for a while."""
        try:
            self.step()
        except (SQLAlchemyError, OSError):
            log.exception("the step failed; trying again")
            time.sleep(1)
        except ExecutorAwayError as error:
            log.warning("%s; trying again", error.message)
            time.sleep(1)

    def step(self) -> None:
        """Look after every running job, start what may start, sweep now and then.

        What fails for one job is raised when all others were looked after.
        """
        problems = self._look_after_all()
        for problem in problems:
            if isinstance(problem, ExecutorAwayError):  # perhaps of this job's container alone
                raise problem
        while claimed := self._claim():
            with about(job=claimed.process_name):
                self._start(claimed)
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep_beside()
            self._executor.sweep({self._home(job) for job in self._running()})
        if problems:
            raise problems[0]

    def _look_after_all(self) -> list[BaseException]:
        """Look after the running jobs in parallel; returns what was raised.

        So a job whose files take long to check or to publish delays no other.
        """
        # Known before the rows are read, so that a job which ends just now is not looked at again.
        going_on = {name: look for name, look in self._looks.items() if not look.done()}
        ended = [look for name, look in self._looks.items() if name not in going_on]
        new = {
            job.process_name: self._lookers.submit(self._look_after, job)
            for job in self._running()
            if job.process_name not in going_on
        }
        done, late = wait(new.values(), LOOK_SECONDS)
        self._looks = going_on | {name: look for name, look in new.items() if look in late}
        return [problem for look in (*ended, *done) if (problem := look.exception())]

    def _sweep_beside(self) -> None:
        """Remove what nobody needs any more, in the background, unless that is running already."""
        if self._sweep and not self._sweep.done():
            return
        parts: list[Callable[[], object]] = [self._folders.sweep, self._repository.sweep]
        if self._settings.keep_days and time.monotonic() - self._expired > EXPIRY_SECONDS:
            self._expired = time.monotonic()
            parts.append(lambda: expire(self._settings, self._database))

        def sweep() -> None:
            for part in parts:
                try:
                    part()
                except Exception:  # whatever somebody left there
                    log.exception("a sweep failed; trying again later")

        self._sweep = self._sweeper.submit(sweep)
        wait([self._sweep], LOOK_SECONDS)

    def stop_jobs(self) -> None:
        """Kill all running trainings; they have failed."""
        deadline = time.monotonic() + STOP_SECONDS
        for job in self._running():
            self._stop(job, "the service was stopped", "Submit it again.")
        while self._running() and time.monotonic() < deadline:
            self._look_after_all()
            time.sleep(0.05)

    def _running(self) -> list[Job]:
        with self._database.read() as session:
            running = select(Job).where(Job.state == State.RUNNING).order_by(Job.id)
            return list(session.scalars(running))

    def _claim(self) -> Job | None:
        """The next waiting job, now a running one, if one more may run."""
        with self._database.read() as session:
            if self._next(session) is None:
                return None
        with self._database.write() as session:
            if job := self._next(session):
                job.state, job.started = State.RUNNING, time.time()
        return job

    def _next(self, session: Session) -> Job | None:
        """The oldest waiting job whose owner may run one more, and whose device is free.

        An engine gives every container the same GPUs, so one training with GPUs runs at a time.
        """
        running = session.execute(
            select(Job.owner, Job.device).where(Job.state == State.RUNNING)
        ).all()
        if len(running) >= self._settings.max_jobs:
            return None
        first = select(Job).where(Job.state == State.WAITING).order_by(Job.id).limit(1)
        if most := self._settings.max_jobs_per_user:
            owners = Counter(owner for owner, _ in running)
            first = first.where(Job.owner.not_in([o for o, n in owners.items() if n >= most]))
        if "gpu" in [device for _, device in running]:
            first = first.where(Job.device != "gpu")
        return session.scalar(first)

    def _home(self, job: Job) -> Path:
        return (self._settings.jobs / job.process_name).absolute()

    def _start(self, job: Job) -> None:
        try:
            self._executor.start(order_of(job, self._settings))
            log.info("job started", extra={"job": job.process_name})
        except ExecutorAwayError:
            raise  # the next step finds that it was not started
        except MlaasError as error:
            self._end(job, State.FAILED, error.message, error.remedy)
            self._executor.forget(self._home(job))
        except SQLAlchemyError:
            raise
        except OSError as error:
            self._end(job, State.FAILED, f"the training can't be started: {error}")
            self._executor.forget(self._home(job))
        except Exception as error:
            self._give_up(job, error)

    def _look_after(self, job: Job) -> None:
        with about(job=job.process_name):
            try:
                status = self._executor.look(self._home(job))
                match status.state:
                    case Life.NEW:
                        self._put_back(job)
                    case Life.ENDED:
                        self._conclude(job, status)
                    case _:
                        self._watch(job, status)
            except (SQLAlchemyError, ExecutorAwayError):
                raise
            except Exception as error:
                self._give_up(job, error)

    def _give_up(self, job: Job, error: Exception) -> None:
        """One strange job must not keep all others waiting."""
        log.exception("job can't be handled", extra={"job": job.process_name})
        self._executor.kill(self._home(job))
        self._end(job, State.FAILED, f"internal error: {type(error).__name__}: {error}")
        self._executor.forget(self._home(job))

    def _put_back(self, job: Job) -> None:
        """A runner was killed before it could start this training: it waits again."""
        with self._database.write() as session:
            row = session.get_one(Job, job.id)
            if row.stop:
                row.end(State.FAILED, row.stop, row.remedy)
            else:
                row.state, row.started = State.WAITING, None

    def _watch(self, job: Job, status: JobStatus) -> None:
        """A running training: note its progress; kill it when it exceeds a limit."""
        home = self._home(job)
        self._note_progress(job)
        if job.stop:
            self._executor.kill(home)
        elif status.memory > job.memory:
            self._stop(
                job,
                f"killed: used {size(status.memory)} of the {size(job.memory)} asked for",
                "Ask for more memory, or make chunk_size or the model smaller.",
            )
        elif job.started and time.time() - job.started > self._settings.max_job_seconds:
            self._stop(
                job,
                f"killed: ran longer than {self._settings.max_job_seconds} seconds"
                " (max_job_seconds)",
                "Train on fewer events (nevts) or for fewer epochs.",
            )
        elif self._may_look(home) and (why := self._why_too_large(job)):
            self._stop(job, why, WRITE_LESS)
        elif status.state is Life.LEFT_BEHIND or _age(home / "result.json") > GRACE_SECONDS:
            self._executor.kill(home)

    def _may_look(self, home: Path) -> bool:
        """Whether it is time to look again at what a training has written."""
        return time.monotonic() >= self._next_disk_look.get(home, 0)

    def _why_too_large(self, job: Job) -> str:
        """Why a training is killed for what it wrote, in its folder and the uploaded one, or ""."""
        home, most = self._home(job), self._settings.max_job_disk_bytes
        begun = time.monotonic()
        try:
            used = disk_use(home, most)
            if used <= most:
                files = self._folders.path(job.version)
                used += disk_use(files, most, changed_since=job.started or 0)
        except OSError as error:
            return f"killed: its files can't be checked: {error.strerror}"
        now = time.monotonic()
        self._next_disk_look[home] = now + max(DISK_SECONDS, 5 * (now - begun))
        if used <= most:
            return ""
        return f"killed: wrote more than {size(most)} (max_job_disk_bytes)"

    def _stop(self, job: Job, reason: str, remedy: str) -> None:
        """Kill a training. The reason is noted first: a runner killed in between leaves it."""
        with self._database.write() as session:
            row = session.get_one(Job, job.id)
            if not row.stop:
                row.stop, row.remedy = reason, remedy
        self._executor.kill(self._home(job))

    def _note_progress(self, job: Job) -> None:
        progress = read_progress(self._home(job))
        if progress and progress != job.progress:
            with self._database.write() as session:
                session.get_one(Job, job.id).progress = progress

    def _conclude(self, job: Job, status: JobStatus) -> None:
        """The training has ended; its result, its row or its exit code tell how."""
        home = self._home(job)
        self._note_progress(job)
        result = read_result(home)
        ended: dict[str, Any] = {"exit_code": status.exit_code}
        if result.state != "succeeded":
            self._end(job, State.FAILED, *self._why_failed(job, status, result), **ended)
        else:
            try:
                bundle = self._publish(job)
            except MlaasError as error:
                reason = f"the model can't be published: {error.message}"
                self._end(job, State.FAILED, reason, error.remedy, **ended)
            else:
                ended |= {"metrics": result.metrics, "warnings": result.warnings}
                ended |= {"servable": bundle.servable, "why_not": text(bundle.manifest.why_not)}
                self._end(job, State.SUCCEEDED, **ended)
        self._executor.forget(home)
        self._next_disk_look.pop(home, None)

    def _why_failed(self, job: Job, status: JobStatus, result: Result) -> tuple[str, str]:
        """Reason and remedy of a training that has ended without success."""
        if job.stop:
            return job.stop, job.remedy
        if why := self._why_too_large(job):  # it was quicker than the watch
            return why, WRITE_LESS
        if status.cause and not result.state:
            return status.cause
        if result.error:
            message, remedy = result.error
            return message or "the training failed; see its log", remedy
        return _how_it_died(status.exit_code, self._home(job))

    def _publish(self, job: Job) -> Bundle:
        """Put the bundle into the repository; repeating it is harmless. MlaasError if it fails."""
        path = self._home(job) / job.process_name
        try:
            check_plain(path, self._settings.max_bundle_bytes)
            bundle = Bundle.open(path, verify=True)
            if bundle.name != job.process_name:
                raise BundleError(f"the bundle is named {bundle.name}, not {job.process_name}")
            if bundle.servable:
                self._repository.put(path, job.process_name)
        except OSError as error:
            remedy = "Tell the operator; when there is space, submit it again."
            raise MlaasError(str(error), remedy) from error
        return bundle

    def _end(
        self, job: Job, state: State, reason: str = "", remedy: str = "", **values: Any
    ) -> None:
        with self._database.write() as session:
            row = session.get_one(Job, job.id)
            row.end(state, text(reason), text(remedy))
            for name, value in values.items():
                setattr(row, name, value)
        log.info("job %s", state, extra={"job": job.process_name, "reason": text(reason)})


def _age(path: Path) -> float:
    """Seconds since the file was written; 0 when there is none."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _how_it_died(exit_code: int | None, home: Path) -> tuple[str, str]:
    if exit_code is None:
        return (
            "the training's process ended without a result: killed, or the machine restarted",
            "Submit it again; the log shows how far it was.",
        )
    if exit_code == -signal.SIGKILL:
        return (
            "the training was killed by signal 9 (SIGKILL): most likely the machine had no memory",
            "Submit it again, alone or with less memory.",
        )
    if exit_code < 0:
        named = f"signal {-exit_code}"
        with suppress(ValueError):  # real-time signals have no names
            named += f" ({signal.Signals(-exit_code).name})"
        return f"the training crashed: {named}", "See the end of its log."
    return (
        f"the training ended with exit code {exit_code}, without a result; last output line: "
        + last_line(home / "log.txt"),
        "See its log.",
    )
