"""Volumes, which servers bring with them."""

from __future__ import annotations

from answers import TIME, not_found
from cloud import PROJECT, Cloud
from fastapi import APIRouter
from fastapi.responses import JSONResponse


def routes(cloud: Cloud) -> APIRouter:
    """Under /volume/v3/PROJECT."""
    router = APIRouter(prefix=f"/volume/v3/{PROJECT}")

    @router.get("/volumes/{name}")
    def volume(name: str) -> JSONResponse:
        if name not in cloud.volumes:
            return not_found(name)
        found = cloud.volumes[name]
        used = {"server_id": found["server"], "device": found["device"], "volume_id": name}
        return JSONResponse({"volume": {
            "id": name, "name": name, "size": found["size"], "status": "in-use",
            "attachments": [used], "created_at": TIME[:-1], "metadata": {}, "description": "",
            "volume_type": "default", "snapshot_id": None, "availability_zone": "nova",
            "bootable": "false",
        }})  # fmt: skip

    return router
