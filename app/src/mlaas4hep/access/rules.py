"""Which users an installation allows, from its settings; wrong settings are errors at start."""

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
        self._claims = listed(settings.groups_claim)
        self._allowed = frozenset(g.removeprefix("/") for g in listed(settings.allowed_groups))
        _check_issuer(settings.issuer)
        if not self._allowed:
            raise UsageError(
                "MLAAS4HEP_ISSUER is set and MLAAS4HEP_ALLOWED_GROUPS is empty",
                "Name the allowed groups, joined by commas, or '*' for every user of the issuer.",
            )
        if not self.audiences:
            _log.warning(
                "MLAAS4HEP_AUDIENCE is empty: tokens that %s made for any other service are "
                "accepted here too",
                settings.issuer,
            )

    def lets_in(self, owner: str) -> bool:
        """Whether this owner is allowed by name, whatever the groups."""
        return ALL in self._allowed or owner in self._allowed

    def groups(self, claims: Mapping[str, Any]) -> frozenset[str] | None:
        """The groups in all the claims that may hold some; None when there is no such claim."""
        found = [g for claim in self._claims if (g := groups_of(claims, claim)) is not None]
        return frozenset[str]().union(*found) if found else None

    def check(self, caller: Caller, groups: frozenset[str] | None) -> None:
        """ForbiddenError, naming the groups, when none of them is allowed; None: not known."""
        if any(g in self._allowed and not g.startswith(_OWNERS) for g in groups or ()):
            return
        if groups is None:
            known = f"neither the token nor the issuer's userinfo has {' or '.join(self._claims)}"
        else:
            known = f"known groups: {_shown(groups)}"
        raise ForbiddenError(
            f"{caller.name} is in none of the groups that may use this service ({known})",
            "Ask its operator to allow one of your groups, or the issuer's to add you to one; "
            "then get a new token.",
        )


def _shown(groups: frozenset[str]) -> str:
    """The groups, cut to what fits on a line."""
    names = sorted("".join(c if c.isprintable() else "?" for c in group) for group in groups)
    text = ", ".join(names) or "none"
    return text if len(text) <= 300 else f"{text[:297]}..."


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
