"""The plain JSON API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from mlaas4hep.core.errors import ConflictError
from mlaas4hep.jobs.database import State
from mlaas4hep.jobs.presence import is_at_work
from mlaas4hep.web.files import download, open_download
from mlaas4hep.web.pages import REPORT_POLICY
from mlaas4hep.web.server.parts import Has, Who
from mlaas4hep.web.server.status import lacks
from mlaas4hep.web.server.views import (
    EnvironmentView,
    FolderView,
    JobView,
    folder_view,
    job_view,
)
from mlaas4hep.web.status import exposed, readiness

router = APIRouter(tags=["api"])


@router.get("/folders")
def list_folders(who: Who, has: Has) -> list[FolderView]:
    """Your folders by name."""
    return [folder_view(folder) for folder in has.folders.all(who.owner)]


@router.delete("/folders/{name}", status_code=204)
async def remove_folder(name: str, who: Who, has: Has) -> None:
    """Remove a folder; its jobs and models stay."""
    await has.removing.run(who.owner, has.folders.delete, name, who.owner)


@router.delete("/folders/{name}/specs", status_code=204)
def remove_specs(name: str, who: Who, has: Has) -> None:
    """Remove the specs files of a folder."""
    has.folders.delete_specs(name, who.owner)


@router.get("/environments")
def environments(has: Has) -> list[EnvironmentView]:
    """What a training may run in; the first is the default."""
    return [
        EnvironmentView(name=name, devices=["cpu", "gpu"] if environment.gpus else ["cpu"])
        for name, environment in has.settings.job_environments.items()
    ]


@router.get("/jobs", response_model=list[JobView])
def list_jobs(who: Who, has: Has, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> Response:
    """Your newest jobs, newest first; long texts are cut, metrics are numbers only."""
    portions = has.queue.portions(limit, who.owner)
    first = next(portions, [])  # what fails now is still an answer of its own
    return StreamingResponse(
        _json_array([job_view(job) for job in jobs] for jobs in chain([first], portions)),
        media_type="application/json",
    )


@router.get("/jobs/{process_name}")
def get_job(process_name: str, who: Who, has: Has) -> JobView:
    """One job."""
    return job_view(has.queue.get(process_name, who.owner))


@router.delete("/jobs/{process_name}", status_code=202)
def cancel(process_name: str, who: Who, has: Has) -> JobView:
    """Cancel a job that waits or runs; it ends as failed."""
    return job_view(has.queue.cancel(process_name, who.owner))


@router.get("/jobs/{process_name}/report", response_class=HTMLResponse)
def report(process_name: str, who: Who, has: Has) -> Response:
    """The report of a training that succeeded: metrics, ROC curve, losses."""
    job = has.queue.get(process_name, who.owner)
    if job.state != State.SUCCEEDED:
        raise ConflictError(f"the job {process_name} is {job.state} and has no report")
    page = open_download(has.queue.home(job) / job.process_name, "report.html")
    response = download(page, "text/html; charset=utf-8")
    response.headers["content-security-policy"] = REPORT_POLICY
    return response


@router.get("/healthz")
async def healthz(has: Has) -> dict[str, str]:
    """Whether the server answers, and whether a runner is at work; waits for nothing."""
    return {"status": "ok", "runner": "at work" if is_at_work(has.settings.store) else "none"}


@router.get("/readyz")
def readyz(has: Has) -> Response:
    """Whether the server can do its work: database, store and runner; 503 lists what is missing."""
    return readiness(lacks(has.settings, has.database))


@router.get("/metrics", response_class=PlainTextResponse)
def prometheus(has: Has) -> Response:
    """Metrics in the format of Prometheus."""
    return exposed(has.metrics)


def _json_array(portions: Iterable[list[JobView]]) -> Iterator[str]:
    """An array, a portion at a time: as a whole it is in nobody's memory."""
    before = "["
    for portion in portions:
        if portion:
            yield before + ",".join(job.model_dump_json() for job in portion)
            before = ","
    yield "]" if before == "," else "[]"
