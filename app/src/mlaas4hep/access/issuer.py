"""The issuer's keys: found by discovery, cached, refreshed in time.

Keys are used for 300 s, then fetched again, so that a key which the issuer revoked dies. While the
issuer doesn't answer, the cached keys stay valid for an hour.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, RSAKey

from mlaas4hep.access.rules import is_loopback, is_safe
from mlaas4hep.core.errors import BusyError
from mlaas4hep.core.units import size

_log = logging.getLogger(__name__)

RENEW_SECONDS = 240
"""Age of the keys from which on they are fetched while requests go on."""
KEEP_SECONDS = 300
"""Age from which on requests wait for new keys, unless the issuer is known to be away."""
STALE_SECONDS = 3600
"""Age from which on the keys are worth nothing."""
PAUSE_SECONDS = 30
"""Between two attempts to fetch them."""
FIRST_PAUSE_SECONDS = 3
"""The same as long as no attempt has succeeded."""
TIMEOUT_SECONDS = 5
MOST_BYTES = 1 << 20
DISCOVERY = "/.well-known/openid-configuration"

Keys = tuple[Key, ...]


class IssuerKeys:
    """The public keys of the issuer ``url``; ``clock`` gives seconds since 1970."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.url = url
        self._clock = clock
        self._keys: Keys = ()
        self._document: Any = None
        self.userinfo_url = ""
        """Where the issuer tells more of a token's user; "" when it doesn't, or isn't known yet."""
        self._fetched = self._tried = -float("inf")
        self._failure = ""
        self._fetching: asyncio.Task[None] | None = None
        self._tls = ssl.create_default_context()  # honours SSL_CERT_FILE

    @property
    def current(self) -> Keys:
        """The keys in hand, whatever their age."""
        return self._keys

    def fresh(self) -> Keys | None:
        """The keys, when nothing is to be done about them."""
        return self._keys if self._clock() - self._fetched < RENEW_SECONDS else None

    async def keys(self) -> Keys:
        """The keys: the same object as long as they are the same.

        BusyError when the issuer is away and there are none that are young enough.
        """
        age = self._clock() - self._fetched
        if age >= RENEW_SECONDS:
            fetching = self._start()
            if fetching and (age >= STALE_SECONDS or (age >= KEEP_SECONDS and not self._failure)):
                await asyncio.shield(fetching)
        if self._clock() - self._fetched >= STALE_SECONDS:
            raise BusyError(
                f"nobody can sign in: the keys of {self.url} can't be fetched: {self._failure}",
                "Try again later.",
            )
        return self._keys

    async def keys_again(self) -> Keys:
        """The keys, fetched again because one was unknown, unless that was done just now."""
        if fetching := self._start():
            await asyncio.shield(fetching)
        return self._keys

    def _start(self) -> asyncio.Task[None] | None:
        """The fetch under way, a new one if it is time for it, or None."""
        pause = PAUSE_SECONDS if self._keys else FIRST_PAUSE_SECONDS
        if self._fetching is None and self._clock() - self._tried >= pause:
            self._tried = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                document = await self._key_set()
            keys = _usable(document)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self._failure = str(error) or f"no answer within {TIMEOUT_SECONDS} s"
            _log.warning("can't fetch the keys of %s: %s", self.url, self._failure)
        else:
            self._fetched, self._failure = self._clock(), ""
            if document != self._document:
                self._document, self._keys = document, keys
        finally:
            self._fetching = None

    async def _key_set(self) -> Any:
        """The JSON Web Key Set that the discovery document names."""
        async with self.client() as client:
            where = self.url.rstrip("/") + DISCOVERY
            found = await read_json(client, where)
            named, keys_at = (found.get(key) for key in ("issuer", "jwks_uri"))
            if named != self.url:
                raise ValueError(
                    f"{where} is of issuer {named!r}, MLAAS4HEP_ISSUER is {self.url!r}"
                )
            if not isinstance(keys_at, str) or not is_safe(keys_at):
                raise ValueError(f"{where} has jwks_uri {keys_at!r}, which is not an https:// URL")
            document = await read_json(client, keys_at)
        userinfo = found.get("userinfo_endpoint")
        self.userinfo_url = userinfo if isinstance(userinfo, str) and is_safe(userinfo) else ""
        return document

    def client(self) -> httpx.AsyncClient:
        """For requests to the issuer; a proxy of the environment is not for this machine."""
        remote = not is_loopback(urlsplit(self.url).hostname or "")
        return httpx.AsyncClient(verify=self._tls, trust_env=remote, timeout=TIMEOUT_SECONDS)


class StatusError(ValueError):
    """The issuer answers with a status that is not 200."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answers {status}")
        self.status = status


async def read_json(client: httpx.AsyncClient, url: str, **headers: str) -> dict[str, Any]:
    """The JSON object at ``url``; ValueError says what came instead."""
    headers["accept"] = "application/json"
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise StatusError(url, answer.status_code)
        body = b""
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > MOST_BYTES:
                raise ValueError(f"{url} answers more than {size(MOST_BYTES)}")
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError(f"{url} answers no JSON object")
    return content


def _usable(document: dict[str, Any]) -> Keys:
    """The public keys for signatures; those of kinds that we don't know are left out."""
    listed = document.get("keys")
    keys = []
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = JWKRegistry.import_key(entry)
            weak = isinstance(key, RSAKey) and key.raw_value.key_size < 2048
        except (JoseError, ValueError, TypeError) as error:
            _log.warning("left out the key %r: %s", entry.get("kid"), error)
            continue
        if not weak and entry.get("use", "sig") == "sig":
            keys.append(key)
    if not keys:
        raise ValueError("the issuer's key set holds no key for signatures that can be used")
    return tuple(keys)
