"""Whoever sends a request, as the claims of a verified token say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlaas4hep.core.errors import SignInError

LONGEST_OWNER = 255
"""As the database's column."""


@dataclass(frozen=True)
class Caller:
    """``owner`` is what the folders, jobs and models of this caller are marked with.

    It is ``user:SUB``, or ``client:CLIENT_ID`` of a robot; "" where there is no sign-in: whoever
    that is may see and do everything. ``name`` is for people. ``by_cookie`` says that a browser's
    session gave the token. ``groups`` are those that the token, or the issuer's userinfo, named.
    """

    owner: str
    name: str
    by_cookie: bool = False
    groups: frozenset[str] = field(default=frozenset(), compare=False)


EVERYONE = Caller("", "")
"""Every caller of an installation without sign-in."""


def caller_of(claims: Mapping[str, Any]) -> Caller:
    """The caller of a token; SignInError when its ``sub`` can't name an owner."""
    sub, username = str(claims["sub"]), claims.get("preferred_username")
    owner = f"client:{sub}" if sub == claims.get("client_id") else f"user:{sub}"
    client = claims.get("client_id")
    # So Keycloak marks a robot. Elsewhere users' tokens have a client_id, too, and any name.
    if client and claims.get("azp") == client and username == f"service-account-{client}":
        owner = f"client:{client}"
    if not owner.isprintable() or len(owner) > LONGEST_OWNER:
        raise SignInError("the token's sub is too long or holds control characters")
    return Caller(owner, name_in(claims) or owner.partition(":")[2][:100])


def name_in(claims: Mapping[str, Any]) -> str:
    """What people call a user, at most 100 characters; "" where the claims don't say."""
    names = (claims.get("preferred_username"), claims.get("name"))
    return next((name for name in names if isinstance(name, str) and name.strip()), "")[:100]


def groups_of(claims: Mapping[str, Any], claim: str) -> frozenset[str] | None:
    """The groups in ``claim``: a string is one group, a list holds several; None without it.

    ``claim`` is a claim's whole name (``wlcg.groups``), or the path to a nested one
    (``realm_access.roles``). A leading slash, as WLCG's groups have it, is left out.
    """
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for step in claim.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    if value is None:
        return None
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(v.removeprefix("/") for v in values if isinstance(v, str))
