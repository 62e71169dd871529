"""Of a token that is refused although it is valid: what its claims make the likely reason."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest

from mlaas4hep.sources.credentials import Bearer
from mlaas4hep.sources.doctor.steps import BrokenError, Diagnosis
from mlaas4hep.sources.doctor.tokens import explain_refusal

PATH = "/store/user/alice/a.root"


def why(value: str, path: str = PATH) -> str:
    diagnosis = Diagnosis("https://door.test/a.root")
    with suppress(BrokenError):
        explain_refusal(diagnosis, Bearer(value, "BEARER_TOKEN"), "door.test", 443, path, "403")
    return diagnosis.problem


def token(**claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.c2ln"


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"aud": "https://other.test"}, "its audience is https://other.test, not this server"),
        ({"aud": ["https://a.test", "https://b.test"]}, "https://a.test, https://b.test"),
        ({"scope": "storage.modify:/"}, "it has no scope to read, but storage.modify:/"),
        ({}, "it has no scope to read, but none"),
        ({"scope": "storage.read:/user/bob"}, "storage.read:/user/bob doesn't cover /store/user/a"),
        ({"scope": "read:/user/ali"}, "read:/user/ali doesn't cover"),
        ({"scope": "storage.read:/user/alice"}, "doesn't know its issuer https://i.test"),
        ({"scope": "storage.read:/user/alice/a.root"}, "doesn't know its issuer"),
        ({"scope": ["read:/user/alice", "openid"]}, "doesn't know its issuer"),
        ({"scope": "storage.read:/", "aud": "https://door.test:443"}, "doesn't know its issuer"),
        ({"aud": "https://wlcg.cern.ch/jwt/v1/any", "scope": "read:/"}, "doesn't know its issuer"),
        ({"wlcg.groups": ["/cms"]}, "doesn't know its issuer"),
    ],
)
def test_a_likely_reason(claims: dict[str, object], says: str) -> None:
    found = why(token(iss="https://i.test", **claims))
    assert found.startswith("door.test refuses the token (403)")
    assert says in found


def test_a_token_that_only_its_issuer_can_read() -> None:
    assert "it isn't a JWT, so nothing tells why" in why("0123456789abcdef")
