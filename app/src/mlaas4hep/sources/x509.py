"""X.509 as the grid uses it: certificates, proxies with a VO's attributes, authorities, CRLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

_PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_VOMS = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
_FQANS = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.4")
_SHORT = {"1.2.840.113549.1.9.1": "emailAddress"}
KEY_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


def dn(name: x509.Name) -> str:
    """A distinguished name as the grid writes it: /DC=ch/CN=Alice."""
    return "".join(
        f"/{_SHORT.get(a.oid.dotted_string, a.rfc4514_attribute_name)}={a.value!s}" for a in name
    )


def read_certificates(content: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file; ValueError if it holds none."""
    return x509.load_pem_x509_certificates(content)


def validity(certificates: list[x509.Certificate]) -> tuple[float, float]:
    """When all of them are valid: from and until, in seconds since 1970."""
    starts = [each.not_valid_before_utc.timestamp() for each in certificates]
    return max(starts), min(each.not_valid_after_utc.timestamp() for each in certificates)


@dataclass(frozen=True)
class Voms:
    """What an attribute certificate in a proxy says (RFC 5755): the VO's word on its member."""

    vo: str
    fqans: list[str]
    start: float
    end: float


def voms_of(certificates: list[x509.Certificate]) -> Voms | None:
    """The VOMS attributes of a proxy; None where it has none, or none that can be read."""
    for certificate in certificates:
        for extension in extensions_of(certificate):
            if extension.oid == _VOMS and isinstance(extension.value, x509.UnrecognizedExtension):
                try:
                    return _voms(_der(extension.value.value))
                except (ValueError, IndexError, StopIteration, RecursionError):
                    return None
    return None


_Der = list[tuple[int, Any]]
"""Tag and content of each element; the content of a constructed one is a list again."""


def _der(data: bytes) -> _Der:
    found: _Der = []
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, at = int.from_bytes(data[at : at + octets]), at + octets
        if at + length > len(data):
            raise ValueError("an element ends beyond the data")
        content = data[at : at + length]
        found.append((tag, _der(content) if tag & 0x20 else content))
        at += length
    return found


def _voms(elements: _Der) -> Voms:
    """AttributeCertificate: validity are its first two times, FQANs the attribute with that OID."""
    flat = list(_flat(elements))
    start, end = [_time(content) for tag, content in flat if tag == 0x18][:2]
    oid = _encoded(_FQANS)
    attribute = next(i for i, (tag, content) in enumerate(flat) if tag == 6 and content == oid)
    authority, fqans = "", []
    for tag, content in flat[attribute + 1 :]:
        if tag == 0x86:  # VO://HOST:PORT
            authority = content.decode()
        elif tag == 0x04:
            fqans.append(content.decode())
        else:
            break
    plain = [f.removesuffix("/Capability=NULL").removesuffix("/Role=NULL") for f in fqans]
    return Voms(authority.partition("://")[0], plain, start, end)


def _flat(elements: _Der) -> Iterator[tuple[int, bytes]]:
    for tag, content in elements:
        if isinstance(content, list):
            yield from _flat(content)
        else:
            yield tag, content


def _time(text: bytes) -> float:
    parsed = datetime.strptime(text.decode(), "%Y%m%d%H%M%SZ")
    return parsed.replace(tzinfo=UTC).timestamp()


def _encoded(oid: x509.ObjectIdentifier) -> bytes:
    first, second, *others = map(int, oid.dotted_string.split("."))
    out = bytearray()
    for number in (40 * first + second, *others):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return bytes(out)


class Authorities:
    """The folder of trusted CAs (X509_CERT_DIR): certificates HASH.0 and their lists HASH.r0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def found(self) -> dict[str, tuple[Path, x509.Certificate]]:
        """Its authorities by DN; files that hold none are left out."""
        authorities = {}
        for path in sorted(self.folder.glob("*.[0-9]")):
            try:
                for each in read_certificates(path.read_bytes()):
                    authorities[dn(each.subject)] = path, each
            except (OSError, ValueError):
                continue
        return authorities

    def signed(self, certificate: x509.Certificate) -> bool:
        """Whether one of them signed it, or one that they signed in turn (a file holds both)."""
        known = self.found.get(dn(certificate.issuer))
        if not known:
            return False
        try:
            certificate.verify_directly_issued_by(known[1])
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def list_of(self, issuer: str) -> x509.CertificateRevocationList | None:
        """The revocation list of an authority, by its DN."""
        if issuer not in self.found:
            return None
        path = self.found[issuer][0]
        try:
            content = path.with_suffix(f".r{path.suffix[1:]}").read_bytes()
            if content.startswith(b"-----"):
                return x509.load_pem_x509_crl(content)
            return x509.load_der_x509_crl(content)
        except (OSError, ValueError):
            return None


def private_key(content: bytes) -> Any:
    """The first private key of a PEM file; None without one that can be read."""
    block = KEY_BLOCK.search(content)
    try:
        return load_pem_private_key(block[0], None) if block else None
    except (ValueError, TypeError):
        return None


def extensions_of(certificate: x509.Certificate) -> list[x509.Extension[Any]]:
    """Its extensions; none of a certificate that breaks the rules for them."""
    try:
        return list(certificate.extensions)
    except ValueError:  # one that breaks the rules, as those of old authorities may
        return []


def is_proxy(certificate: x509.Certificate) -> bool:
    """RFC 3820, or the older kinds, which only their CN tells."""
    if any(extension.oid == _PROXY_INFO for extension in extensions_of(certificate)):
        return True
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return bool(names) and names[-1].value in ("proxy", "limited proxy")
