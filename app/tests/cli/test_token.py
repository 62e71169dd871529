from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.device_issuer import DeviceIssuer


@pytest.fixture
def issuer() -> Iterator[DeviceIssuer]:
    issuer = DeviceIssuer()
    yield issuer
    issuer.close()


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLAAS4HEP_ISSUER", "MLAAS4HEP_CLIENT_SECRET", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_only_the_token_is_on_stdout(command, issuer: DeviceIssuer) -> None:
    ended = command("token", "--issuer", issuer.url)
    assert ended.code == 0
    assert ended.out.startswith("person-")
    assert ended.out.count("\n") == 1
    assert "WDJB-MJHT" in ended.err
    assert ended.out.strip() not in ended.err
    again = command("token", "--issuer", issuer.url)
    assert (again.out, again.err) == (ended.out, "")
    assert command("token", "--issuer", issuer.url, "--fresh").out != ended.out


def test_the_issuer_of_the_environment(command, monkeypatch, issuer: DeviceIssuer) -> None:
    assert command("token").code == 2
    monkeypatch.setenv("MLAAS4HEP_ISSUER", issuer.url)
    assert command("token").out.startswith("person-")
    ended = command("token", "--forget")
    assert (ended.code, ended.out) == (0, "")
    assert f"1 kept sign-in of {issuer.url} removed" in ended.err


def test_a_robot(command, monkeypatch, issuer: DeviceIssuer) -> None:
    monkeypatch.setenv("MLAAS4HEP_CLIENT_SECRET", issuer.SECRET)
    ended = command("token", "--issuer", issuer.url)
    assert ended.code == 2
    assert "--client-id" in ended.err
    ended = command("token", "--issuer", issuer.url, "--client-id", "robot")
    assert ended.out.startswith("robot-")
    assert ended.err == ""


def test_errors_are_sentences(command) -> None:
    ended = command("token", "--issuer", "http://127.0.0.1:9")
    assert (ended.code, ended.out) == (1, "")
    assert "can't reach the issuer http://127.0.0.1:9" in ended.err


def test_ctrl_c_is_clean(issuer: DeviceIssuer) -> None:
    issuer.answers = ["authorization_pending"] * 1000
    process = subprocess.Popen(
        [sys.executable, "-m", "mlaas4hep.cli.main", "token", "--issuer", issuer.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        # Whoever runs the tests in the background has told all below not to listen to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr
    assert "WDJB-MJHT" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def certificate(folder: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "issuer.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_of_a_sites_own_authority(command, monkeypatch, tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    issuer = DeviceIssuer(pem)
    try:
        ended = command("token", "--issuer", issuer.url)
        assert (ended.code, ended.out) == (1, "")
        assert "certificate" in ended.err
        assert "SSL_CERT_FILE" in ended.err
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        ended = command("token", "--issuer", issuer.url)
        assert ended.code == 2
        assert "SSL_CERT_FILE" in ended.err
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert command("token", "--issuer", issuer.url).out.startswith("person-")
    finally:
        issuer.close()
