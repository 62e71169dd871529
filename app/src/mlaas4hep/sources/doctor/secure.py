"""TLS: whether a server's certificate proves who it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from socket import socket

from cryptography import x509

from mlaas4hep.sources.doctor.certificates import judge_names, judge_times, unknown_authority
from mlaas4hep.sources.doctor.steps import PATIENCE, Diagnosis, moment
from mlaas4hep.sources.x509 import dn

_UNKNOWN = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that leads to no CA that is known."""


def secure(
    diagnosis: Diagnosis,
    host: str,
    reach: Callable[[], socket],
    context: ssl.SSLContext,
    trusted: str,
) -> ssl.SSLSocket:
    """Step ``TLS``: a connection in TLS, or the reason why the server isn't trusted.

    ``reach`` makes a connection on which TLS can begin; to learn what is wrong with a certificate
    a second one is needed. ``trusted`` says which CAs the context has.
    """
    connection = reach()
    try:
        secured = context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _UNKNOWN:
            diagnosis.blame("CA folder")
        shown = _shown(host, reach)
        found = None
        if shown and error.verify_code in _UNKNOWN:
            found = unknown_authority(shown, host, trusted)
        elif shown:
            found = judge_times(shown, host) or judge_names(shown, host)
        text = f"the certificate of {host} isn't accepted: {error.verify_message}"
        diagnosis.fail("TLS", *(found or (text, "Tell the site, or name another replica.")))
    except TimeoutError:
        connection.close()
        diagnosis.fail(
            "TLS",
            f"{host} accepts the connection and doesn't answer within {PATIENCE:.0f} s",
            "The server hangs, or its port isn't one for TLS: name another replica, and tell the"
            " site if it stays.",
            silent=True,
        )
    except (OSError, ValueError) as error:
        connection.close()
        diagnosis.fail(
            "TLS",
            f"{host} doesn't speak TLS as it should: {getattr(error, 'reason', None) or error}",
            "Look at scheme and port of the address; if they are right, tell the site.",
        )
    certificate = certificate_of(secured)
    if certificate:
        name, end = dn(certificate.subject), certificate.not_valid_after_utc.timestamp()
        diagnosis.ok("TLS", f"{secured.version()}, {name}, until {moment(end)}",
                     dn=name, issuer=dn(certificate.issuer), expires=end)  # fmt: skip
    return secured


def _shown(host: str, reach: Callable[[], socket]) -> x509.Certificate | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, ValueError), context.wrap_socket(reach(), server_hostname=host) as again:
        return certificate_of(again)
    return None


def certificate_of(connection: ssl.SSLSocket) -> x509.Certificate | None:
    """That of the other end."""
    shown = connection.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown) if shown else None
