"""Images: the one that machines are made of."""

from __future__ import annotations

from answers import TIME, not_found
from cloud import IMAGE, PROJECT, Cloud
from fastapi import APIRouter
from fastapi.responses import JSONResponse


def routes(cloud: Cloud) -> APIRouter:
    """Under /image/v2."""
    router = APIRouter(prefix="/image/v2")

    @router.get("/images/{name}")
    def image(name: str) -> JSONResponse:
        if name != IMAGE:
            return not_found(name)
        return JSONResponse({
            "id": IMAGE, "name": "debian-12", "status": "active", "visibility": "public",
            "size": 1, "min_disk": 0, "min_ram": 0, "owner": PROJECT, "created_at": TIME,
            "updated_at": TIME,
        })  # fmt: skip

    return router
