"""The prototype's routes, in its shapes."""

from __future__ import annotations

import time
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from mlaas4hep.core.errors import ConflictError, NotFoundError
from mlaas4hep.jobs.checks import check_upload_size
from mlaas4hep.jobs.database import State
from mlaas4hep.jobs.queue import Submission
from mlaas4hep.web.files import PIECE, attached, download, open_download, receive_file
from mlaas4hep.web.server.docker_words import docker_status
from mlaas4hep.web.server.parts import Has, Name, ProcessName, Who
from mlaas4hep.web.server.views import DockerStatus, SubmitBody, Submitted

router = APIRouter(tags=["prototype"])

ARCHIVE = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The archive; its top folder is the content.",
                        }
                    },
                }
            }
        },
    }
}
"""The body of an upload, in the OpenAPI document: the route reads it by itself."""


@router.get("/hello", response_class=PlainTextResponse)
async def hello() -> str:
    """Say hello."""
    return "Hello World\n"


@router.post("/upload", response_class=PlainTextResponse, openapi_extra=ARCHIVE)
async def upload(name: Name, request: Request, who: Who, has: Has) -> Response:
    """Upload a folder as tar.gz or tar; it replaces one of the same name."""
    settings = has.settings
    with suppress(ValueError):  # a length that is no number is the HTTP parser's affair
        check_upload_size(int(request.headers.get("content-length", 0)) - PIECE, settings)
    try:
        coming = await run_in_threadpool(has.folders.upload, name, who.owner)
        async with contextmanager_in_threadpool(coming) as incoming:
            with incoming.archive.open("xb") as target:
                written = await receive_file(
                    request.headers.get("content-type", ""),
                    request.stream(),
                    target,
                    lambda seen: check_upload_size(seen - PIECE, settings),
                )
            check_upload_size(written, settings)
            await has.unpacking.run(who.owner, incoming.finish)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it; nothing is left of the upload
    return PlainTextResponse("Successfully uploaded!\n")


@router.post("/submit")
def submit(body: SubmitBody, who: Who, has: Has) -> Submitted:
    """Put a training in line."""
    texts = {key: str(value) for key, value in body.model_dump().items()}
    job = has.queue.submit(Submission(**texts), who.owner, who.groups)
    return Submitted(process_name=job.process_name, job_id=job.id)


@router.get("/status_docker")
def status_docker(process_name: ProcessName, who: Who, has: Has) -> DockerStatus:
    """A job's state in docker's words."""
    job = has.queue.get(process_name, who.owner)
    return DockerStatus(process_name=process_name, status=docker_status(job, time.time()))


@router.get("/logs", response_class=PlainTextResponse)
def logs(process_name: ProcessName, who: Who, has: Has) -> Response:
    """What a training has printed so far, as a file."""
    job = has.queue.get(process_name, who.owner)
    home, name = has.queue.home(job), f"{job.process_name}.txt"
    try:
        log = open_download(home, "log.txt")
    except NotFoundError:  # the training has not begun
        return PlainTextResponse("", headers=attached(name))
    return download(log, "text/plain; charset=utf-8", name)


@router.get("/model", response_class=Response)
def model(process_name: ProcessName, who: Who, has: Has) -> Response:
    """The bundle of a training that succeeded, as tar.gz."""
    job = has.queue.get(process_name, who.owner)
    if job.state == State.FAILED:
        raise NotFoundError(
            f"the job {process_name} failed and has no model: {job.reason}", job.remedy
        )
    if job.state != State.SUCCEEDED:
        raise ConflictError(
            f"the job {process_name} is {job.state}, its model is not ready", "Try again later."
        )
    name = f"{job.process_name}.tar.gz"
    return download(open_download(has.queue.home(job), name), "application/gzip", name)


@router.get("/delete_specs", response_class=PlainTextResponse)
def delete_specs(name: Name, who: Who, has: Has) -> str:
    """Remove the specs files of a folder."""
    has.folders.delete_specs(name, who.owner)
    return "Specs deletion completed!\n"


@router.get("/delete_folder", response_class=PlainTextResponse)
async def delete_folder(name: Name, who: Who, has: Has) -> str:
    """Remove a folder; its jobs and models stay."""
    await has.removing.run(who.owner, has.folders.delete, name, who.owner)
    return "Folder deletion completed!\n"
