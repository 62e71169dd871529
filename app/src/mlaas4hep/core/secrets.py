"""Credentials in addresses, which belong into no message, log or bundle."""

from __future__ import annotations

import re

_IN_QUERY = re.compile(
    r"""((?:[?&;\#]|&amp;|\\u0026|%3[bf]|%26)  # begins one
    (?:[\w.~-]{0,40}(?:auth(?!or)|token|secret|passw|pwd|signature|credential|macaroon|jwt|bearer
    |(?:access|api|private)[_-]?key)[\w.~-]{0,40}|sig)
    (?:=|%3d))
    (?:bearer(?:\s|%20|\+)+)?[^&;\#\s"'\\<>]+""",
    re.IGNORECASE | re.VERBOSE,
)
_USER = re.compile(r"(://)[^\s/?#\"'<>@]+(?:@[^\s/?#\"'<>@]+)*(?=@)")


def without_secrets(text: str) -> str:
    """The text, with ``...`` for what in its URLs is a user, a password, a token or a signature.

    Which parameters of a query these are is told by their names: those that hold auth, token,
    secret, signature and the like. ``key`` alone is an object's name at many servers.
    """
    return _USER.sub(r"\1...", _IN_QUERY.sub(r"\1...", text))
