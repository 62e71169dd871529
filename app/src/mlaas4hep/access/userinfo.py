"""The issuer's userinfo about a token's user: groups and names (OpenID Connect, 5.3).

INDIGO IAM's access tokens hold neither, unless its operator changed that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx

from mlaas4hep.access.issuer import TIMEOUT_SECONDS, IssuerKeys, StatusError, read_json
from mlaas4hep.core.errors import BusyError

_log = logging.getLogger(__name__)

AT_ONCE = 16
"""Questions to the issuer at the same time; others wait for their turn."""
REFUSED = (400, 401, 403, 404)
"""With these the issuer says that the token entitles to nothing there: a robot's, for example."""


class UserInfo:
    """Asks the issuer; requests with the same token at the same time ask once."""

    def __init__(self, issuer: IssuerKeys) -> None:
        self._issuer = issuer
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[bytes, asyncio.Task[Mapping[str, Any]]] = {}

    async def claims(self, token: bytes, digest: bytes, sub: str) -> Mapping[str, Any]:
        """The claims of a verified token's user; empty when the issuer tells none for it.

        ``digest`` identifies the token, ``sub`` is its user. BusyError when the issuer does not
        answer as it should.
        """
        if not self._issuer.userinfo_url:
            return {}
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(token, sub))
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        return await asyncio.shield(asking)

    async def _ask(self, token: bytes, sub: str) -> Mapping[str, Any]:
        url = self._issuer.userinfo_url
        try:
            async with self._turns, asyncio.timeout(TIMEOUT_SECONDS), self._issuer.client() as http:
                found = await read_json(http, url, authorization=f"Bearer {token.decode()}")
            if found.get("sub") != sub:
                raise ValueError(f"{url} answers for another user")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            if isinstance(error, StatusError) and error.status in REFUSED:
                return {}
            said = str(error) or f"no answer within {TIMEOUT_SECONDS} s"
            _log.warning("can't ask for the groups of a user: %s", said)
            raise BusyError(
                f"your groups can't be looked up: {said}", "Try again in a moment."
            ) from None
        return found
