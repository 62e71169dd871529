"""What proves who asks, on the grid: certificates, proxies with and without a VO, and tokens.

All times are seconds from now: ``life`` is the end, ``start`` the beginning of what is made, so
that one with a negative life has expired and one with a positive start is not yet valid.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from .commands import run

DAY = 86400
AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"
ISSUER = "https://issuer.test/"
"""No server answers there: token_origin gives its server the key."""
VO = "test.vo"
VOMS_HOST = "voms.test"

_ORGANISATION = "/DC=test/DC=mlaas4hep"
# `openssl ca` is the one command of OpenSSL 3.0 that takes any dates.
_AUTHORITY = """
[ca]
default_ca = this
[this]
database = {folder}/index
new_certs_dir = {folder}
default_md = sha256
default_crl_days = 30
policy = any
preserve = yes
unique_subject = no
rand_serial = yes
[any]
domainComponent = optional
organizationalUnitName = optional
commonName = optional
"""
_POLICY = """access_id_CA X509 '{subject}'
pos_rights globus CA:sign
cond_subjects globus '"{organisation}/*"'
"""
_OF_CA = """basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_OF_HOST = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = {names}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
_OF_USER = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
_OF_PROXY = """keyUsage = critical, digitalSignature, keyEncipherment
proxyCertInfo = critical, language:id-ppl-inheritAll
"""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y%m%d%H%M%SZ")


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Pki:
    """A certificate authority of the tests, what it signs, and an issuer of tokens.

    ``ca_folder`` is what X509_CERT_DIR wants, ``vomsdir`` what X509_VOMS_DIR wants, ``ca`` the one
    certificate for programs that want a file. Keys have mode 0600.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "Test CA",
        *,
        life: float = 3650 * DAY,
        start: float = -2 * DAY,
    ) -> None:
        self.folder = folder
        self.subject = f"{_ORGANISATION}/CN={name}"
        self.ca_folder, self.vomsdir = folder / "certificates", folder / "vomsdir"
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca.key"
        self._numbers = count(1)
        for made in (self.ca_folder, self.vomsdir / VO, folder / "authority"):
            made.mkdir(parents=True)
        (folder / "authority/index").touch()
        (folder / "authority/configuration").write_text(
            _AUTHORITY.format(folder=folder / "authority")
        )
        request = self._request(self._ca_key, self.subject)
        self._sign(request, self.ca, None, self._ca_key, _OF_CA, start, life)
        # XRootD finds an authority by either hash, TLS by the newer one only.
        for kind in ("subject_hash", "subject_hash_old"):
            self._publish(f"{self._hash(kind)}.0", self.ca.read_text())
            policy = _POLICY.format(subject=self.subject, organisation=_ORGANISATION)
            self._publish(f"{self._hash(kind)}.signing_policy", policy)
        # Who believes this host's word on the members of the VO.
        (self.vomsdir / VO / f"{VOMS_HOST}.lsc").write_text(
            f"{_ORGANISATION}/OU=hosts/CN={VOMS_HOST}\n{self.subject}\n"
        )
        self._token_key = folder / "token.key"
        run("openssl", "genrsa", "-out", self._token_key, "2048")

    def host(
        self, name: str = "localhost", *, life: float = 365 * DAY, start: float = -DAY
    ) -> tuple[Path, Path]:
        """Certificate and key of a host; ``localhost`` is 127.0.0.1, too."""
        also = ", IP:127.0.0.1" if name == "localhost" else ""
        extensions = _OF_HOST.format(names=f"DNS:{name}{also}")
        return self._certificate("hosts", name, extensions, life, start)

    def user(
        self, name: str = "alice", *, life: float = 365 * DAY, start: float = -DAY
    ) -> tuple[Path, Path]:
        """Certificate and key of a user."""
        return self._certificate("people", name, _OF_USER, life, start)

    def subject_of(self, user: str) -> str:
        """The DN by which a grid-mapfile knows a user."""
        return f"{_ORGANISATION}/OU=people/CN={user}"

    def proxy(
        self,
        user: str = "alice",
        *,
        life: float = 12 * 3600,
        start: float = -300,
        path: Path | None = None,
    ) -> Path:
        """A proxy of a user (RFC 3820), by default in a new file; an existing one is replaced.

        It is replaced at once, as renewers do, so that no reader sees half of it.
        """
        certificate, key = self.user(user)
        number = next(self._numbers)
        own, own_key = (self.folder / f"proxy{number}.{end}" for end in ("pem", "key"))
        request = self._request(own_key, f"{self.subject_of(user)}/CN={number}")
        self._sign(request, own, certificate, key, _OF_PROXY, start, life)
        new = self.folder / f"proxy{number}"
        new.touch(0o600)
        new.write_text("".join(part.read_text() for part in (own, own_key, certificate)))
        return new.replace(path) if path else new

    def voms_proxy(
        self, user: str = "alice", *, hours: int = 12, ac_hours: int = 12, age_hours: int = 0
    ) -> Path:
        """A proxy with the attributes of the VO ``test.vo``, as voms-proxy-init makes them.

        Both were made ``age_hours`` ago.
        """
        certificate, key = self.user(user)
        server, server_key = self.host(VOMS_HOST)
        new = self.folder / f"proxy{next(self._numbers)}"
        run("voms-proxy-fake", "-rfc", "-quiet", "-cert", certificate, "-key", key,
            "-certdir", self.ca_folder, "-hostcert", server, "-hostkey", server_key,
            "-voms", VO, "-uri", f"{VOMS_HOST}:15000", "-fqan", f"/{VO}/Role=NULL/Capability=NULL",
            "-hours", str(hours), "-vomslife", str(ac_hours), "-pastproxy", f"{age_hours}:00",
            "-pastac", f"{age_hours}:00", "-out", new)  # fmt: skip
        return new

    def crl(
        self, *, life: float = 30 * DAY, start: float = -60, revoked: Path | None = None
    ) -> None:
        """List the certificates that are revoked, and this one, valid between these times."""
        if revoked:
            run(*self._authority(), "-revoke", revoked, "-cert", self.ca, "-keyfile", self._ca_key)
        made = run(*self._authority(), "-gencrl", "-cert", self.ca, "-keyfile", self._ca_key,
                   "-crl_lastupdate", _moment(start), "-crl_nextupdate", _moment(life))  # fmt: skip
        for kind in ("subject_hash", "subject_hash_old"):
            self._publish(f"{self._hash(kind)}.r0", made.decode())

    def token(
        self,
        *,
        scope: str = "storage.read:/",
        life: float = 3600,
        start: float = -60,
        aud: str = AUDIENCE,
        sub: str = "alice",
        issuer: str = ISSUER,
    ) -> str:
        """A bearer token of the WLCG profile, signed with RS256."""
        now = int(time.time())
        head = {"alg": "RS256", "kid": "tests", "typ": "JWT"}
        claims = {
            "iss": issuer,
            "sub": sub,
            "aud": aud,
            "scope": scope,
            "wlcg.ver": "1.0",
            "iat": now + int(min(start, life)),
            "nbf": now + int(min(start, life)),
            "exp": now + int(life),
            "jti": str(uuid.uuid4()),
        }
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        signature = run("openssl", "dgst", "-sha256", "-sign", self._token_key,
                        input=signed.encode())  # fmt: skip
        return f"{signed}.{_base64(signature)}"

    def jwk(self) -> dict[str, str]:
        """The public key of the tokens (RFC 7517)."""
        said = run("openssl", "rsa", "-in", self._token_key, "-noout", "-modulus").decode()
        modulus = bytes.fromhex(said.strip().partition("=")[2])
        numbers = {"n": _base64(modulus), "e": _base64((65537).to_bytes(3, "big"))}
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "tests"} | numbers

    def _certificate(
        self, unit: str, name: str, extensions: str, life: float, start: float
    ) -> tuple[Path, Path]:
        # Of the same dates as before it is the same certificate.
        stem = re.sub(r"\W", "_", f"{name}{life:+.0f}{start:+.0f}")
        certificate, key = (self.folder / f"{stem}.{end}" for end in ("pem", "key"))
        if not certificate.exists():
            request = self._request(key, f"{_ORGANISATION}/OU={unit}/CN={name}")
            self._sign(request, certificate, self.ca, self._ca_key, extensions, start, life)
        return certificate, key

    def _request(self, key: Path, subject: str) -> Path:
        request = key.with_suffix(".request")
        run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
            "-keyout", key, "-out", request)  # fmt: skip
        return request

    def _sign(
        self,
        request: Path,
        signed: Path,
        issuer: Path | None,
        issuer_key: Path,
        extensions: str,
        start: float,
        life: float,
    ) -> None:
        """Sign a request, by an authority or (a proxy) by a user; by itself without issuer."""
        by = ("-cert", issuer) if issuer else ("-selfsign",)
        described = request.with_suffix(".extensions")
        described.write_text(extensions)
        run(*self._authority(), *by, "-keyfile", issuer_key, "-in", request, "-out", signed,
            "-startdate", _moment(min(start, life - 1)), "-enddate", _moment(life),
            "-extfile", described, "-notext", "-batch")  # fmt: skip

    def _authority(self) -> tuple[str | Path, ...]:
        return ("openssl", "ca", "-config", self.folder / "authority/configuration")

    def _hash(self, kind: str) -> str:
        return run("openssl", "x509", "-in", self.ca, "-noout", f"-{kind}").decode().strip()

    def _publish(self, name: str, content: str) -> None:
        (self.ca_folder / name).write_text(content)
