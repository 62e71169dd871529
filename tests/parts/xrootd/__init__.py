"""Real servers of the grid, as plain processes, for tests: XRootD with X.509 or tokens, S3.

    pki = Pki(folder)
    with gsi_origin(pki) as server:
        url = server.put(path)
        ... X509_USER_PROXY=pki.proxy("alice") X509_CERT_DIR=pki.ca_folder

`python3 tests/parts up xrootd` installs what they need.
"""

from .bucket import Bucket, s3
from .commands import GridError
from .pki import VO, Pki
from .server import Server
from .servers import (
    Redirector,
    XRootD,
    gsi_origin,
    plain_origin,
    proxy_server,
    redirector,
    token_origin,
    vo_origin,
)
from .voms import Voms

__all__ = [
    "VO",
    "Bucket",
    "GridError",
    "Pki",
    "Redirector",
    "Server",
    "Voms",
    "XRootD",
    "gsi_origin",
    "plain_origin",
    "proxy_server",
    "redirector",
    "s3",
    "token_origin",
    "vo_origin",
]
