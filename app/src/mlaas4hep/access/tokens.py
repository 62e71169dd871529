"""Bearer tokens: whether one is from the issuer, for us, valid now, and of an allowed user."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError
from joserfc.jwk import Key

from mlaas4hep.access.caller import Caller, caller_of, name_in
from mlaas4hep.access.issuer import IssuerKeys, Keys
from mlaas4hep.access.rules import Rules
from mlaas4hep.access.userinfo import UserInfo
from mlaas4hep.core.errors import ForbiddenError, SignInError
from mlaas4hep.core.settings import SignInSettings
from mlaas4hep.core.units import size

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "EdDSA", "Ed25519")
"""Signatures with a public key only: what a stranger knows can sign nothing."""
LEEWAY_SECONDS = 30
"""How far the issuer's clock may be from ours."""
LONGEST_TOKEN = 16 * 1024
MOST_KNOWN = 10_000
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_HOW = "Get a new access token."

_registry = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
_registry.max_header_length = LONGEST_TOKEN  # some issuers send certificates along


class Tokens:
    """Tells whose a token is; one that was verified is known until it expires.

    Methods belong to one event loop's thread. ``clock`` gives seconds since 1970.
    """

    def __init__(self, settings: SignInSettings, clock: Callable[[], float] = time.time) -> None:
        self._rules = Rules(settings)
        self._issuer = IssuerKeys(settings.issuer, clock)
        self._clock = clock
        self._userinfo = UserInfo(self._issuer)
        self._known: OrderedDict[bytes, tuple[float, Caller | ForbiddenError]] = OrderedDict()
        self._known_by: Keys = ()

    async def caller(self, token: bytes) -> Caller:
        """Whose token this is.

        SignInError when it is not valid, ForbiddenError when its owner is in no allowed group,
        BusyError when the issuer's keys, or groups that only its userinfo tells, can't be had.
        """
        keys = self._issuer.fresh()
        if keys is None:
            keys = await self._issuer.keys()
        if keys is not self._known_by:  # what a revoked key signed is known no longer
            self._known.clear()
            self._known_by = keys
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        if known is not None and self._clock() < known[0]:
            self._known.move_to_end(digest)
            return _let_in(known[1])
        claims = await self._verified(token, keys)
        found: Caller | ForbiddenError
        try:
            found = await self._admitted(token, digest, claims)
        except ForbiddenError as error:  # known as well, so that userinfo is asked once a token
            found = error
        if self._known_by is self._issuer.current:
            self._known[digest] = (claims["exp"] + LEEWAY_SECONDS, found)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return _let_in(found)

    async def _admitted(self, token: bytes, digest: bytes, claims: Mapping[str, Any]) -> Caller:
        """The caller of a verified token; ForbiddenError in no allowed group.

        Groups that are not in the token are asked for at the issuer's userinfo.
        """
        caller = caller_of(claims)
        groups = self._rules.groups(claims)
        if self._rules.lets_in(caller.owner):
            return replace(caller, groups=groups or frozenset())
        if groups is None:
            more = await self._userinfo.claims(token, digest, claims["sub"])
            groups = self._rules.groups(more)
            if not name_in(claims):
                caller = replace(caller, name=name_in(more) or caller.name)
        self._rules.check(caller, groups)
        return replace(caller, groups=groups or frozenset())

    async def _verified(self, token: bytes, keys: Keys) -> Mapping[str, Any]:
        """The claims of a token of the issuer that is valid now."""
        header = _header(token)
        candidates = _matching(keys, header)
        if not candidates:
            candidates = _matching(await self._issuer.keys_again(), header)
        for key in candidates:
            try:
                claims = jwt.decode(token, key, registry=_registry).claims
            except (JoseError, ValueError, TypeError):
                continue
            self._check(claims)
            return claims
        raise SignInError("the token is not signed by the issuer", _HOW)

    def _check(self, claims: Mapping[str, Any]) -> None:
        """SignInError unless the claims are those of an access token for us, valid now."""
        expected: dict[str, jwt.ClaimsOption] = {
            "iss": {"essential": True, "value": self._rules.issuer},
            "sub": {"essential": True},
            "exp": {"essential": True},
        }
        # INDIGO IAM names no audience unless asked to: such a token is for the client that got it.
        if self._rules.audiences and ("aud" in claims or not self._is_of_our_client(claims)):
            expected["aud"] = {"essential": True, "values": list(self._rules.audiences)}
        now = int(self._clock())
        registry = jwt.JWTClaimsRegistry(now, LEEWAY_SECONDS, **expected)
        try:
            registry.validate(dict(claims))
        except ExpiredTokenError:
            raise SignInError("the token has expired", _HOW) from None
        except MissingClaimError as error:
            text = f"the token has no {error.claim.replace(',', ' and no ')}"
            raise SignInError(text, self._remedy(error.claim)) from None
        except ClaimError as error:
            raise SignInError(_wrong(error.claim, claims), self._remedy(error.claim)) from None
        # Keycloak says so itself; elsewhere an ID token is known by the hash of its access token.
        if claims.get("typ", "Bearer") != "Bearer" or "at_hash" in claims or "c_hash" in claims:
            raise SignInError("this is not an access token", "Send the access token, no other.")

    def _is_of_our_client(self, claims: Mapping[str, Any]) -> bool:
        return claims.get("client_id") in self._rules.audiences

    def _remedy(self, claim: str) -> str:
        if claim == "aud":
            return f"Get one for the audience {' or '.join(self._rules.audiences)}."
        return f"Get one from {self._rules.issuer}." if claim == "iss" else _HOW


def _let_in(known: Caller | ForbiddenError) -> Caller:
    if isinstance(known, ForbiddenError):
        raise ForbiddenError(known.message, known.remedy)  # its own traceback
    return known


def _header(token: bytes) -> Mapping[str, Any]:
    """The header of a token that may be one, by its size, form, kind and algorithm."""
    if len(token) > LONGEST_TOKEN:
        raise SignInError(f"the token is longer than {size(LONGEST_TOKEN)}")
    try:
        header = jws.extract_compact(token, registry=_registry).headers()
        kind, algorithm = header.get("typ", "JWT"), header.get("alg")
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        raise SignInError("the token is not a signed JWT", _HOW) from None
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise SignInError(f"the token is of type {_shown(kind)}", "Send an access token.")
    if algorithm not in ALGORITHMS:
        raise SignInError(f"tokens signed with {_shown(algorithm)} are not accepted", _HOW)
    return header


def _matching(keys: Keys, header: Mapping[str, Any]) -> list[Key]:
    """The keys that may have signed a token with this header."""
    kid, algorithm = header.get("kid"), header["alg"]
    return [k for k in keys if kid in (None, k.kid) and k.alg in (None, algorithm)]


def _wrong(claim: str, claims: Mapping[str, Any]) -> str:
    texts = {"iss": "the token was issued by", "aud": "the token is for"}
    if claim == "nbf":
        return "the token is not valid yet"
    return f"{texts.get(claim, f'the token has a wrong {claim}:')} {_shown(claims.get(claim))}"


def _shown(value: object) -> str:
    return repr(value)[:200]
