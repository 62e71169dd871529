"""The server's pages."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from mlaas4hep.core.secrets import without_secrets
from mlaas4hep.core.units import size
from mlaas4hep.jobs.database import State
from mlaas4hep.jobs.presence import is_at_work
from mlaas4hep.web import pages
from mlaas4hep.web.server.docker_words import ago
from mlaas4hep.web.server.parts import Has, Who
from mlaas4hep.web.server.views import iso

router = APIRouter(include_in_schema=False)
router.add_api_route("/page.css", pages.style)
router.add_api_route("/page.js", pages.script)
PAGES = pages.Pages(ago=ago, size=size, iso=iso, shown=without_secrets)


@router.get("/", response_class=HTMLResponse)
def page(request: Request, who: Who, has: Has) -> Response:
    """Jobs, folders and models of the caller."""
    settings, jobs = has.settings, has.queue.recent(200, who.owner)
    return PAGES.show(
        "server.html",
        who,
        pages.SCRIPT_POLICY,
        issuer=settings.issuer,
        url=(settings.public_url or str(request.base_url)).rstrip("/"),
        folders=has.folders.all(who.owner),
        jobs=jobs,
        models={
            name: (settings.models / name / "report.html").exists()
            for name in has.folders.owners.names(who.owner)
        },
        runner=is_at_work(settings.store),
        active=any(not State(job.state).ended for job in jobs),
        now=time.time(),
        tfaas_url=settings.tfaas_url.rstrip("/"),
    )


@router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> Response:
    """Every route of the API."""
    return PAGES.show("docs.html", api=request.app.openapi())
