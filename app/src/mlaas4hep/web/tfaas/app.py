"""The ASGI application of TFaaS, and what runs it.

Predictions go to a raw callable, the rest to Starlette. Errors have TFaaS's shape,
``{"error": "..."}``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mlaas4hep import __version__
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.service import Service
from mlaas4hep.web.observe import PROBES, Requests
from mlaas4hep.web.pages import refusal, style
from mlaas4hep.web.problem import status_of
from mlaas4hep.web.run import listen, run
from mlaas4hep.web.sign_in import Admission, challenge
from mlaas4hep.web.status import StoreMetrics, exposed, readiness, registry
from mlaas4hep.web.tfaas.answers import HANDLERS, json_response, send_error, sentence
from mlaas4hep.web.tfaas.models import Models
from mlaas4hep.web.tfaas.page import Page
from mlaas4hep.web.tfaas.predict import Predictions
from mlaas4hep.web.tfaas.status import PredictionMetrics, Status, lacks


class TFaaS:
    """The ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self._service = service = Service(settings)
        self._admission = Admission(settings)
        self._status = Status()
        self.requests = Requests()
        self._collected = registry(
            self.requests, PredictionMetrics(service.registry), StoreMetrics(settings.models)
        )
        models = Models(service, settings.max_bundle_bytes)
        page = Page(service, settings.issuer, settings.tfaas_url if settings.public_url else "")
        self.predictions = Predictions(service, settings.max_request_bytes)
        self.site = Starlette(
            routes=[
                Route("/", page.show),
                Route("/page.css", lambda _: style()),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/status", self._status.show),
                Route("/models", models.cards),
                Route("/params/{model}", models.params),
                Route("/download/{model}.tar.gz", models.download),
                Route("/report/{model}", models.report),
                Route("/upload", models.upload, methods=["POST"]),
                Route("/delete", models.delete, methods=["DELETE"]),
                Route("/delete/{model}", models.delete, methods=["DELETE"]),
            ],
            exception_handlers=HANDLERS,
            lifespan=self._lifespan,
        )
        self.site.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.site(scope, receive, send)
            return
        self._status.count(scope["method"])
        try:
            await self._admission.admit(scope)
        except MlaasError as error:
            if page := refusal(scope, error):
                await page(scope, receive, send)
                return
            headers = [(k.encode(), v.encode()) for k, v in challenge(error).items()]
            await send_error(send, status_of(error), sentence(error), *headers)
            return
        if scope["path"] in self.predictions.routes:
            await self.predictions(scope, receive, send)
        else:
            await self.site(scope, receive, send)

    @property
    def quiet(self) -> frozenset[str]:
        """Paths whose requests are logged only when they fail."""
        return PROBES | self.predictions.routes.keys()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._service.start()
        yield
        self._service.close()

    def _healthz(self, _: Request) -> Response:
        return json_response({"status": "ok", "version": __version__})

    def _readyz(self, _: Request) -> Response:
        return readiness(lacks(self._service.repository))

    async def _metrics(self, _: Request) -> Response:
        """Answer from the event loop's thread, to which the counters belong."""
        return exposed(self._collected)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; prints ``TFaaS listens on URL`` when ready.

    UsageError when the port is taken, or others could come in without sign-in.
    """
    listening = listen(settings, settings.tfaas_port)
    app = TFaaS(settings)
    run("TFaaS", app, listening, app.requests, quiet=app.quiet, keep_alive=75, grace=10)
