"""TFaaS: predictions over HTTP from the models of the repository.

``TFaaS`` is the ASGI application: predictions go to a raw callable, the rest to Starlette.
``serve`` runs it. Errors have TFaaS's shape, ``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
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
from mlaas4hep.core.files import is_full
from mlaas4hep.core.settings import Settings
from mlaas4hep.core.units import MiB
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.bundle import CARD_KEYS, Bundle
from mlaas4hep.models.owners import Owners, TakenError, base_of
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.common import Scope, address, listen, status_of
from mlaas4hep.web.linger import Lingering
from mlaas4hep.web.observe import PROBES, Observe, Requests
from mlaas4hep.web.protocol import BoundedProtocol
from mlaas4hep.web.sign_in import SIGN_OUT, SignIn, caller_of, challenge
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
        self._owners = Owners(self._repository)
        self._predictions = Predictions(self._registry, self._owners, settings.max_request_bytes)
        self._sign_in = SignIn(settings)
        self.requests = Requests()
        self._figures = registry(
            self.requests, PredictionFigures(self._registry), StoreFigures(settings.models)
        )
        self._installs = asyncio.Semaphore(4)
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
        try:
            await self._sign_in.admit(scope)
        except MlaasError as error:
            headers = [(k.encode(), v.encode()) for k, v in challenge(error).items()]
            await send_error(send, status_of(error), sentence(error), *headers)
            return
        if scope["path"] in self._predictions.routes:
            await self._predictions(scope, receive, send)
        else:
            await self._site(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self._repository.sweep)
        self._registry.pool.start()
        self._announce()
        yield
        self._registry.close()

    def _index(self, request: Request) -> Response:
        """Answer with the page: every model of the caller with its card."""
        models = [
            {
                "bundle": bundle,
                "card": bundle.card,
                "metrics": _metrics(bundle),
                "example": _example(bundle),
                "report": (bundle.path / "report.html").exists(),
            }
            for bundle in self._bundles(request)
        ]
        settings, who = self._settings, caller_of(request.scope)
        url = settings.tfaas_url if settings.public_url else str(request.base_url)
        page = self._page.render(
            models=models,
            who=who,
            sign_out=SIGN_OUT if who.by_cookie else "",
            issuer=settings.issuer,
            url=url.rstrip("/"),
            version=__version__,
        )
        return HTMLResponse(page, headers=_PAGE_POLICY)

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

    def _models(self, request: Request) -> Response:
        """Answer with the cards of the caller's models: the prototype's 12 keys in its order."""
        empty = dict.fromkeys(CARD_KEYS, "") | {"img_channels": 0, "options": None}
        return _json(
            [
                {key: (empty | bundle.card)[key] for key in CARD_KEYS}
                for bundle in self._bundles(request)
            ]
        )

    def _params(self, request: Request) -> Response:
        """Answer with params.json as it is."""
        with self._reading(request) as bundle:
            return Response((bundle.path / "params.json").read_bytes(), 200, None, _JSON)

    def _download(self, request: Request) -> Response:
        """Answer with NAME.tar.gz; it stays whole when the model is replaced meanwhile."""
        with self._reading(request) as bundle:
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
        with self._reading(request) as bundle:
            try:
                page = (bundle.path / "report.html").read_bytes()
            except FileNotFoundError:
                raise NotFoundError(f"the model {bundle.name} has no report") from None
        return HTMLResponse(page, headers=_REPORT_POLICY)

    async def _upload(self, request: Request) -> Response:
        """Publish a bundle; when this answers 200, every later prediction is the new model's."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, f"forms are not accepted; send {_ACCEPTED}")
        limit = self._settings.max_bundle_bytes
        owner = caller_of(request.scope).owner
        with await run_in_threadpool(self._repository.spool) as spool:
            try:
                await _receive(request, spool, limit)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            if not _is_archive(spool):
                raise HTTPException(415, f"the body is no tar or tar.gz; send {_ACCEPTED}")
            try:
                async with self._installs:
                    bundle = await self._registry.publish(
                        spool, limit, lambda name: self._owners.claim(base_of(name), owner)
                    )
            except (LimitError, TakenError):
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
        owner = caller_of(request.scope).owner
        self._owners.check(name, owner)
        try:
            await self._registry.delete(name)
        except NotFoundError:
            raise self._owners.missing(name, owner) from None
        _log.info("deleted %s", name)
        return Response(status_code=200)

    @contextmanager
    def _reading(self, request: Request) -> Iterator[Bundle]:
        """The bundle that the path names, if it is the caller's; its files stay meanwhile."""
        name, owner = request.path_params["model"], caller_of(request.scope).owner
        self._owners.check(name, owner)
        with ExitStack() as stack:
            try:
                bundle = stack.enter_context(self._repository.reading(name))
            except NotFoundError:
                raise self._owners.missing(name, owner) from None
            yield bundle

    def _bundles(self, request: Request) -> list[Bundle]:
        """The whole bundles of the caller, sorted by name; read once for each version."""
        known: dict[str, Bundle] = {}
        for name in self._repository.names():
            try:
                version = self._repository.version(name)
                known[version] = self._known.get(version) or self._repository.get(name)
            except (MlaasError, OSError) as error:
                _log.warning("left out the model %s: %s", name, error)
        self._known = known
        owner = caller_of(request.scope).owner
        return [bundle for bundle in known.values() if self._owners.sees(bundle.name, owner)]


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; prints ``TFaaS listens on URL`` when ready.

    UsageError when the port is taken, or others could come in without sign-in.
    """
    listening = listen(settings, settings.tfaas_port)

    def announce() -> None:
        print(f"TFaaS listens on {address(listening)}", flush=True)

    application = TFaaS(settings, announce)
    sys.setswitchinterval(0.001)  # encoding a large request keeps others waiting less
    gc.freeze()
    config = uvicorn.Config(
        Observe(Lingering(application), application.requests, application.quiet),
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
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
    full = is_full(error)
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
