"""The page of TFaaS."""

from __future__ import annotations

import json
from contextlib import suppress
from math import isfinite

from starlette.requests import Request
from starlette.responses import Response

from mlaas4hep.inference.service import Listed, Service
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.web.pages import Pages
from mlaas4hep.web.sign_in import caller_of


class Page:
    """Every model of the caller, each with its card and a request that it answers."""

    def __init__(self, service: Service, issuer: str, url: str) -> None:
        """``url`` is where users find TFaaS; "" is where the request found it."""
        self._service = service
        self._issuer = issuer
        self._url = url
        self._pages = Pages()

    def show(self, request: Request) -> Response:
        """Answer with the page."""
        who = caller_of(request.scope)
        models = [
            {
                "bundle": bundle,
                "flat": listed.flat,
                "jagged": listed.jagged,
                "card": bundle.card,
                "metrics": _numbers(bundle),
                "example": _example(listed),
                "report": (bundle.path / "report.html").is_file(),
            }
            for listed in self._service.bundles(who.owner)
            for bundle in [listed.bundle]
        ]
        return self._pages.show(
            "tfaas.html",
            who,
            models=models,
            issuer=self._issuer,
            url=(self._url or str(request.base_url)).rstrip("/"),
        )


def _numbers(bundle: Bundle) -> dict[str, float]:
    """The finite numbers of metrics.json, which is a stranger's."""
    try:
        content = json.loads((bundle.path / "metrics.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    numbers = {}
    for key, value in content.items():
        if type(value) in (int, float):
            with suppress(OverflowError):  # an integer beyond any float
                numbers[key] = float(value)
    return {key: value for key, value in numbers.items() if isfinite(value)}


def _example(listed: Listed) -> str:
    """A body of /predict/events; "" where it would be too long."""
    if listed.example is None:
        return ""
    return json.dumps({"model": listed.bundle.name, "events": [listed.example]})
