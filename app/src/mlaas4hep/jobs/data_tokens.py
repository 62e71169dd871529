"""What a training may read of the grid's data: a token for the cache, signed by the runner."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.origins import AUDIENCE, ISSUER
from mlaas4hep.core.settings import JobSettings

_LATE_SECONDS = 60
"""By how much the cache's clock may be behind."""


def read_token_key(settings: JobSettings) -> ECKey:
    """The key of the settings; UsageError without a good one, as all could be read then."""
    path = settings.data_token_key
    if path is None:
        raise UsageError(
            "data_paths limits what groups may read, but nothing signs that",
            "Set MLAAS4HEP_DATA_TOKEN_KEY (openssl ecparam -name prime256v1 -genkey -noout).",
        )
    try:
        key = ECKey.import_key(path.read_bytes())
    except (OSError, ValueError, JoseError) as error:
        raise UsageError(
            f"the key {path} can't be read: {error}", "Give a private key (P-256) in PEM."
        ) from None
    if key.curve_name != "P-256" or not key.is_private:
        raise UsageError(f"{path} is no private key of P-256", "Give one, in PEM.")
    return key


def data_token(key: ECKey, process_name: str, paths: Sequence[str], until: float) -> str:
    """A token to read below these folders until then (Unix time), and nothing else.

    XRootD 5.5's SciTokens compare prefixes of strings and ignore the slash at the end: who may read
    /store/a/ also opens /store/ab.root, if XRootD's client asks for that itself.
    """
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": process_name,
        "wlcg.ver": "1.0",  # in whose profile storage.read is a scope
        "scope": " ".join(f"storage.read:{path.rstrip('/')}/" for path in paths),
        "iat": now - _LATE_SECONDS,
        "nbf": now - _LATE_SECONDS,
        "exp": math.ceil(until),
    }
    return jwt.encode({"alg": "ES256", "kid": key.thumbprint()}, claims, key)
