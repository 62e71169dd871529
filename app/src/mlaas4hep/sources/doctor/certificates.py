"""X.509: whether a proxy can be used, the certificates of servers, authorities, CRLs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from mlaas4hep.sources.credentials import X509, x509_proxy
from mlaas4hep.sources.doctor.steps import Diagnosis, moment, span
from mlaas4hep.sources.x509 import (
    Authorities,
    dn,
    extensions_of,
    is_proxy,
    private_key,
    read_certificates,
    validity,
    voms_of,
)

_VOMS_FOLDER = "/etc/grid-security/vomsdir"
_RENEW = "Make a new one: voms-proxy-init --voms YOUR-VO"
_CLOCK = "Set this machine's clock right (timedatectl shows whether it is synchronised)"


def names_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether XRootD takes the certificate for that host's: by its CN, or a DNS name of it."""
    return any(
        name == host or (name[:2] == "*." and name[1:] == host[host.find(".") :])
        for name in (each.rpartition("/")[2].lower() for each in host_names(certificate))
    )


def host_names(certificate: x509.Certificate) -> list[str]:
    """The names of which a host's certificate is: CN and DNS names."""
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    for extension in extensions_of(certificate):
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            names += extension.value.get_values_for_type(x509.DNSName)
    return list(dict.fromkeys(names))


def who(proxy: dict[str, Any]) -> str:
    """Whose a proxy is, of which VO, in words; of the details of the step ``proxy``."""
    if not proxy.get("vo"):
        return f"{proxy.get('dn')}, whose proxy has no attributes of a VO,"
    return f"{proxy.get('dn')} of the VO {proxy['vo']} ({', '.join(proxy['fqans'])})"


def with_vo(proxy: dict[str, Any]) -> str:
    """What to do where a server, which doesn't say so, may read by VO or role only."""
    if proxy.get("vo"):
        return (
            "Ask the site which VO or role may; make the proxy with it: voms-proxy-init --voms"
            " YOUR-VO:/YOUR-VO/Role=ROLE."
        )
    known = known_vos()
    name = known[0] if len(known) == 1 else "YOUR-VO"
    among = f" (this machine knows {', '.join(known[:10])})" if len(known) > 1 else ""
    return (
        f"Make a proxy with your VO: voms-proxy-init --voms {name}{among}. If you have none, ask"
        " the site which VO may read."
    )


def known_vos() -> list[str]:
    """The VOs that this machine knows (X509_VOMS_DIR), of which the user may be a member."""
    folder = Path(os.environ.get("X509_VOMS_DIR") or _VOMS_FOLDER)
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def judge_times(certificate: x509.Certificate, host: str) -> tuple[str, str] | None:
    """What is wrong with the times of a server's certificate, and the remedy."""
    start, end = validity([certificate])
    now = time.time()
    if end < now:
        return (f"{_of(certificate, host)} expired {span(now - end)} ago, on {moment(end)}",
                "Tell the site, and name another replica until it is renewed.")  # fmt: skip
    if start > now:
        return (f"{_of(certificate, host)} is not valid before {moment(start)}; here it is"
                f" {moment(now)}", f"{_CLOCK}.")  # fmt: skip
    return None


def judge_names(certificate: x509.Certificate, host: str) -> tuple[str, str] | None:
    """Whether a server's certificate is for another host, and the remedy."""
    if names_host(certificate, host.lower()):
        return None
    names = ", ".join(host_names(certificate))
    return (f"{_of(certificate, host)} is for {names}, not for {host}",
            f"Write the server's own name in the address: {names}.")  # fmt: skip


def unknown_authority(certificate: x509.Certificate, host: str, trusted: str) -> tuple[str, str]:
    """That nobody of those ``trusted`` signed a server's certificate, and the remedy."""
    return (f"{_of(certificate, host)} is signed by {dn(certificate.issuer)}, which is not among"
            f" {trusted}",
            "If you trust that CA, add it to the folder that X509_CERT_DIR names, as HASH.0"
            " (openssl rehash); for s3:// name its file in AWS_CA_BUNDLE.")  # fmt: skip


def _of(certificate: x509.Certificate, host: str) -> str:
    return f"the certificate of {host} ({dn(certificate.subject)})"


def look_at_authorities(diagnosis: Diagnosis, known: Authorities) -> None:
    """Step ``CA folder``: whether there is one, and how old it is."""
    folder = known.folder
    given = "X509_CERT_DIR" if os.environ.get("X509_CERT_DIR") else "X509_CERT_DIR is not set"
    remedy = (
        "Install the grid's CAs (the packages ca-policy-egi-core, or /cvmfs/grid.cern.ch/etc/"
        "grid-security/certificates), and name their folder in X509_CERT_DIR."
    )
    if not folder.is_dir():
        diagnosis.warn("CA folder", f"there is no folder {folder} ({given})", remedy)
        return
    if not known.found:
        diagnosis.warn("CA folder", f"{folder} ({given}) holds no CA (HASH.0)", remedy)
        return
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    count, age = len(known.found), time.time() - newest
    diagnosis.ok("CA folder", f"{folder}: {count} CAs, changed {span(age)} ago",
                 folder=str(folder), authorities=count, age_s=round(age))  # fmt: skip


def look_at_list(diagnosis: Diagnosis, known: Authorities, issuer: str) -> None:
    """Step ``CRL``: whether the revocation list of an authority is current."""
    found = known.list_of(issuer)
    if found is None or not (end := found.next_update_utc):  # an empty list is false
        return
    if (late := time.time() - end.timestamp()) > 0:
        diagnosis.warn(
            "CRL",
            f"the revocation list (CRL) of {issuer} in {known.folder} expired {span(late)} ago",
            "Run fetch-crl, and let it run every few hours (fetch-crl-cron.timer).",
            issuer=issuer,
            expires=end.timestamp(),
        )
        return
    age = time.time() - found.last_update_utc.timestamp()
    diagnosis.ok("CRL", f"of {issuer}: {span(age)} old, until {moment(end.timestamp())}",
                 issuer=issuer, expires=end.timestamp(), age_s=round(age))  # fmt: skip


def look_at_proxy(diagnosis: Diagnosis, known: Authorities) -> None:
    """Step ``proxy``: which one is used, of whom, of which VO, until when, signed by whom."""
    found = x509_proxy()
    named = os.environ.get("X509_USER_PROXY")
    if not found or not found.path.exists():
        where = f"X509_USER_PROXY names {named}, which doesn't exist" if named else (
            f"X509_USER_PROXY is not set, and there is no /tmp/x509up_u{os.geteuid()}")  # fmt: skip
        diagnosis.warn("proxy", f"no X.509 proxy: {where}", f"{_RENEW}, or set X509_USER_PROXY.")
        return
    try:
        content = found.path.read_bytes()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        diagnosis.warn("proxy", f"the proxy {found.path} ({found.where}) can't be read: {why}",
                       "Let the user that runs this read it, and no other.")  # fmt: skip
        return
    _look_at_proxy(diagnosis, known, found, content)


def _look_at_proxy(diagnosis: Diagnosis, known: Authorities, found: X509, content: bytes) -> None:
    where = str(found.path)
    if found.where != where:
        where += f" ({found.where})"
    try:
        chain = read_certificates(content)
    except ValueError:
        chain = []
    key = private_key(content)
    if not chain or key is None:
        what = "private key" if chain else "certificate"
        diagnosis.warn("proxy", f"{where} is not a proxy: there is no {what} in it", f"{_RENEW}.")
        return
    owner = next((each for each in chain if not is_proxy(each)), chain[-1])
    start, end = validity(chain)
    voms = voms_of(chain)
    details: dict[str, Any] = {
        "path": str(found.path), "where": found.where, "dn": dn(owner.subject),
        "issuer": dn(owner.issuer), "starts": start, "expires": end,
        "vo": voms.vo if voms else None, "fqans": voms.fqans if voms else [],
        "voms_expires": voms.end if voms else None,
    }  # fmt: skip
    whose = f"the proxy {where} of {dn(owner.subject)}"
    now = time.time()
    if end < now:
        diagnosis.warn("proxy", f"{whose} expired {span(now - end)} ago, on {moment(end)}",
                       f"{_RENEW}.", **details)  # fmt: skip
    elif start > now:
        diagnosis.warn(
            "proxy",
            f"{whose} is not valid before {moment(start)}, in {span(start - now)}, by the clock"
            f" of this machine: {moment(now)}",
            f"{_CLOCK}, or that of the machine where the proxy was made.",
            **details,
        )
    elif chain[0].public_key() != key.public_key():
        diagnosis.warn("proxy", f"{whose}: key and certificate don't belong together",
                       f"{_RENEW}.", **details)  # fmt: skip
    elif known.found and not known.signed(owner):
        diagnosis.warn(
            "proxy",
            f"{whose}: its CA {dn(owner.issuer)} is not in {known.folder}",
            "Use a certificate of a CA that the grid trusts, or add the CA to X509_CERT_DIR;"
            " the server must know it, too.",
            **details,
        )
    else:
        of_vo = f", VO {voms.vo} ({', '.join(voms.fqans)})" if voms else ", no VO"
        diagnosis.ok("proxy", f"{where}: {dn(owner.subject)}{of_vo}, until {moment(end)}",
                     **details)  # fmt: skip
    if voms and voms.end < now < end:
        diagnosis.warn("VO", f"the attributes of the VO {voms.vo} in {where} expired"
                       f" {span(now - voms.end)} ago", f"{_RENEW}.")  # fmt: skip
    if (mode := found.path.stat().st_mode & 0o777) & 0o077:
        diagnosis.warn(
            "proxy's mode",
            f"{found.path} has mode {mode:04o}: others than its owner may use the proxy",
            f"chmod 600 {found.path}",
        )
