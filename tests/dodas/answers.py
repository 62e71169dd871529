"""What the services' answers and bodies have in common."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

TIME = "2026-01-01T00:00:00Z"


class Strict(BaseModel):
    """A body, or a part of it: what it does not name is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Named(Strict):
    name: str


def links(url: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": url}]


def problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": status, "message": message}}, status)


def not_found(name: str) -> JSONResponse:
    return problem(404, f"{name} could not be found.")
