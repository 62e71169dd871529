"""Credentials in addresses, which belong into no message, log or bundle."""

from __future__ import annotations

import re

_IN_QUERY = re.compile(
    r"((?:[?&]|&amp;)(?:authz|(?:access_|id_|refresh_)?token|sig|(?:api_?)?key|secret|passw(?:or)?d"
    r"|signature|x-(?:amz|goog)-(?:signature|credential|security-token))=)[^&#\s\"'\\<>,]+",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(://[^\s/@:\"'<>,]*:)[^\s/@\"'<>]+(?=@)")


def without_secrets(text: str) -> str:
    """The text, with ``...`` for what in its URLs is a password, a token or a signature."""
    return _PASSWORD.sub(r"\1...", _IN_QUERY.sub(r"\1...", text))
