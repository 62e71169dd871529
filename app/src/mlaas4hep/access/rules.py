"""Whom an installation lets in, from its settings; wrong settings are errors at start."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlaas4hep.access.caller import Caller, groups_of
from mlaas4hep.core.errors import ForbiddenError, UsageError
from mlaas4hep.core.settings import SignInSettings

_log = logging.getLogger(__name__)

ALL = "*"
_OWNERS = ("user:", "client:")


class Rules:
    """Issuer, audiences and allowed groups of the settings."""

    def __init__(self, settings: SignInSettings) -> None:
        self.issuer = settings.issuer
        self.audiences = listed(settings.audience)
        self._claim = settings.groups_claim
        self._allowed = frozenset(listed(settings.allowed_groups))
        _check_issuer(settings.issuer)
        if not self._allowed:
            raise UsageError(
                "MLAAS4HEP_ISSUER is set and MLAAS4HEP_ALLOWED_GROUPS is empty: nobody may come in",
                "Name the groups that may, joined by commas, or '*' for everyone whom the issuer "
                "knows.",
            )
        if not self.audiences:
            _log.warning(
                "MLAAS4HEP_AUDIENCE is empty: tokens that %s made for any other service are "
                "accepted here too",
                settings.issuer,
            )

    def check(self, caller: Caller, claims: Mapping[str, Any]) -> None:
        """ForbiddenError unless the caller is in an allowed group, or allowed by name."""
        if ALL in self._allowed or caller.owner in self._allowed:
            return
        groups = groups_of(claims, self._claim)
        if not any(group in self._allowed and not group.startswith(_OWNERS) for group in groups):
            raise ForbiddenError(
                f"{caller.name} is in none of the groups that may use this service",
                f"Ask its operator; the groups are read from the token's claim {self._claim!r}.",
            )


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine under an address that no other machine can reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether what ``url`` answers can be trusted: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    )


def _check_issuer(issuer: str) -> None:
    if not is_safe(issuer) or any(sign in issuer for sign in "?#@"):
        raise UsageError(
            f"MLAAS4HEP_ISSUER is {issuer!r}",
            "Give the https:// URL that the issuer's discovery document has as `issuer` "
            "(http:// only for an issuer on this machine).",
        )
