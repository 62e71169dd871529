"""The certificate of which proxies are made: read, checked, kept.

It is kept with its chain and its key, which has no passphrase any more, in one file of mode 0600:
so it is replaced at once, or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.files import write_atomic
from mlaas4hep.core.settings import GridSettings
from mlaas4hep.sources.x509 import (
    KEY_BLOCK,
    Authorities,
    dn,
    is_proxy,
    private_key,
    read_certificates,
    validity,
)

Passphrase = Callable[[], bytes]
"""Asked only for a key that has one."""

_LONGEST = 8
"""Authorities above a certificate."""
_CVMFS = Path("/cvmfs/grid.cern.ch/etc/grid-security/certificates")
_ANCHORS = Path("/etc/grid-security/certificates")
_GIVE = "Give the certificate and its key: usercert.pem userkey.pem, or one file .p12."


@dataclass(frozen=True)
class Certificate:
    """A user's or robot's certificate, those of the authorities that came with it, the key."""

    own: x509.Certificate
    others: list[x509.Certificate]
    key: Any

    @property
    def subject(self) -> str:
        """Whose it is."""
        return dn(self.own.subject)

    @property
    def end(self) -> float:
        """Seconds since 1970."""
        return self.own.not_valid_after_utc.timestamp()


def own_file(settings: GridSettings) -> Path:
    """Where the certificate is kept."""
    return settings.x509_folder / "private/certificate.pem"


def anchors(settings: GridSettings) -> Path:
    """The folder of the CAs that are trusted."""
    if settings.ca_folder:
        return Path(settings.ca_folder)
    return _CVMFS if _CVMFS.is_dir() else _ANCHORS


def load(settings: GridSettings) -> Certificate | None:
    """The certificate that is kept; None without one."""
    try:
        content = own_file(settings).read_bytes()
    except FileNotFoundError:
        return None
    return read([content], lambda: b"")


def keep(settings: GridSettings, certificate: Certificate) -> None:
    """Replace what is kept by another certificate, once it has been checked.

    UsageError where it can't be used, or not by the user of this process; what is kept stays.
    """
    check(certificate, Authorities(anchors(settings)))
    path = own_file(settings)
    own_folder(settings.x509_folder)
    own_folder(path.parent)
    chain = [certificate.own, *certificate.others]
    key = certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    parts = [each.public_bytes(Encoding.PEM) for each in chain]
    try:
        write_atomic(path, b"".join([parts[0], key, *parts[1:]]), 0o600)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written: {error.strerror}", "The certificate kept so far stays."
        ) from error


def own_folder(folder: Path) -> None:
    """Make a folder that only the user of this process can enter, or see to it that it is one."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.stat().st_uid
        if owner == os.geteuid():
            folder.chmod(0o700)
            return
    except OSError as error:
        raise UsageError(
            f"{folder} can't be used: {error.strerror}", "Set MLAAS4HEP_X509_FOLDER."
        ) from error
    raise UsageError(
        f"{folder} belongs to user {owner}, not to {os.geteuid()}", f"Run this as user {owner}."
    )


def read(files: list[bytes], passphrase: Passphrase) -> Certificate:
    """A certificate and its key, from PEM files, in any order, or from one of PKCS#12.

    UsageError for what can't be read, and for a key that belongs to none of the certificates.
    """
    content = b"\n".join(files)
    if b"-----BEGIN" in content:
        key, found = _of_pem(content, passphrase)
    elif len(files) == 1:
        key, found = _of_pkcs12(content, passphrase)
    else:
        raise UsageError("none of the files is a PEM file", _GIVE)
    if key is None or not found:
        missing = "certificate" if key else "private key"
        raise UsageError(f"there is no {missing} in what was given", _GIVE)
    own = [each for each in found if each.public_key() == key.public_key()]
    if not own:
        names = ", ".join(dn(each.subject) for each in found)
        raise UsageError(
            f"the key doesn't belong to the certificate: {names}",
            "Give the key that was made for it (of a renewed certificate: the new one).",
        )
    return Certificate(own[0], [each for each in found if each not in own], key)


def _of_pem(content: bytes, passphrase: Passphrase) -> tuple[Any, list[x509.Certificate]]:
    key = private_key(content)
    block = KEY_BLOCK.search(content)
    if key is None and block:
        try:
            key = load_pem_private_key(block[0], passphrase())
        except (ValueError, TypeError):
            raise _wrong("the key") from None
    try:
        return key, read_certificates(content)
    except ValueError:
        return key, []


def _of_pkcs12(content: bytes, passphrase: Passphrase) -> tuple[Any, list[x509.Certificate]]:
    try:
        bundle = pkcs12.load_pkcs12(content, None)
    except ValueError:  # it has a passphrase, or is something else
        try:
            bundle = pkcs12.load_pkcs12(content, passphrase())
        except ValueError:
            raise _wrong("the file .p12") from None
    certificates = [bundle.cert, *bundle.additional_certs] if bundle.cert else []
    return bundle.key, [each.certificate for each in certificates]


def _wrong(what: str) -> UsageError:
    return UsageError(
        f"{what} can't be read with this passphrase",
        "Check the passphrase (a file's last line break doesn't count), and that the file is whole"
        " (openssl pkcs12 -info -noout -in FILE; openssl pkey -noout -in FILE).",
    )


def check(certificate: Certificate, known: Authorities) -> None:
    """UsageError, with the remedy, where no server would take proxies of it."""
    own = certificate.own
    if is_proxy(own):
        raise UsageError(
            f"{certificate.subject} is a proxy: it can't be renewed", f"{_GIVE} Not a proxy."
        )
    start, end = validity([own])
    now = time.time()
    if end < now:
        raise UsageError(
            f"the certificate {certificate.subject} expired on {_day(end)}",
            "Get a new one from your CA, and import that.",
        )
    if start > now:
        raise UsageError(
            f"the certificate {certificate.subject} is not valid before {_day(start)}",
            "Set this machine's clock right (timedatectl), or wait until then.",
        )
    authorities(certificate, known)
    crl = known.list_of(dn(own.issuer))
    if crl is not None and crl.get_revoked_certificate_by_serial_number(own.serial_number):
        raise UsageError(
            f"the certificate {certificate.subject} is revoked, says its CA {dn(own.issuer)}",
            "Get a new one from your CA, and import that.",
        )


def authorities(certificate: Certificate, known: Authorities) -> list[x509.Certificate]:
    """Who signed it, and who signed that, up to an authority that signed itself.

    UsageError where one is missing among those that are trusted, or has expired.
    """
    above: list[x509.Certificate] = []
    at = certificate.own
    while len(above) < _LONGEST and (not above or at.issuer != at.subject):
        name = dn(at.issuer)
        if not known.signed(at):
            raise UsageError(
                f"the CA {name}, which signed {dn(at.subject)}, is not in {known.folder}"
                f" ({len(known.found)} CAs)",
                "Use a certificate of a CA that the grid trusts, or let the machine have the"
                " grid's CAs: mount CVMFS, install ca-policy-egi-core or Debian's igtf-policy-"
                "classic, or set MLAAS4HEP_CA_FOLDER to the folder that has it as HASH.0.",
            )
        at = known.found[name][1]
        if (end := at.not_valid_after_utc.timestamp()) < time.time():
            raise UsageError(
                f"the CA {name} in {known.folder} expired on {_day(end)}",
                "Update the grid's CAs (ca-policy-egi-core or igtf-policy-classic).",
            )
        above.append(at)
    return above


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
