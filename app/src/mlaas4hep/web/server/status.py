"""Whether the server is ready, and its metrics: jobs, runner, database."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.settings import StoreSettings
from mlaas4hep.core.units import size
from mlaas4hep.jobs.database import Database
from mlaas4hep.jobs.presence import is_at_work
from mlaas4hep.jobs.queue import Queue


class JobMetrics(Collector):
    """What the database knows of jobs, and whether a runner is at work."""

    def __init__(self, store: Path, queue: Queue) -> None:
        self._store = store
        self._queue = queue

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is so now; jobs are left out while the database is away."""
        at_work = is_at_work(self._store)
        yield GaugeMetricFamily("mlaas4hep_runner_at_work", "1 while a runner is.", int(at_work))
        jobs = GaugeMetricFamily("mlaas4hep_jobs", "Jobs by state.", labels=("state",))
        try:
            for state, number in self._queue.counts().items():
                jobs.add_metric((state,), number)
            up = 1
        except SQLAlchemyError:
            up = 0
        yield GaugeMetricFamily("mlaas4hep_database_up", "1 while the database answers.", up)
        yield jobs


def lacks(settings: StoreSettings, database: Database) -> list[MlaasError]:
    """What keeps the server from doing its work, each with what to do."""
    found = []
    try:
        database.check()
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        found.append(
            MlaasError(f"the database can't be used: {cause}", "Check MLAAS4HEP_DATABASE.")
        )
    try:
        with tempfile.TemporaryFile(dir=settings.uploads) as probe:
            probe.write(b"written")
            probe.flush()
    except OSError as error:
        found.append(
            MlaasError(
                f"the store can't be written: {error.strerror}",
                "Check the folder that MLAAS4HEP_STORE names, its owner and its disk.",
            )
        )
    else:
        free = shutil.disk_usage(settings.uploads).free
        if free < settings.min_free_bytes:
            found.append(
                MlaasError(
                    f"the store has {size(free)} left, less than "
                    f"{size(settings.min_free_bytes)} (min_free_bytes)",
                    "Delete folders and models, or give it a larger disk.",
                )
            )
    if not is_at_work(settings.store):
        found.append(
            MlaasError("no runner is at work", "Start one on the same store: mlaas4hep runner.")
        )
    return found
