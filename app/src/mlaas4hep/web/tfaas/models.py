"""The routes that list, fetch, publish and delete models."""

from __future__ import annotations

import io
import logging
from typing import IO
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from mlaas4hep.core.errors import LimitError, MlaasError, NotFoundError, UsageError
from mlaas4hep.core.units import size
from mlaas4hep.inference.service import Service
from mlaas4hep.models.bundle import CARD_KEYS
from mlaas4hep.models.owners import TakenError
from mlaas4hep.web.files import download, receive, receive_file
from mlaas4hep.web.pages import REPORT_POLICY
from mlaas4hep.web.sign_in import caller_of
from mlaas4hep.web.tfaas.answers import JSON, json_response, sentence

_log = logging.getLogger(__name__)

_FORM_BYTES = 64 * 1024
_ACCEPTED = (
    "a bundle as 'mlaas4hep train' packs it, NAME.tar.gz (or its plain tar), as the whole body: "
    "curl --data-binary @NAME.tar.gz URL/upload"
)


class Models:
    """The routes."""

    def __init__(self, service: Service, max_bytes: int) -> None:
        """``max_bytes`` is the most that an upload may have, packed or unpacked."""
        self._service = service
        self._max_bytes = max_bytes

    def cards(self, request: Request) -> Response:
        """Answer with the cards of the caller's models: the prototype's 12 keys in its order."""
        empty = dict.fromkeys(CARD_KEYS, "") | {"img_channels": 0, "options": None}
        return json_response(
            [
                {key: (empty | listed.bundle.card)[key] for key in CARD_KEYS}
                for listed in self._service.bundles(caller_of(request.scope).owner)
            ]
        )

    def params(self, request: Request) -> Response:
        """Answer with params.json as it is."""
        with self._service.reading(*_asked(request)) as bundle:
            return Response((bundle.path / "params.json").read_bytes(), 200, None, JSON)

    async def download(self, request: Request) -> Response:
        """Answer with NAME.tar.gz; it stays whole when the model is replaced meanwhile."""
        with self._service.reading(*_asked(request)) as bundle:
            archive = (await self._service.archive(bundle)).open("rb")
        head = request.method == "HEAD"
        return download(archive, "application/gzip", f"{bundle.name}.tar.gz", head)

    def report(self, request: Request) -> Response:
        """Answer with the bundle's report, which may show pictures and nothing else."""
        with self._service.reading(*_asked(request)) as bundle:
            try:
                page = (bundle.path / "report.html").read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                raise NotFoundError(f"the model {bundle.name} has no report") from None
        return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})

    async def upload(self, request: Request) -> Response:
        """Publish a bundle; when this answers 200, every later prediction is the new model's."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, f"forms are not accepted; send {_ACCEPTED}")
        owner = caller_of(request.scope).owner
        with await run_in_threadpool(self._service.repository.spool) as spool:
            try:
                await receive(request.stream(), spool.write, self._check_size)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            spool.seek(0)
            if not _is_archive(spool):
                raise HTTPException(415, f"the body is no tar or tar.gz; send {_ACCEPTED}")
            try:
                bundle = await self._service.publish(spool, self._max_bytes, owner)
            except (LimitError, TakenError):
                raise
            except MlaasError as error:
                text = f"the upload is not accepted: {sentence(error)}"
                raise HTTPException(400, f"{text} Accepted is {_ACCEPTED}") from error
        _log.info("published %s", bundle.name)
        return json_response({"model": bundle.name})

    async def delete(self, request: Request) -> Response:
        """Remove a model named in the path, the query or a form's field ``model``."""
        name = request.path_params.get("model") or request.query_params.get("model")
        name = name or await _model_field(request)
        if not name:
            raise UsageError("no model name is provided", "curl -X DELETE URL/delete/NAME")
        await self._service.delete(name, caller_of(request.scope).owner)
        _log.info("deleted %s", name)
        return Response(status_code=200)

    def _check_size(self, received: int) -> None:
        if received > self._max_bytes:
            raise LimitError(
                f"the upload is larger than {size(self._max_bytes)}",
                "The limit is MLAAS4HEP_MAX_BUNDLE_BYTES.",
            )


def _asked(request: Request) -> tuple[str, str]:
    """The name of the model that the path names, and who asks for it."""
    return request.path_params["model"], caller_of(request.scope).owner


def _is_archive(stream: IO[bytes]) -> bool:
    """Whether a gzip or tar file begins here, by its magic numbers."""
    head = stream.read(512)
    stream.seek(0)
    return head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar"


async def _model_field(request: Request) -> str:
    """The field ``model`` of a form, whichever way it is encoded; "" when there is none."""
    content_type = request.headers.get("content-type", "")

    def check(received: int) -> None:
        if received > _FORM_BYTES:
            raise LimitError(f"the form is larger than {size(_FORM_BYTES)}")

    if content_type.startswith("multipart/"):
        field = io.BytesIO()
        await receive_file(content_type, request.stream(), field, check, "model")
        return field.getvalue().decode("utf-8", "replace")
    body = b""
    async for data in request.stream():
        body += data
        check(len(body))
    return parse_qs(body.decode("utf-8", "replace")).get("model", [""])[0]
