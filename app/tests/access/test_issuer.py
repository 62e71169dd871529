from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.access.issuer import IssuerKeys
from mlaas4hep.core.errors import BusyError
from support.issuer import Issuer, rsa


def keys_of(url: str) -> Any:
    return asyncio.run(IssuerKeys(url).keys())


def test_the_keys_of_an_issuer(issuer: Issuer) -> None:
    issuer.keys.append(rsa("second"))
    assert [key.kid for key in keys_of(issuer.url)] == ["first", "second"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"issuer": "https://evil.example"},
            "is of issuer 'https://evil.example', MLAAS4HEP_ISSUER",
        ),
        ({"jwks_uri": "http://192.0.2.1/keys"}, "jwks_uri 'http://192.0.2.1/keys'"),
        ({"jwks_uri": "file:///etc/passwd"}, "not an https:// URL"),
        ({"jwks_uri": None}, "jwks_uri None"),
    ],
)
def test_a_discovery_document_that_is_refused(
    issuer: Issuer, changed: dict[str, Any], text: str
) -> None:
    issuer.changed = changed
    with pytest.raises(BusyError, match=text):
        keys_of(issuer.url)


def test_an_issuer_without_a_key_that_can_be_used(issuer: Issuer) -> None:
    issuer.keys = []
    issuer.extra_keys = [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA", "n": "", "e": "AQAB"}]
    with pytest.raises(BusyError, match="no key for signatures"):
        keys_of(issuer.url)


def test_what_is_no_issuer_is_told(issuer: Issuer) -> None:
    with pytest.raises(BusyError, match="answers 404"):
        keys_of(issuer.url + "/elsewhere")
    issuer.changed = {"padding": "x" * (1 << 20)}
    with pytest.raises(BusyError, match="more than 1 MB"):
        keys_of(issuer.url)


def test_an_issuer_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.access.issuer.TIMEOUT_SECONDS", 0.2)
    expected = pytest.raises(BusyError, match=r"can't be fetched: no answer within 0\.2 s")
    with socket.create_server(("127.0.0.1", 0)) as silent, expected:
        keys_of(f"http://127.0.0.1:{silent.getsockname()[1]}")


ASK = """
import asyncio, sys
from mlaas4hep.access.issuer import IssuerKeys
from mlaas4hep.core.errors import BusyError
try:
    asyncio.run(IssuerKeys(sys.argv[1]).keys())
except BusyError as error:
    print(error.message)
"""


def test_tls_is_verified_with_the_ca_file_of_the_environment(tmp_path: Path) -> None:
    """A self-signed certificate is refused unless SSL_CERT_FILE names it."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    started = Issuer()
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = started._server
        server.socket = context.wrap_socket(server.socket, server_side=True)
        started.url = f"https://localhost:{started.port}/realms/physics"

        def ask(**environment: str) -> str:
            return subprocess.run(
                [sys.executable, "-c", ASK, started.url],
                env={"PYTHONPATH": ":".join(sys.path)} | environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=240,
            ).stdout

        assert "certificate verify failed" in ask()
        assert ask(SSL_CERT_FILE=str(certificate)) == ""
    finally:
        started.go_away()
