"""What goes in and out as JSON, and how a row of the database is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from mlaas4hep.core.secrets import without_secrets
from mlaas4hep.jobs.database import Folder, Job, State

REQUEST = ("files", "labels", "model", "params", "cpus", "memory", "device", "environment")


class SubmitBody(BaseModel):
    """A training; file names are relative to the uploaded folder."""

    name: str = Field(description="The uploaded folder.")
    device: str = Field(description='"cpu" or, where there is one, "gpu".', examples=["cpu"])
    memory: str | int = Field(description="As docker takes it.", examples=["3gb"])
    cpus: str | float = Field(description="Number of cores.", examples=["2"])
    files: str = Field(description="A text file with one name per line, or names joined by commas.")
    labels: str = Field(
        "",
        description="A label per file likewise, or the name of the label branch; empty for a"
        " regression.",
    )
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


class ProgressView(BaseModel):
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
    progress: ProgressView
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
        progress=ProgressView(**job.progress),
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
        request={key: _shown(getattr(job, key)) for key in REQUEST},
    )


def _shown(value: Any) -> Any:
    """What was asked for, without what is secret in its URLs."""
    return without_secrets(value) if isinstance(value, str) else value


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
