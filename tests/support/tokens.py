"""Tokens: those of the tests' identity provider, its keys, and tokens that nobody issued."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.door import Door

ADMIN = "/admin/realms/mlaas4hep"


class Issuer:
    """Keycloak with the realm mlaas4hep, whose users' passwords are NAME-pw."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.url = f"{door.url}/realms/mlaas4hep"

    def tokens(
        self, user: str, client: str = "test-password", realm: str = "mlaas4hep"
    ) -> dict[str, Any]:
        """What the password grant answers."""
        form = {"grant_type": "password", "client_id": client, "username": user,
                "password": f"{user}-pw", "scope": "openid"}  # fmt: skip
        data = [
            word for key, value in form.items() for word in ("--data-urlencode", f"{key}={value}")
        ]
        answer = self.door.ask(f"/realms/{realm}/protocol/openid-connect/token", *data)
        assert answer.status == 200, answer
        return answer.json

    def token(self, user: str, client: str = "test-password", realm: str = "mlaas4hep") -> str:
        return str(self.tokens(user, client, realm)["access_token"])

    def admin(self, path: str, *options: str) -> Any:
        """An administrator's request; what is not an answer of success fails the test."""
        answer = self.door.ask(
            ADMIN + path, *options, token=self.token("admin", "admin-cli", "master")
        )
        assert answer.status in (200, 201, 204), answer
        return answer.json if answer.body else answer.headers.get("location", "").rpartition("/")[2]

    @contextmanager
    def key(self) -> Iterator[None]:
        """While this lasts, tokens are signed with a new key; then the key is gone."""
        component = {
            "name": f"test-{time.time_ns()}",
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {
                "priority": [str(int(time.time()))],
                "keySize": ["2048"],
                "algorithm": ["RS256"],
            },
        }
        made = self.admin(
            "/components", "-H", "Content-Type: application/json", "-d", json.dumps(component)
        )
        try:
            yield
        finally:
            self.admin(f"/components/{made}", "-X", "DELETE")

    def public_key(self) -> dict[str, Any]:
        """The key that now verifies tokens, as the whole world can fetch it."""
        kid = header(self.token("bob"))["kid"]
        keys = self.door.ask("/realms/mlaas4hep/protocol/openid-connect/certs").json["keys"]
        return next(key for key in keys if key["kid"] == kid)


def header(token: str) -> dict[str, Any]:
    return decoded(token.split(".")[0])


def claims(token: str) -> dict[str, Any]:
    return decoded(token.split(".")[1])


def decoded(part: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(part + "=="))


def encoded(content: dict[str, Any] | bytes) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


MINE = rsa.generate_private_key(65537, 2048)


def by_my_key(token: str, **changes: Any) -> str:
    """The same token with the same key id, signed with another key; claims may be changed."""
    signed = f"{token.split('.')[0]}.{encoded(claims(token) | changes)}"
    return f"{signed}.{encoded(MINE.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


def unsigned(token: str) -> str:
    """`alg` says that there is no signature."""
    return f"{encoded(header(token) | {'alg': 'none'})}.{token.split('.')[1]}."


def by_public_key(token: str, issuer: Issuer) -> str:
    """Signed with the secret HS256, whose secret is the public key that everyone knows."""
    found = issuer.public_key()
    numbers = (int.from_bytes(base64.urlsafe_b64decode(found[part] + "==")) for part in ("e", "n"))
    public = rsa.RSAPublicNumbers(*numbers).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encoded(header(token) | {'alg': 'HS256'})}.{token.split('.')[1]}"
    return f"{signed}.{encoded(hmac.digest(pem, signed.encode(), hashlib.sha256))}"
