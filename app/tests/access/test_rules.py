from __future__ import annotations

import logging
from typing import Any

import pytest

from mlaas4hep.access.rules import Rules, is_safe, listed
from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings

GOOD: dict[str, Any] = {"issuer": "https://iam.example/", "audience": "a", "allowed_groups": "g"}


def test_allowed_groups_are_required() -> None:
    for empty in ("", " , "):
        with pytest.raises(UsageError, match="MLAAS4HEP_ALLOWED_GROUPS is empty") as caught:
            Rules(Settings(**GOOD | {"allowed_groups": empty}))
        assert "'*'" in caught.value.remedy


@pytest.mark.parametrize(
    "issuer",
    ["http://iam.example", "iam.example", "ftp://iam.example", "https://", "http://10.0.0.1",
     "https://u:p@iam.example", "https://iam.example/?x", "https://iam.example/#x", "http://[::2]",
     "http://127.0.0.1.example", "https://[bad"],
)  # fmt: skip
def test_issuers_that_can_not_be_trusted_are_refused(issuer: str) -> None:
    with pytest.raises(UsageError, match="MLAAS4HEP_ISSUER is"):
        Rules(Settings(**GOOD | {"issuer": issuer}))


@pytest.mark.parametrize(
    "issuer",
    ["https://iam.example/", "http://127.0.0.1:8080/r", "http://localhost", "http://[::1]"],
)
def test_issuers_that_are_accepted(issuer: str) -> None:
    assert is_safe(issuer)
    Rules(Settings(**GOOD | {"issuer": issuer}))


def test_an_empty_audience_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Rules(Settings(**GOOD))
        assert not caplog.records
        Rules(Settings(**GOOD | {"audience": ""}))
    assert "MLAAS4HEP_AUDIENCE is empty" in caplog.text


def test_comma_lists() -> None:
    assert listed(" a, b,,c ") == ("a", "b", "c")
    assert listed("") == ()
