"""Names in certificates; what is wrong with proxies and servers is in test_xrootd.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from mlaas4hep.sources.doctor.certificates import host_names, names_host
from mlaas4hep.sources.x509 import dn


def certificate(subject: x509.Name, *names: str) -> x509.Certificate:
    key, now = generate_private_key(SECP256R1()), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(1))
    )
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternative, critical=False)
    return builder.sign(key, SHA256())


def test_a_dn_as_the_grid_writes_it() -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "ch"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Users"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Alice Ä. 12/3"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "alice@host.test"),
        ]
    )
    assert dn(name) == "/DC=ch/OU=Users/CN=Alice Ä. 12/3/emailAddress=alice@host.test"


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("xrootd.site.test", True),
        ("door1.site.test", True),
        ("a.pool.site.test", True),
        ("a.b.pool.site.test", False),
        ("pool.site.test", False),
        ("site.test", False),
    ],
)
def test_the_hosts_of_a_certificate(host: str, fits: bool) -> None:
    """By its CN, as of a service, and by DNS names, of which one is a wildcard for one label."""
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "host/xrootd.site.test")])
    found = certificate(common, "door1.site.test", "*.pool.site.test")
    assert host_names(found) == ["host/xrootd.site.test", "door1.site.test", "*.pool.site.test"]
    assert names_host(found, host) == fits
