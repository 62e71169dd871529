"""Where trainings run: as processes of this machine, or as containers of an engine."""

from __future__ import annotations

from mlaas4hep.core.settings import JobSettings
from mlaas4hep.jobs.executors.base import Executor
from mlaas4hep.jobs.executors.process import ProcessExecutor


def executor_of(settings: JobSettings) -> Executor:
    """The executor that the settings choose."""
    if settings.executor == "process":
        return ProcessExecutor(
            job_offline=settings.job_offline, biggest_file=settings.max_job_disk_bytes
        )
    from mlaas4hep.jobs.executors.containers import ContainerExecutor  # needs the engine's library

    return ContainerExecutor(settings)
