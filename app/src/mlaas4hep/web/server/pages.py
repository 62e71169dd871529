"""The server's pages."""

from __future__ import annotations

import time
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from mlaas4hep import __version__
from mlaas4hep.core.units import size
from mlaas4hep.jobs.database import State
from mlaas4hep.jobs.presence import is_at_work
from mlaas4hep.web.server.docker_words import ago
from mlaas4hep.web.server.parts import Has, Who
from mlaas4hep.web.server.views import iso
from mlaas4hep.web.sign_in import SIGN_OUT

router = APIRouter(include_in_schema=False)

TEMPLATES = Path(__file__).parents[1] / "templates"
PAGES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
PAGES.filters |= {"ago": ago, "size": size, "iso": iso}


@router.get("/", response_class=HTMLResponse)
def page(request: Request, who: Who, has: Has) -> str:
    """Jobs, folders and models of the caller."""
    settings, jobs = has.settings, has.queue.recent(200, who.owner)
    return PAGES.get_template("server.html").render(
        who=who,
        sign_out=SIGN_OUT if who.by_cookie else "",
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
        version=__version__,
    )


@router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> str:
    """Every route of the API."""
    return PAGES.get_template("docs.html").render(api=request.app.openapi())


@router.get("/page.css")
def style() -> Response:
    """How pages look."""
    return Response((TEMPLATES / "page.css").read_bytes(), media_type="text/css")


@router.get("/page.js")
def script() -> Response:
    """What keeps a page with a running job fresh."""
    return Response((TEMPLATES / "page.js").read_bytes(), media_type="text/javascript")
