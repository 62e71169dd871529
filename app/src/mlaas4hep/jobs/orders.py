"""From a job's row to the order that an executor gets: nothing in the row is taken on trust.

Whoever can write to the database could otherwise name any folder of the host. So a row gives a
name that can be one, limits within the installation's, an environment that the operator lists, and
files that exist in an uploaded folder; all else comes from the settings.
"""

from __future__ import annotations

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import JobSettings
from mlaas4hep.jobs.checks import (
    PROCESS_NAME,
    VERSION,
    check_environment,
    check_files,
    check_resources,
)
from mlaas4hep.jobs.database import Job
from mlaas4hep.jobs.executors.base import Order


def order_of(job: Job, settings: JobSettings) -> Order:
    """The order to start ``job``; MlaasError when its row holds what it may not."""
    if not PROCESS_NAME.fullmatch(job.process_name) or not VERSION.fullmatch(job.version):
        raise UsageError(
            f"the job {job.id} has the name {job.process_name[:128]!r} and the folder "
            f"{job.version[:128]!r}: this service never creates such names",
            "Tell the operator: somebody wrote into the database.",
        )
    check_resources(settings, job.cpus, job.memory)
    environment = check_environment(settings, job.environment, job.device)
    cwd = (settings.uploads / job.version / "files").absolute()
    if not cwd.is_dir() or cwd.resolve() != settings.uploads.resolve() / job.version / "files":
        raise UsageError(
            f"the uploaded folder of the job, {job.version}, is not there any more",
            "Upload it again.",
        )
    check_files(cwd, job)
    return Order(
        process_name=job.process_name,
        home=(settings.jobs / job.process_name).absolute(),
        cwd=cwd,
        files=job.files,
        labels=job.labels,
        model=job.model,
        params=job.params,
        cpus=job.cpus,
        memory=job.memory,
        environment=environment,
        gpu=job.device == "gpu",
        paths=settings.paths_of(job.groups),
    )
