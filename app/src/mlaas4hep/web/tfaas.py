"""TFaaS: predictions over HTTP from the models of the repository.

``TFaaS`` is the ASGI application: predictions go to a raw callable, the rest to Starlette.
``serve`` runs it. Errors have TFaaS's shape, ``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs

import psutil
import uvicorn
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from mlaas4hep import __version__
from mlaas4hep.core.errors import LimitError, MlaasError, NotFoundError, UsageError
from mlaas4hep.core.settings import MiB, Settings
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.bundle import CARD_KEYS, Bundle
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.common import Scope, address, listen, status_of, why_refused
from mlaas4hep.web.observe import PROBES, Observe, Requests
from mlaas4hep.web.status import StoreFigures, metrics, readiness, registry
from mlaas4hep.web.tfaas_predict import (
    Predictions,
    Receive,
    Send,
    error_body,
    send_error,
    sentence,
)
from mlaas4hep.web.tfaas_status import PredictionFigures, lacks
from mlaas4hep.web.uploads import receive_file

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_PIECE = MiB
_FORM_BYTES = 64 * 1024
_ACCEPTED = (
    "a bundle as 'mlaas4hep train' packs it, NAME.tar.gz (or its plain tar), as the whole body: "
    "curl --data-binary @NAME.tar.gz URL/upload"
)
_PAGE_POLICY = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_REPORT_POLICY = _PAGE_POLICY | {
    "content-security-policy": "sandbox; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'"
}
"""A report comes from where user code ran: it may show pictures, nothing else."""


class TFaaS:
    """The ASGI application; ``announce`` is called once it is ready."""

    def __init__(self, settings: Settings, announce: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._announce = announce
        self._repository = Repository(settings.models)
        self._registry = Registry(self._repository, settings)
        self._predictions = Predictions(self._registry, settings.max_request_bytes)
        self.requests = Requests()
        self._figures = registry(
            self.requests, PredictionFigures(self._registry), StoreFigures(settings.models)
        )
        self._installs = asyncio.Semaphore(2)
        self._known: dict[str, Bundle] = {}
        self._requests = {"GET": 0, "POST": 0}
        self._started = time.time()
        templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._page = templates.get_template("tfaas.html")
        self._site = Starlette(
            routes=[
                Route("/", self._index),
                Route("/page.css", self._style),
                Route("/healthz", self._health),
                Route("/readyz", self._ready),
                Route("/metrics", self._metrics),
                Route("/status", self._status),
                Route("/models", self._models),
                Route("/params/{model}", self._params),
                Route("/download/{model}.tar.gz", self._download),
                Route("/report/{model}", self._report),
                Route("/upload", self._upload, methods=["POST"]),
                Route("/delete", self._delete, methods=["DELETE"]),
                Route("/delete/{model}", self._delete, methods=["DELETE"]),
            ],
            exception_handlers={
                HTTPException: _http_error,
                MlaasError: _mlaas_error,
                OSError: _os_error,
                Exception: _unexpected_error,
            },
            lifespan=self._lifespan,
        )
        self._site.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._site(scope, receive, send)
            return
        method = scope["method"]
        if method in self._requests:
            self._requests[method] += 1
        if why := why_refused(scope):
            await send_error(send, 403, why)
        elif scope["path"] in self._predictions.routes:
            await self._predictions(scope, receive, send)
        else:
            await self._site(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self._repository.sweep)
        self._announce()
        yield
        await asyncio.to_thread(self._registry.close)

    def _index(self, request: Request) -> Response:
        """Answer with the page: every model with its card."""
        models = [
            {
                "bundle": bundle,
                "card": bundle.card,
                "metrics": _metrics(bundle),
                "example": _example(bundle),
                "report": (bundle.path / "report.html").exists(),
            }
            for bundle in self._bundles()
        ]
        url = str(request.base_url).rstrip("/")
        return HTMLResponse(
            self._page.render(models=models, url=url, version=__version__), headers=_PAGE_POLICY
        )

    def _style(self, _: Request) -> Response:
        return FileResponse(_HERE / "templates" / "page.css", media_type="text/css")

    def _health(self, _: Request) -> Response:
        return _json({"status": "ok", "version": __version__})

    def _ready(self, _: Request) -> Response:
        return readiness(lacks(self._repository))

    async def _metrics(self, _: Request) -> Response:
        """Answer from the event loop's thread, to which the counters belong."""
        return metrics(self._figures)

    @property
    def quiet(self) -> frozenset[str]:
        """Paths whose requests are logged only when they fail."""
        return PROBES | self._predictions.routes.keys()

    def _status(self, _: Request) -> Response:
        """Answer with the prototype's keys; NGo counts threads."""
        load = psutil.getloadavg()
        virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
        return _json(
            {
                "CPU": psutil.cpu_percent(percpu=True),
                "Load": dict(zip(("load1", "load5", "load15"), load, strict=True)),
                "Memory": {"Virtual": _memory(virtual), "Swap": _memory(swap)},
                "NGo": psutil.Process().num_threads(),
                "Uptime": time.time() - self._started,
                "getRequests": self._requests["GET"],
                "postRequests": self._requests["POST"],
            }
        )

    def _models(self, _: Request) -> Response:
        """Answer with the cards of all models: the prototype's 12 keys in its order."""
        empty = dict.fromkeys(CARD_KEYS, "") | {"img_channels": 0, "options": None}
        return _json(
            [{key: (empty | bundle.card)[key] for key in CARD_KEYS} for bundle in self._bundles()]
        )

    def _params(self, request: Request) -> Response:
        """Answer with params.json as it is."""
        with self._repository.reading(request.path_params["model"]) as bundle:
            return Response((bundle.path / "params.json").read_bytes(), 200, None, _JSON)

    def _download(self, request: Request) -> Response:
        """Answer with NAME.tar.gz; it stays whole when the model is replaced meanwhile."""
        with self._repository.reading(request.path_params["model"]) as bundle:
            archive = self._repository.archive(bundle).open("rb")
        headers = {
            "content-length": str(os.fstat(archive.fileno()).st_size),
            "content-disposition": f'attachment; filename="{bundle.name}.tar.gz"',
        }
        if request.method == "HEAD":
            archive.close()
            return Response(None, 200, headers, "application/gzip")
        return StreamingResponse(_pieces(archive), 200, headers, "application/gzip")

    def _report(self, request: Request) -> Response:
        """Answer with the bundle's report, which may show pictures and nothing else."""
        name = request.path_params["model"]
        with self._repository.reading(name) as bundle:
            try:
                page = (bundle.path / "report.html").read_bytes()
            except FileNotFoundError:
                raise NotFoundError(f"the model {name} has no report") from None
        return HTMLResponse(page, headers=_REPORT_POLICY)

    async def _upload(self, request: Request) -> Response:
        """Publish a bundle; when this answers 200, every later prediction is the new model's."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, f"forms are not accepted; send {_ACCEPTED}")
        limit = self._settings.max_bundle_bytes
        with await run_in_threadpool(self._repository.spool) as spool:
            try:
                await _receive(request, spool, limit)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            if not _is_archive(spool):
                raise HTTPException(415, f"the body is no tar or tar.gz; send {_ACCEPTED}")
            try:
                async with self._installs:
                    bundle = await self._registry.publish(spool, limit)
            except LimitError:
                raise
            except MlaasError as error:
                text = f"the upload is not accepted: {sentence(error)}"
                raise HTTPException(400, f"{text} Accepted is {_ACCEPTED}") from error
        _log.info("published %s", bundle.name)
        return _json({"model": bundle.name})

    async def _delete(self, request: Request) -> Response:
        """Remove a model named in the path, the query or a form's field ``model``."""
        name = request.path_params.get("model") or request.query_params.get("model")
        name = name or await _model_field(request)
        if not name:
            raise UsageError("no model name is provided", "curl -X DELETE URL/delete/NAME")
        await self._registry.delete(name)
        _log.info("deleted %s", name)
        return Response(status_code=200)

    def _bundles(self) -> list[Bundle]:
        """All whole bundles, sorted by name; read once for each version."""
        known: dict[str, Bundle] = {}
        for name in self._repository.names():
            try:
                version = self._repository.version(name)
                known[version] = self._known.get(version) or self._repository.get(name)
            except (MlaasError, OSError) as error:
                _log.warning("left out the model %s: %s", name, error)
        self._known = known
        return list(known.values())


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; prints ``TFaaS listens on URL`` when ready.

    UsageError when the host isn't loopback or the port is taken.
    """
    listening = listen(settings.host, settings.tfaas_port)

    def announce() -> None:
        print(f"TFaaS listens on {address(listening)}", flush=True)

    application = TFaaS(settings, announce)
    sys.setswitchinterval(0.001)  # encoding a large request keeps others waiting less
    gc.freeze()
    config = uvicorn.Config(
        Observe(application, application.requests, application.quiet),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listening])


_JSON = "application/json"


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content) + "\n", status, None, _JSON)


def _http_error(_: Request, error: Any) -> Response:
    texts = {404: "page not found", 405: "this method is not allowed here"}
    text = texts.get(error.status_code, error.detail)
    return Response(error_body(text), error.status_code, error.headers, _JSON)


def _mlaas_error(_: Request, error: Any) -> Response:
    return Response(error_body(sentence(error)), status_of(error), None, _JSON)


def _os_error(_: Request, error: Any) -> Response:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    _log.exception("a request failed")
    text = "the disk is full" if full else "the request failed; the service's log says why"
    return Response(error_body(text), 507 if full else 500, None, _JSON)


def _unexpected_error(_: Request, error: Any) -> Response:
    return Response(error_body("the request failed; the service's log says why"), 500, None, _JSON)


async def _receive(request: Request, target: IO[bytes], limit: int) -> None:
    """Write the body to ``target`` as it comes; LimitError beyond ``limit`` bytes."""
    piece, size = bytearray(), 0
    async for data in request.stream():
        size += len(data)
        if size > limit:
            raise LimitError(
                f"the upload is larger than {limit} bytes",
                "The limit is MLAAS4HEP_MAX_BUNDLE_BYTES.",
            )
        piece += data
        if len(piece) >= _PIECE:
            await run_in_threadpool(target.write, bytes(piece))
            piece.clear()
    await run_in_threadpool(target.write, bytes(piece))
    target.seek(0)


def _is_archive(stream: IO[bytes]) -> bool:
    """Whether a gzip or tar file begins here, by its magic numbers."""
    head = stream.read(512)
    stream.seek(0)
    return head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar"


async def _model_field(request: Request) -> str:
    """The field ``model`` of a form, whichever way it is encoded; "" when there is none."""
    content_type = request.headers.get("content-type", "")

    def check(size: int) -> None:
        if size > _FORM_BYTES:
            raise LimitError(f"the form is larger than {_FORM_BYTES} bytes")

    if content_type.startswith("multipart/"):
        field = io.BytesIO()
        await receive_file(content_type, request.stream(), field, check, "model")
        return field.getvalue().decode("utf-8", "replace")
    body = b""
    async for data in request.stream():
        body += data
        check(len(body))
    return parse_qs(body.decode("utf-8", "replace")).get("model", [""])[0]


def _pieces(stream: IO[bytes]) -> Any:
    with stream:
        while piece := stream.read(_PIECE):
            yield piece


def _memory(figures: Any) -> dict[str, float]:
    return {
        "total": figures.total,
        "free": figures.free,
        "used": figures.used,
        "usedPercent": figures.percent,
    }


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
