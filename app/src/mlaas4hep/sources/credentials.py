"""Credentials for remote files, where grid tools look for them: environment, then known files.

Nothing is kept: each call looks again, so that what is renewed meanwhile is found. Credentials for
s3:// (AWS_*, also by web identity) are found and renewed by botocore itself.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlaas4hep.core.errors import DataError

_CA_FOLDER = Path("/etc/grid-security/certificates")
_TMP = Path("/tmp")  # noqa: S108 - where grid tools put credentials, by convention
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""
_MOST_BYTES = 1024 * 1024
"""A file that is larger holds no token."""


@dataclass(frozen=True)
class X509:
    """A proxy certificate: its file, which may not exist, and what named it."""

    path: Path
    where: str

    @property
    def expires(self) -> float | None:
        """Seconds since the epoch, of the first of its certificates; None of an unreadable one."""
        from cryptography import x509

        try:
            found = x509.load_pem_x509_certificates(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return min(each.not_valid_after_utc.timestamp() for each in found)


@dataclass(frozen=True)
class Bearer:
    """A token: what named it, and the file that holds it, if one does.

    ``exposed`` says that others than its owner may read the file, which XRootD's client refuses.
    The token isn't part of the object's text.
    """

    value: str = field(repr=False)
    where: str
    file: Path | None = None
    exposed: bool = False

    def claims(self) -> dict[str, Any]:
        """What a JWT claims, not verified; {} for other tokens."""
        try:
            payload = self.value.split(".")[1]
            found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (IndexError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def expires(self) -> float | None:
        """Seconds since the epoch; None if the token doesn't say."""
        expiry = self.claims().get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None


def x509_proxy(env: Mapping[str, str] = os.environ) -> X509 | None:
    """The proxy certificate: X509_USER_PROXY, else ``/tmp/x509up_uUID`` if there is one."""
    if named := env.get("X509_USER_PROXY"):
        return X509(Path(named), "X509_USER_PROXY")
    path = _TMP / f"x509up_u{os.geteuid()}"
    return X509(path, str(path)) if path.exists() else None


def ca_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of CA certificates, which may not exist: X509_CERT_DIR, else the grid's usual."""
    return Path(env.get("X509_CERT_DIR") or _CA_FOLDER)


def bearer_token(env: Mapping[str, str] = os.environ) -> Bearer | None:
    """The token by WLCG Bearer Token Discovery.

    BEARER_TOKEN, else the file that BEARER_TOKEN_FILE names, else ``$XDG_RUNTIME_DIR/bt_uUID``,
    else ``/tmp/bt_uUID``. An empty one is passed over. DataError, which doesn't show the token, for
    one that is none, and for a file that can't be read or, in a shared place, is another user's.
    """
    for token in _tokens(env):
        if not token.value:
            continue
        if not _TOKEN.fullmatch(token.value):
            raise DataError(
                f"{token.where} holds no bearer token: it has characters that tokens don't have",
                "Give the token alone, as the token tool prints it.",
            )
        return token
    return None


def _tokens(env: Mapping[str, str]) -> Iterator[Bearer]:
    yield Bearer(_stripped(env.get("BEARER_TOKEN", "")), "BEARER_TOKEN")
    if named := env.get("BEARER_TOKEN_FILE"):
        yield _of_file(Path(named), f"BEARER_TOKEN_FILE {named}")
    name = f"bt_u{os.geteuid()}"
    for folder in (env.get("XDG_RUNTIME_DIR"), _TMP):
        if folder and (path := Path(folder) / name).exists():
            if path.stat().st_uid != os.geteuid():
                raise DataError(
                    f"the token file {path} belongs to another user",
                    "Remove it, or name yours in BEARER_TOKEN_FILE.",
                )
            yield _of_file(path, str(path))


def _of_file(path: Path, where: str) -> Bearer:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES).decode("latin-1")
            exposed = bool(os.fstat(file.fileno()).st_mode & 0o077)
    except OSError as error:
        raise DataError(
            f"{where} can't be read: {error.strerror}",
            "Get a token with oidc-token or htgettoken, or unset the variable if none is needed.",
        ) from None
    return Bearer(_stripped(content), where, path, exposed)


def _stripped(text: str) -> str:
    """Without white space as C knows it, at both ends."""
    return text.strip(" \f\n\r\t\v")
