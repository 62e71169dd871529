"""What the server's routes need, and how they ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from prometheus_client.registry import CollectorRegistry

from mlaas4hep.access.caller import Caller
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.database import Database
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.jobs.queue import Queue
from mlaas4hep.web.sign_in import caller_of
from mlaas4hep.web.turns import Turns


@dataclass(frozen=True)
class Parts:
    """One of each for a server; its application has them as ``state.parts``."""

    settings: Settings
    database: Database
    folders: Folders
    queue: Queue
    metrics: CollectorRegistry
    unpacking: Turns
    removing: Turns


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _who(request: Request) -> Caller:
    return caller_of(request.scope)


Has = Annotated[Parts, Depends(_parts)]
Who = Annotated[Caller, Depends(_who)]
Name = Annotated[str, Query(description="The uploaded folder.")]
ProcessName = Annotated[str, Query(description="The job, NAME_k.")]
