"""Real servers of the grid, as plain processes, for tests: XRootD with X.509 or tokens, S3.

    pki = Pki(folder)
    with gsi_origin(pki) as server:
        url = server.put(path)
        ... X509_USER_PROXY=pki.proxy("alice") X509_CERT_DIR=pki.ca_folder

`python3 tests/parts up xrootd` installs what they need.
"""

from .bucket import Bucket, s3
from .commands import GridError
from .pki import Pki
from .server import Server
from .servers import (
    Redirector,
    XRootD,
    gsi_origin,
    plain_origin,
    redirector,
    token_origin,
    vo_origin,
)

__all__ = [
    "Bucket",
    "GridError",
    "Pki",
    "Redirector",
    "Server",
    "XRootD",
    "gsi_origin",
    "plain_origin",
    "redirector",
    "s3",
    "token_origin",
    "vo_origin",
]
