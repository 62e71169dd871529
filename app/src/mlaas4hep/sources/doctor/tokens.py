"""A bearer token (WLCG profile): what it says, and why a server may refuse it."""

from __future__ import annotations

import os
import time
from typing import Any

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.credentials import Bearer, bearer_token
from mlaas4hep.sources.doctor.steps import Diagnosis, moment, span

_RENEW = "Get a new one, such as by `oidc-token ACCOUNT` or `htgettoken`"
_ANY = ("https://wlcg.cern.ch/jwt/v1/any", "ANY")
_READ = ("storage.read", "read")


def look_at_token(diagnosis: Diagnosis) -> Bearer | None:
    """Step ``token``: which one is used, of whom, by whom, for what, until when."""
    try:
        token = bearer_token()
    except DataError as error:
        diagnosis.warn("token", error.message, error.remedy)
        return None
    if not token:
        named = os.environ.get("BEARER_TOKEN_FILE")
        diagnosis.warn(
            "token",
            "no bearer token: BEARER_TOKEN is not set, "
            + (f"BEARER_TOKEN_FILE names {named}, which is empty," if named
               else "BEARER_TOKEN_FILE is not set,")
            + f" and there is no bt_u{os.geteuid()} in XDG_RUNTIME_DIR or /tmp",
            f"{_RENEW}, and set BEARER_TOKEN_FILE.",
        )  # fmt: skip
        return None
    _look_at_claims(diagnosis, token)
    if token.file and token.exposed:
        diagnosis.warn(
            "token's mode",
            f"others than its owner may read the token in {token.file}: XRootD refuses such a file",
            f"chmod 600 {token.file}",
        )
    return token


def _look_at_claims(diagnosis: Diagnosis, token: Bearer) -> None:
    claims = token.claims()
    where = token.where
    if not claims:
        diagnosis.ok("token", f"in {where}; it isn't a JWT, and only its issuer can read it")
        return
    now = time.time()
    whose = f"the token in {where}, of {claims.get('sub')} by {claims.get('iss')},"
    details = {
        "where": token.where, "path": token.file and str(token.file),
        "sub": claims.get("sub"), "iss": claims.get("iss"), "scopes": scopes(claims),
        "audience": audiences(claims), "starts": claims.get("nbf"), "expires": claims.get("exp"),
    }  # fmt: skip
    start, end = _number(claims.get("nbf"), 0), _number(claims.get("exp"), float("inf"))
    if end < now:
        diagnosis.warn("token", f"{whose} expired {span(now - end)} ago, on {moment(end)}",
                       f"{_RENEW}.", **details)  # fmt: skip
        return
    if start > now + 1:
        diagnosis.warn(
            "token",
            f"{whose} is not valid before {moment(start)}, in {span(start - now)}, by the clock of"
            f" this machine: {moment(now)}",
            "Set this machine's clock right (timedatectl shows whether it is synchronised).",
            **details,
        )
        return
    until = f", until {moment(end)}" if end < float("inf") else ""
    diagnosis.ok(
        "token",
        f"{whose} for {', '.join(audiences(claims)) or 'any audience'}, with"
        f" {' '.join(scopes(claims)) or 'no scope'}{until}",
        **details,
    )


def _number(value: object, other: float) -> float:
    return float(value) if isinstance(value, (int, float)) else other


def scopes(claims: dict[str, Any]) -> list[str]:
    """What a token allows, one an item."""
    found = claims.get("scope", "")
    return found.split() if isinstance(found, str) else [str(each) for each in found]


def audiences(claims: dict[str, Any]) -> list[str]:
    """For which services a token is."""
    found = claims.get("aud", [])
    return [found] if isinstance(found, str) else [str(each) for each in found]


def explain_refusal(
    diagnosis: Diagnosis, token: Bearer, host: str, port: int, path: str, said: str
) -> None:
    """Fail with why the server refuses a token that is valid by its own account.

    Servers don't say which: what the token's claims make most likely comes first.
    """
    claims = token.claims()
    refuses = f"{host} refuses the token ({said})"
    for_whom, allowed = audiences(claims), scopes(claims)
    if for_whom and not any(each in _ANY or host in each for each in for_whom):
        diagnosis.fail(
            "token",
            f"{refuses}: its audience is {', '.join(for_whom)}, not this server",
            f"Get one with the audience {_ANY[0]}, or https://{host}:{port}.",
            audience=for_whom,
        )
    readable = [each for each in allowed if each.partition(":")[0] in _READ]
    groups = claims.get("wlcg.groups")
    if claims and not readable and not groups:
        diagnosis.fail(
            "token",
            f"{refuses}: it has no scope to read, but {' '.join(allowed) or 'none'}",
            "Get one with the scope storage.read:/ (SciTokens: read:/).",
            scopes=allowed,
        )
    if readable and not any(_covers(each.partition(":")[2] or "/", path) for each in readable):
        diagnosis.fail(
            "token",
            f"{refuses}: its scope {' '.join(readable)} doesn't cover {path}",
            f"Get one with a scope that does, such as storage.read:{path.rpartition('/')[0] or '/'}"
            " (relative to the folder that the server gives its issuer).",
            scopes=allowed,
        )
    if claims:
        diagnosis.fail(
            "token",
            f"{refuses}: it most likely doesn't know its issuer {claims.get('iss')}, or gives it"
            f" no access to {path}; audience, scope and times are right",
            "Use a token of the issuer of your experiment's VO, or ask the site which issuers it"
            " accepts for this path.",
            issuer=claims.get("iss"),
        )
    diagnosis.fail("token", f"{refuses}; it isn't a JWT, so nothing tells why",
                   "Ask the site which tokens it accepts.")  # fmt: skip


def _covers(allowed: str, path: str) -> bool:
    """Whether a path can lie below a scope's, which counts from a folder that the server knows."""
    inner = allowed.strip("/")
    return not inner or f"/{inner}/" in f"{path}/"
