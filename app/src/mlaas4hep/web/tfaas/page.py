"""The page of TFaaS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from mlaas4hep import __version__
from mlaas4hep.core.settings import Settings
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.web.sign_in import SIGN_OUT, caller_of
from mlaas4hep.web.tfaas.models import Models

TEMPLATES = Path(__file__).parents[1] / "templates"
PAGES = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_POLICY = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Page:
    """The page and its style."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models = models
        self._issuer = settings.issuer
        self._url = settings.tfaas_url if settings.public_url else ""

    def show(self, request: Request) -> Response:
        """Answer with every model of the caller, each with its card."""
        models = [
            {
                "bundle": bundle,
                "card": bundle.card,
                "metrics": _metrics(bundle),
                "example": _example(bundle),
                "report": (bundle.path / "report.html").exists(),
            }
            for bundle in self._models.of(request)
        ]
        who = caller_of(request.scope)
        page = PAGES.get_template("tfaas.html").render(
            models=models,
            who=who,
            sign_out=SIGN_OUT if who.by_cookie else "",
            issuer=self._issuer,
            url=(self._url or str(request.base_url)).rstrip("/"),
            version=__version__,
        )
        return HTMLResponse(page, headers=_POLICY)

    def style(self, _: Request) -> Response:
        """Answer with how the page looks."""
        return FileResponse(TEMPLATES / "page.css", media_type="text/css")


def _metrics(bundle: Bundle) -> dict[str, float]:
    """The numbers of metrics.json."""
    try:
        content = json.loads((bundle.path / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if type(value) in (int, float)}


def _example(bundle: Bundle) -> str:
    """A body of /predict/events: one event in the middle of every branch's range."""
    specs = bundle.specs
    middle = {k: float(f"{(specs.minv[k] + specs.maxv[k]) / 2:.3g}") for k in specs.minv}
    event: dict[str, Any] = {k: middle[k] for k in specs.flat}
    event |= {k: [middle[k]] for k in specs.jagged if specs.jdim[k]}
    return json.dumps({"model": bundle.name, "events": [event]})
