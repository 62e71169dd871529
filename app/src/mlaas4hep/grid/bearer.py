"""A bearer token to read data with, got by client credentials."""

from __future__ import annotations

import time
from pathlib import Path

from mlaas4hep.client.sign_in import SignIn
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.files import write_atomic
from mlaas4hep.core.settings import GridSettings
from mlaas4hep.sources.credentials import Bearer

_LEAST_SECONDS = 60


def token_file(settings: GridSettings) -> Path:
    """Where the token is."""
    return settings.x509_folder / "shared/token"


def read(path: Path) -> tuple[float, float] | None:
    """From when to when the token in a file is valid; None without one, or one that says not."""
    try:
        content = path.read_text().strip()
        made = path.stat().st_mtime
    except (OSError, ValueError):
        return None
    end = Bearer(content, str(path)).expires
    return (made, end) if end is not None else None


def get(settings: GridSettings) -> None:
    """Get a token, and put it in the place of the one before at once.

    MlaasError where that fails; the one before stays.
    """
    if not settings.grid_token_client or not settings.grid_token_secret:
        raise MlaasError(
            "a bearer token needs MLAAS4HEP_GRID_TOKEN_CLIENT and MLAAS4HEP_GRID_TOKEN_SECRET",
            "Register a client with client credentials at the issuer.",
        )
    try:
        secret = settings.grid_token_secret.read_text().strip()
    except OSError as error:
        raise MlaasError(
            f"{settings.grid_token_secret} can't be read: {error.strerror}",
            "Let the user of the renewer read it, and no other.",
        ) from error
    asked = SignIn(
        settings.grid_token_issuer,
        settings.grid_token_client,
        settings.grid_token_scope,
        settings.grid_token_audience,
        secret,
    )
    token = asked.new_robot_token()
    end = Bearer(token, "").expires
    if end is None or end < time.time() + _LEAST_SECONDS:
        raise MlaasError(
            f"the token of {settings.grid_token_issuer} says of no end, or has ended by this clock",
            "Storage takes JWTs only (WLCG's profile). Set this machine's clock right"
            " (timedatectl).",
        )
    path = token_file(settings)
    try:
        write_atomic(path, token, 0o600)
    except OSError as error:
        raise MlaasError(f"{path} can't be written: {error.strerror}") from error
