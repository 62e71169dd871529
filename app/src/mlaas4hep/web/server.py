"""The training API and its page: upload a folder, submit a training, follow it, fetch its model.

The prototype's routes keep their shapes; beside them is a plain JSON API (/folders, /jobs).
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep import __version__
from mlaas4hep.access.caller import Caller
from mlaas4hep.core.errors import ConflictError, LimitError, MlaasError, NotFoundError
from mlaas4hep.core.files import is_full
from mlaas4hep.core.settings import Settings
from mlaas4hep.core.units import size
from mlaas4hep.jobs.checks import check_upload_size
from mlaas4hep.jobs.database import Database, Folder, Job, State
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.jobs.presence import is_at_work
from mlaas4hep.jobs.queue import Queue, Submission
from mlaas4hep.web.common import address, listen, problem, status_of
from mlaas4hep.web.linger import Lingering
from mlaas4hep.web.observe import Observe, Requests
from mlaas4hep.web.protocol import BoundedProtocol
from mlaas4hep.web.server_status import JobFigures, lacks
from mlaas4hep.web.sign_in import SIGN_OUT, SignIn, caller_of, challenge
from mlaas4hep.web.status import StoreFigures, metrics, readiness, registry
from mlaas4hep.web.uploads import Turns, receive_file

PIECE = 1 << 20
MOST_BODY = 1 << 20
"""Bytes of a request's body, but for uploads."""
HERE = Path(__file__).parent
CHANGING_GETS = ("/delete_specs", "/delete_folder")
SECURITY = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
REQUEST = ("files", "labels", "model", "params", "cpus", "memory", "device", "environment")
REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A report was written where user code ran: it may show pictures, nothing else."""


PROBLEM: dict[str, Any] = {
    "description": "Problem details (RFC 9457): title says what is wrong, detail what to do.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["title", "status"],
                "properties": {
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}


class SubmitBody(BaseModel):
    """A training; file names are relative to the uploaded folder."""

    name: str = Field(description="The uploaded folder.")
    device: str = Field(description='"cpu" or, where there is one, "gpu".', examples=["cpu"])
    memory: str | int = Field(description="As docker takes it.", examples=["3gb"])
    cpus: str | float = Field(description="Number of cores.", examples=["2"])
    files: str = Field(description="A text file with one name a line, or names joined by commas.")
    labels: str = Field(description="A label per file likewise, or the name of the label branch.")
    model: str = Field(description="Python file with model(idim).")
    params: str = Field(description="JSON file of parameters.")
    environment: str = Field("", description="One of GET /environments; empty is the first.")


class Submitted(BaseModel):
    """A job that was put in line."""

    process_name: str
    job_id: int


class DockerStatus(BaseModel):
    """The job's state in the words of ``docker ps``."""

    process_name: str
    status: str = Field(examples=["Created", "Up 8 seconds", "Exited (0) 3 minutes ago"])


class EnvironmentView(BaseModel):
    """What a training may run in."""

    name: str
    devices: list[str]


class FolderView(BaseModel):
    """An uploaded folder."""

    name: str
    files: int
    size: int = Field(description="Bytes.")
    uploaded: str


class Progress(BaseModel):
    """How far a training is."""

    phase: str = ""
    done: int = 0
    total: int = 0
    figures: dict[str, float] = {}


class JobView(BaseModel):
    """A job: what was asked for, how far it is, how it ended. Times are ISO 8601, in UTC."""

    process_name: str
    job_id: int
    name: str
    state: State
    progress: Progress
    created: str
    started: str | None
    finished: str | None
    reason: str = Field(description="Why it failed.")
    remedy: str
    exit_code: int | None
    metrics: dict[str, Any]
    warnings: list[str] = Field(description="What the training warned of.")
    model: str | None = Field(description="Its name in TFaaS, when it is served.")
    servable: bool
    why_not: str = Field(description="Why a model that was trained can't be served.")
    expired: str | None = Field(description="When its log and bundle were deleted.")
    request: dict[str, Any]


def folder_view(folder: Folder) -> FolderView:
    """A folder's row as JSON."""
    return FolderView(
        name=folder.name, files=folder.files, size=folder.size, uploaded=iso(folder.uploaded) or ""
    )


def job_view(job: Job) -> JobView:
    """A job's row as JSON."""
    return JobView(
        process_name=job.process_name,
        job_id=job.id,
        name=job.name,
        state=State(job.state),
        progress=Progress(**job.progress),
        created=iso(job.created) or "",
        started=iso(job.started),
        finished=iso(job.finished),
        reason=job.reason,
        remedy=job.remedy,
        exit_code=job.exit_code,
        metrics=job.metrics,
        warnings=job.warnings,
        model=job.process_name if job.servable else None,
        servable=job.servable,
        why_not=job.why_not,
        expired=iso(job.expired),
        request={key: getattr(job, key) for key in REQUEST},
    )


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def ago(seconds: float) -> str:
    """A duration in docker's words: ``Less than a second``, ``8 seconds``, ``About an hour``."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' * (whole > 1)}"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 730:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def docker_status(job: Job, now: float) -> str:
    """The job's state as ``docker ps`` would say it."""
    if job.state == State.WAITING or (job.started is None and job.finished is None):
        return "Created"
    if job.state == State.RUNNING:
        return f"Up {ago(now - (job.started or now))}"
    if job.state == State.SUCCEEDED:
        code = 0
    elif job.exit_code is not None and job.exit_code < 0:
        code = 128 - job.exit_code  # as docker tells a signal
    else:
        code = job.exit_code or 1
    return f"Exited ({code}) {ago(now - (job.finished or now))} ago"


Name = Annotated[str, Query(description="The uploaded folder.")]
ProcessName = Annotated[str, Query(description="The job, NAME_k.")]


async def _who(request: Request) -> Caller:
    return caller_of(request.scope)


Who = Annotated[Caller, Depends(_who)]


def create_app(settings: Settings) -> FastAPI:
    """The application over the store and database of ``settings``."""
    database = Database(settings.database_url)
    folders = Folders(settings, database)
    queue = Queue(settings, database)
    unpacking, removing = Turns(), Turns()
    pages = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
    pages.filters |= {"ago": ago, "size": size, "iso": iso}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(
        title="MLaaS4HEP server",
        version=__version__,
        description="Upload a folder, submit a training, follow it, fetch its model.",
        responses={"4XX": PROBLEM},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.requests = Requests()
    figures = registry(
        app.state.requests, JobFigures(settings, queue), StoreFigures(settings.store)
    )
    app.add_middleware(Guard, sign_in=SignIn(settings))
    _add_error_handlers(app)

    # The prototype's routes

    @app.get("/hello", response_class=PlainTextResponse, tags=["prototype"])
    async def hello() -> str:
        """Say hello."""
        return "Hello World\n"

    @app.post(
        "/upload",
        response_class=PlainTextResponse,
        tags=["prototype"],
        openapi_extra={
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
        },
    )
    async def upload(name: Name, request: Request, who: Who) -> Response:
        """Upload a folder as tar.gz or tar; it replaces one of the same name."""
        with suppress(ValueError):  # a length that is no number is the HTTP parser's affair
            check_upload_size(int(request.headers.get("content-length", 0)) - PIECE, settings)
        try:
            coming = await run_in_threadpool(folders.upload, name, who.owner)
            async with contextmanager_in_threadpool(coming) as incoming:
                with incoming.archive.open("xb") as target:
                    written = await receive_file(
                        request.headers.get("content-type", ""),
                        request.stream(),
                        target,
                        lambda seen: check_upload_size(seen - PIECE, settings),
                    )
                check_upload_size(written, settings)
                await unpacking.run(who.owner, incoming.finish)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it; nothing is left of the upload
        return PlainTextResponse("Successfully uploaded!\n")

    @app.post("/submit", tags=["prototype"])
    def submit(body: SubmitBody, who: Who) -> Submitted:
        """Put a training in line."""
        texts = {key: str(value) for key, value in body.model_dump().items()}
        job = queue.submit(Submission(**texts), who.owner)
        return Submitted(process_name=job.process_name, job_id=job.id)

    @app.get("/status_docker", tags=["prototype"])
    def status_docker(process_name: ProcessName, who: Who) -> DockerStatus:
        """A job's state in docker's words."""
        job = queue.get(process_name, who.owner)
        return DockerStatus(process_name=process_name, status=docker_status(job, time.time()))

    @app.get("/logs", tags=["prototype"], response_class=PlainTextResponse)
    def logs(process_name: ProcessName, who: Who) -> Response:
        """What a training has printed so far, as a file."""
        job = queue.get(process_name, who.owner)
        name = f"{job.process_name}.txt"
        return _download(queue.home(job), "log.txt", name, "text/plain; charset=utf-8")

    @app.get("/model", tags=["prototype"], response_class=Response)
    def model(process_name: ProcessName, who: Who) -> Response:
        """The bundle of a training that succeeded, as tar.gz."""
        job = queue.get(process_name, who.owner)
        if job.state == State.FAILED:
            raise NotFoundError(
                f"the job {process_name} failed and has no model: {job.reason}", job.remedy
            )
        if job.state != State.SUCCEEDED:
            raise ConflictError(
                f"the job {process_name} is {job.state}, its model is not ready", "Try again later."
            )
        name = f"{job.process_name}.tar.gz"
        return _download(queue.home(job), name, name, "application/gzip")

    @app.get("/delete_specs", tags=["prototype"], response_class=PlainTextResponse)
    def delete_specs(name: Name, who: Who) -> str:
        """Remove the specs files of a folder."""
        folders.delete_specs(name, who.owner)
        return "Specs deletion completed!\n"

    @app.get("/delete_folder", tags=["prototype"], response_class=PlainTextResponse)
    async def delete_folder(name: Name, who: Who) -> str:
        """Remove a folder; its jobs and models stay."""
        await removing.run(who.owner, folders.delete, name, who.owner)
        return "Folder deletion completed!\n"

    # The JSON API

    @app.get("/folders", tags=["api"])
    def list_folders(who: Who) -> list[FolderView]:
        """Your folders by name."""
        return [folder_view(folder) for folder in folders.all(who.owner)]

    @app.delete("/folders/{name}", status_code=204, tags=["api"])
    async def remove_folder(name: str, who: Who) -> None:
        """Remove a folder; its jobs and models stay."""
        await removing.run(who.owner, folders.delete, name, who.owner)

    @app.delete("/folders/{name}/specs", status_code=204, tags=["api"])
    def remove_specs(name: str, who: Who) -> None:
        """Remove the specs files of a folder."""
        folders.delete_specs(name, who.owner)

    @app.get("/environments", tags=["api"])
    def environments() -> list[EnvironmentView]:
        """What a training may run in; the first is the default."""
        return [
            EnvironmentView(name=name, devices=["cpu", "gpu"] if environment.gpus else ["cpu"])
            for name, environment in settings.job_environments.items()
        ]

    @app.get("/jobs", tags=["api"], response_model=list[JobView])
    def list_jobs(who: Who, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> Response:
        """Your newest jobs, newest first; long texts are cut, metrics are numbers only."""
        portions = queue.portions(limit, who.owner)
        first = next(portions, [])  # what fails now is still an answer of its own
        return StreamingResponse(
            _json_array([job_view(job) for job in jobs] for jobs in chain([first], portions)),
            media_type="application/json",
        )

    @app.get("/jobs/{process_name}", tags=["api"])
    def get_job(process_name: str, who: Who) -> JobView:
        """One job."""
        return job_view(queue.get(process_name, who.owner))

    @app.delete("/jobs/{process_name}", status_code=202, tags=["api"])
    def cancel(process_name: str, who: Who) -> JobView:
        """Cancel a job that waits or runs; it ends as failed."""
        return job_view(queue.cancel(process_name, who.owner))

    @app.get("/jobs/{process_name}/report", response_class=HTMLResponse, tags=["api"])
    def report(process_name: str, who: Who) -> Response:
        """The report of a training that succeeded: metrics, ROC curve, losses."""
        job = queue.get(process_name, who.owner)
        if job.state != State.SUCCEEDED:
            raise ConflictError(f"the job {process_name} is {job.state} and has no report")
        bundle = queue.home(job) / job.process_name
        response = _download(bundle, "report.html", "", "text/html; charset=utf-8")
        response.headers["content-security-policy"] = REPORT_POLICY
        return response

    @app.get("/healthz", tags=["api"])
    async def healthz() -> dict[str, str]:
        """Whether the server answers, and whether a runner is at work; waits for nothing."""
        return {"status": "ok", "runner": "at work" if is_at_work(settings.store) else "none"}

    @app.get("/readyz", tags=["api"])
    def readyz() -> Response:
        """Whether the server can do its work: database, store and runner; 503 says what lacks."""
        return readiness(lacks(settings, database))

    @app.get("/metrics", response_class=PlainTextResponse, tags=["api"])
    def prometheus() -> Response:
        """Figures for Prometheus."""
        return metrics(figures)

    # The pages

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page(request: Request, who: Who) -> str:
        jobs = queue.recent(200, who.owner)
        return pages.get_template("server.html").render(
            who=who,
            sign_out=SIGN_OUT if who.by_cookie else "",
            issuer=settings.issuer,
            url=(settings.public_url or str(request.base_url)).rstrip("/"),
            folders=folders.all(who.owner),
            jobs=jobs,
            models={
                name: (settings.models / name / "report.html").exists()
                for name in folders.owners.names(who.owner)
            },
            runner=is_at_work(settings.store),
            active=any(not State(job.state).ended for job in jobs),
            now=time.time(),
            tfaas_url=settings.tfaas_url.rstrip("/"),
            version=__version__,
        )

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs() -> str:
        return pages.get_template("docs.html").render(api=app.openapi())

    @app.get("/page.css", include_in_schema=False)
    def style() -> Response:
        return Response((HERE / "templates/page.css").read_bytes(), media_type="text/css")

    @app.get("/page.js", include_in_schema=False)
    def script() -> Response:
        return Response((HERE / "templates/page.js").read_bytes(), media_type="text/javascript")

    return app


class Guard:
    """Around everything: who may ask, how much, and the headers of every answer."""

    def __init__(self, app: ASGIApp, sign_in: SignIn) -> None:
        self._app = app
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in SECURITY.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        if scope["path"] != "/upload":
            receive = limited(receive)
        try:
            await self._sign_in.admit(scope, scope["path"] in CHANGING_GETS)
        except MlaasError as error:
            answer = problem(status_of(error), error.message, error.remedy)
            answer.headers.update(challenge(error))
            await answer(scope, receive, send_secured)
            return
        await self._app(scope, receive, send_secured)


def limited(receive: Receive) -> Receive:
    """``receive`` of a body that raises LimitError when it is larger than MOST_BODY."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY:
            raise LimitError(f"the body is larger than {MOST_BODY} bytes")
        return message

    return receive_counted


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is problem details."""
    handler: Callable[[type[Exception]], Callable[[Any], Any]] = app.exception_handler

    @handler(MlaasError)
    async def expected(request: Request, error: MlaasError) -> Response:
        return problem(status_of(error), error.message, error.remedy)

    @handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        missing = [str(e["loc"][-1]) for e in problems if e["type"] == "missing"]
        others = [f"{e['loc'][-1]}: {e['msg']}" for e in problems if e["type"] != "missing"]
        said = ([f"missing: {', '.join(missing)}"] if missing else []) + others
        return problem(400, "; ".join(said), "See /docs for what this route takes.")

    @handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, MlaasError):  # FastAPI wraps what reading a body raises
            cause = error.__cause__
            return problem(status_of(cause), cause.message, cause.remedy)
        headers = {k.lower().replace("-", "_"): v for k, v in (error.headers or {}).items()}
        return problem(error.status_code, str(error.detail), "See /docs for the routes.", **headers)

    @handler(OSError)
    async def disk(request: Request, error: OSError) -> Response:
        if not is_full(error):
            raise error
        detail = f"the server's disk is full: {error.strerror}"
        return problem(507, detail, "Tell the operator of the service.")

    @handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return problem(500, "the server failed; its log says why", "Tell the operator.")

    @handler(SQLAlchemyError)
    async def database(request: Request, error: SQLAlchemyError) -> Response:
        cause = getattr(error, "orig", None) or type(error).__name__
        return problem(503, f"the database can't be used now: {cause}", "Try again later.")


def _json_array(portions: Iterable[list[JobView]]) -> Iterator[str]:
    """An array, a portion at a time: as a whole it is in nobody's memory."""
    before = "["
    for portion in portions:
        if portion:
            yield before + ",".join(job.model_dump_json() for job in portion)
            before = ","
    yield "]" if before == "," else "[]"


def _download(root: Path, name: str, attachment: str, media_type: str) -> Response:
    """The file ``root/name`` as it is now; user code ran there, so links are not followed."""
    try:
        if root.is_symlink():
            raise NotFoundError(f"{root.name} is not a folder")
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        if name == "log.txt":  # the training has not begun
            return PlainTextResponse("", headers=_attached(attachment))
        raise NotFoundError(f"there is no {name} any more") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotFoundError(f"{name} is not a file")
    stream = os.fdopen(descriptor, "rb", buffering=0)

    def content() -> Iterator[bytes]:
        left = status.st_size
        with stream:
            while left > 0 and (piece := stream.read(min(left, PIECE))):
                left -= len(piece)
                yield piece

    headers = {"content-length": str(status.st_size)} | _attached(attachment)
    return StreamingResponse(content(), headers=headers, media_type=media_type)


def _attached(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'} if name else {}


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; says on stdout where it listens."""
    listening = listen(settings, settings.server_port)
    app = create_app(settings)
    sys.setswitchinterval(0.001)  # unpacking keeps others waiting less
    print(f"server listens on {address(listening)}", flush=True)
    observed = Observe(Lingering(app), app.state.requests)
    config = uvicorn.Config(
        observed,
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])
