"""The server's application, and what runs it.

The prototype's routes keep their shapes (``prototype``); beside them is a plain JSON API (``api``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from mlaas4hep import __version__
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.database import Database
from mlaas4hep.jobs.folders import Folders
from mlaas4hep.jobs.queue import Queue
from mlaas4hep.web.guard import Guard
from mlaas4hep.web.observe import Requests
from mlaas4hep.web.run import listen, run
from mlaas4hep.web.server import api, pages, prototype
from mlaas4hep.web.server.errors import PROBLEM, add_error_handlers
from mlaas4hep.web.server.parts import Parts
from mlaas4hep.web.server.status import JobMetrics
from mlaas4hep.web.sign_in import Admission
from mlaas4hep.web.status import StoreMetrics, registry
from mlaas4hep.web.turns import Turns


def create_app(settings: Settings) -> FastAPI:
    """The application over the store and database of ``settings``."""
    database = Database(settings.database_url)
    queue = Queue(settings, database)
    requests = Requests()

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
    app.state.requests = requests
    app.state.parts = Parts(
        settings,
        database,
        Folders(settings, database),
        queue,
        registry(requests, JobMetrics(settings.store, queue), StoreMetrics(settings.store)),
        unpacking=Turns(),
        removing=Turns(),
    )
    app.add_middleware(
        Guard,
        admission=Admission(settings),
        changing=("/delete_specs", "/delete_folder"),
        large=("/upload",),
    )
    add_error_handlers(app)
    for part in (prototype, api, pages):
        app.include_router(part.router)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; says on stdout where it listens.

    UsageError when the port is taken, or others could come in without sign-in.
    """
    listening = listen(settings, settings.server_port)
    app = create_app(settings)
    run("server", app, listening, app.state.requests)
