"""The jobs as users see them: submit, list, cancel. The runner does the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Column, ColumnElement, Text, case, func, select, update
from sqlalchemy.orm import Session

from mlaas4hep.core.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    did_you_mean,
)
from mlaas4hep.core.log import note
from mlaas4hep.core.settings import Settings
from mlaas4hep.core.units import parse_size
from mlaas4hep.jobs.checks import (
    check_environment,
    check_files,
    check_name,
    check_resources,
    parse_cpus,
)
from mlaas4hep.jobs.database import Base, Counter, Database, Folder, Job, State
from mlaas4hep.jobs.folders import Folders

CANCELLED = "cancelled by its user"
PORTION = 50
"""Jobs of a list that are in memory at once."""
MOST_LISTED_WARNINGS = 5
MOST_LISTED = 1000
"""Letters of a job's texts in lists."""


@dataclass(frozen=True)
class Submission:
    """A training as the user asks for it; file names are relative to the uploaded folder."""

    name: str
    device: str
    memory: str
    cpus: str
    files: str
    labels: str
    model: str
    params: str
    environment: str = ""
    """One of those that the installation offers; empty is its first."""


def _listed(column: Column[Any]) -> ColumnElement[Any]:
    if not isinstance(column.type, Text):
        return column
    cut = func.substr(column, 1, MOST_LISTED - 3).concat("...")
    return case((func.length(column) > MOST_LISTED, cut), else_=column).label(column.key)


_LISTED = [_listed(column) for column in Base.metadata.tables[Job.__tablename__].columns]


class Queue:
    """The jobs of this installation.

    Whoever asks as an ``owner`` finds what is theirs, and nothing else; "" finds everything.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._folders = Folders(settings, database)

    def submit(self, asked: Submission, owner: str = "", groups: Iterable[str] = ()) -> Job:
        """Put a job in line; its process_name is NAME_k, its owner the folder's.

        ``groups`` are those of who asks, for what the training may read.

        UsageError for what can't be trained, LimitError beyond what one training may have,
        BusyError when too many wait, NotFoundError when there is no such folder.
        """
        check_name(asked.name)
        cpus, memory = self._resources(asked)
        environment = check_environment(self._settings, asked.environment, asked.device)
        asked = replace(asked, environment=environment)
        self._count_waiting(owner)
        while True:
            folder = self._folders.get(asked.name, owner)
            check_files(self._folders.path(folder.version), asked)  # before there is a transaction
            if job := self._insert(asked, folder, sorted(groups), cpus, memory):
                note(job=job.process_name)
                return job

    def _insert(
        self, asked: Submission, folder: Folder, groups: list[str], cpus: float, memory: int
    ) -> Job | None:
        """Put a job in line; None when its folder was replaced or deleted meanwhile."""
        with self._database.write() as session:
            present = session.get(Folder, folder.name)
            if present is None or present.version != folder.version:
                return None
            job = Job(
                process_name=f"{asked.name}_{self._next(session, asked.name)}",
                name=asked.name,
                version=folder.version,
                files=asked.files,
                labels=asked.labels,
                model=asked.model,
                params=asked.params,
                cpus=cpus,
                memory=memory,
                state=State.WAITING,
                created=time.time(),
                progress={},
                metrics={},
                owner=folder.owner,
                groups=groups,
                environment=asked.environment,
                device=asked.device,
            )
            session.add(job)
        return job

    def _next(self, session: Session, name: str) -> int:
        """The next k; numbers whose job or model is in the store (of a lost database) are left."""
        while True:
            raised = (
                update(Counter).where(Counter.name == name).values(last=Counter.last + 1)
            ).returning(Counter.last)
            k = session.scalar(raised)
            if k is None:
                k = 1
                session.add(Counter(name=name, last=k))
                session.flush()
            taken = (self._settings.jobs, self._settings.models)
            if not any((root / f"{name}_{k}").exists() for root in taken):
                return k

    def _count_waiting(self, owner: str) -> None:
        most, most_of_one = self._settings.max_queued_jobs, self._settings.max_queued_jobs_per_user
        waiting = select(func.count()).where(Job.state == State.WAITING)
        with self._database.read() as session:
            count = session.scalar(waiting) or 0
            mine = session.scalar(waiting.where(Job.owner == owner)) or 0
        if count >= most:
            raise BusyError(
                f"{count} trainings wait already, the maximum (max_queued_jobs)", "Try again later."
            )
        if most_of_one and mine >= most_of_one:
            raise BusyError(
                f"{mine} of your trainings wait already, the maximum of one user"
                " (max_queued_jobs_per_user)",
                "Try again when one of them has begun, or cancel one (DELETE /jobs/NAME_k).",
            )

    def _resources(self, asked: Submission) -> tuple[float, int]:
        cpus, memory = parse_cpus(asked.cpus), parse_size(asked.memory, "memory")
        check_resources(self._settings, cpus, memory)
        return cpus, memory

    def get(self, process_name: str, owner: str = "") -> Job:
        """The job of that name; NotFoundError with the nearest names otherwise."""
        with self._database.read() as session:
            job = _find(session, process_name, owner)
        return job or self._missing(process_name, owner)

    def _missing(self, process_name: str, owner: str) -> NoReturn:
        known = select(Job.process_name).order_by(Job.id.desc()).limit(1000)
        with self._database.read() as session:
            names = session.scalars(known.where(Job.owner == owner) if owner else known).all()
        shown = process_name[:140]
        raise NotFoundError(f"there is no job {shown!r}", did_you_mean(shown, names))

    def recent(self, limit: int = 1000, owner: str = "", before: int | None = None) -> list[Job]:
        """The newest jobs, newest first; with ``before``, those older than the job of that id.

        For lists: texts are cut to MOST_LISTED letters, of the warnings there are the first, and of
        the metrics the numbers.
        """
        wanted = select(*_LISTED).order_by(Job.id.desc()).limit(limit)
        if owner:
            wanted = wanted.where(Job.owner == owner)
        if before is not None:
            wanted = wanted.where(Job.id < before)
        with self._database.read() as session:
            jobs = [Job(**row) for row in session.execute(wanted).mappings()]
        for job in jobs:
            job.metrics = {k: v for k, v in job.metrics.items() if isinstance(v, int | float)}
            job.warnings = [text[:MOST_LISTED] for text in job.warnings[:MOST_LISTED_WARNINGS]]
        return jobs

    def portions(self, limit: int, owner: str = "") -> Iterator[list[Job]]:
        """What ``recent`` gives, a few at a time, each read when it is asked for."""
        before = None
        while limit > 0 and (jobs := self.recent(min(limit, PORTION), owner, before)):
            yield jobs
            before, limit = jobs[-1].id, limit - len(jobs)

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        with self._database.read() as session:
            found = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return dict.fromkeys(State, 0) | {State(state): n for state, n in found}

    def cancel(self, process_name: str, owner: str = "") -> Job:
        """End a job: at once when it waits, through the runner when it runs.

        NotFoundError when there is none, ConflictError when it has ended already.
        """
        with self._database.write() as session:
            job = _find(session, process_name, owner)
            if job is None:
                pass
            elif job.state == State.WAITING:
                job.end(State.FAILED, CANCELLED)
            elif job.state == State.RUNNING:
                job.stop = job.stop or CANCELLED
            else:
                raise ConflictError(
                    f"the job {process_name} has ended already: {job.state}",
                    "There is nothing to cancel.",
                )
        return job or self._missing(process_name, owner)

    def home(self, job: Job) -> Path:
        """The job's folder: log.txt, progress.json, result.json, the bundle and its archive.

        NotFoundError when it was deleted, see expiry.py.
        """
        if job.expired:
            raise NotFoundError(
                f"the files of the job {job.process_name} were deleted, as the installation does "
                f"{self._settings.keep_days} days after a job's end (keep_days)",
                "Its model, if it was published, is still served. Train again for a new bundle.",
            )
        return self._settings.jobs / job.process_name


def _find(session: Session, process_name: str, owner: str) -> Job | None:
    job = session.scalar(select(Job).where(Job.process_name == process_name))
    if job is None or (owner and job.owner != owner):
        return None
    note(job=job.process_name)
    return job
