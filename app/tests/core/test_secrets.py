"""What is hidden, and what isn't."""

from __future__ import annotations

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.secrets import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("root://h//a.root?authz=Bearer%20abc&x=1", "root://h//a.root?authz=...&x=1"),
        ("https://anna:pw@h:8443/a.root: 403", "https://anna:...@h:8443/a.root: 403"),
        ("https://h/a?X-Amz-Credential=AK%2F1&X-Amz-Date=2&X-Amz-Signature=ff, then", None),
        ('{"file": "https://h/a?file=b.root&access_token=ab.cd"}', None),
        ("https://h/a?x=1&amp;sig=abc%3D&amp;y=2", "https://h/a?x=1&amp;sig=...&amp;y=2"),
        ("https://h/get?file=a.root&monkey=1", "https://h/get?file=a.root&monkey=1"),
        ("root://h:1094//a@b.root", "root://h:1094//a@b.root"),
        ("mail anna@h.org: a://b", "mail anna@h.org: a://b"),
    ],
)
def test_credentials_of_addresses_are_hidden(text: str, shown: str | None) -> None:
    hidden = without_secrets(text)
    if shown is None:
        assert not any(secret in hidden for secret in ("AK%2F1", "ff", "ab.cd"))
        assert "file=b.root" in hidden or "X-Amz-Date=2" in hidden
    else:
        assert hidden == shown


def test_errors_show_none() -> None:
    error = DataError("https://h/a?authz=abc can't be read", "Ask u:p of ftp://u:p@h.")
    assert str(error) == "https://h/a?authz=... can't be read\n  Ask u:p of ftp://u:...@h."
