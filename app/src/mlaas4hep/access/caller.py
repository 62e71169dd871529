"""Whoever sends a request, as the claims of a verified token say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlaas4hep.core.errors import SignInError

LONGEST_OWNER = 255
"""As the database's column."""


@dataclass(frozen=True)
class Caller:
    """``owner`` is what the folders, jobs and models of this caller are marked with.

    It is ``user:SUB``, or ``client:CLIENT_ID`` of a robot; "" where there is no sign-in: whoever
    that is may see and do everything. ``name`` is for people. ``by_cookie`` says that a browser's
    session gave the token.
    """

    owner: str
    name: str
    by_cookie: bool = False


NONE: frozenset[str] = frozenset()
EVERYONE = Caller("", "")
"""Every caller of an installation without sign-in."""


def caller_of(claims: Mapping[str, Any]) -> Caller:
    """The caller of a token; SignInError when its ``sub`` can't name an owner."""
    sub, username = str(claims["sub"]), claims.get("preferred_username")
    owner = f"client:{sub}" if sub == claims.get("client_id") else f"user:{sub}"
    client = claims.get("client_id")
    if client and username == f"service-account-{client}":  # as Keycloak marks a robot
        owner = f"client:{client}"
    if not owner.isprintable() or len(owner) > LONGEST_OWNER:
        raise SignInError("the token's sub is too long or holds control characters")
    names = (username, claims.get("name"), owner.partition(":")[2])
    name = next(name for name in names if isinstance(name, str) and name.strip())
    return Caller(owner, name[:100])


def groups_of(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """The groups in ``claim``: a text is one group, a list holds several, all else none.

    ``claim`` is a claim's whole name (``wlcg.groups``), or the way to one inside others
    (``realm_access.roles``).
    """
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for step in claim.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    values = [value] if isinstance(value, str) else value
    return frozenset(v for v in values if isinstance(v, str)) if isinstance(values, list) else NONE
