"""A file in a bucket (S3): the endpoint, the credentials, and the service's own error codes."""

from __future__ import annotations

import os
import ssl
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mlaas4hep.core.units import size
from mlaas4hep.sources.doctor.content import (
    attempt,
    look_at_head,
    look_at_packages,
    look_at_trees,
)
from mlaas4hep.sources.doctor.secure import secure
from mlaas4hep.sources.doctor.steps import Diagnosis, connect

_SECONDS = 15
_SET = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials"


def diagnose_bucket(diagnosis: Diagnosis, url: str) -> None:
    """All steps for a file at s3://BUCKET/KEY."""
    parts = urlsplit(url)
    bucket, key = parts.netloc, parts.path[1:]
    if not bucket or not key:
        diagnosis.fail(
            "address", f"{diagnosis.name} is not s3://BUCKET/KEY", "Name bucket and key."
        )
    found = attempt(url, _SECONDS)
    look_at_packages(diagnosis, found)
    if endpoint := found.get("endpoint"):
        _reach(diagnosis, str(endpoint))
    _look_at_credentials(diagnosis, found)
    if "refused" in found:
        diagnosis.fail("credentials", f"no credentials for S3: {found['refused']}",
                       "Look at AWS_PROFILE and its files, or AWS_ROLE_ARN and"
                       " AWS_WEB_IDENTITY_TOKEN_FILE.")  # fmt: skip
    if "code" in found:
        _explain(diagnosis, bucket, key, found)
    if "size" not in found:
        why = found.get("failure", f"no answer within {_SECONDS} s")
        diagnosis.fail("server", f"{endpoint or 's3://'} can't be asked: {why}",
                       "Look at AWS_ENDPOINT_URL, and whether the service runs.",
                       silent=True)  # fmt: skip
    diagnosis.ok("file", f"{bucket} has it, {size(int(found['size']))}", size=found["size"])
    look_at_head(diagnosis, bytes.fromhex(found["head"]), found["size"])
    look_at_trees(diagnosis, found)


def _reach(diagnosis: Diagnosis, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    host, secured = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if secured else 80)
    diagnosis.ok("endpoint", f"{endpoint} (AWS_ENDPOINT_URL, or AWS itself)", endpoint=endpoint)
    connection = connect(diagnosis, host, port)
    if secured:
        bundle = os.environ.get("AWS_CA_BUNDLE")
        try:
            context = ssl.create_default_context(cafile=bundle)
        except OSError as error:
            diagnosis.fail("TLS", f"AWS_CA_BUNDLE names {bundle}: {error.strerror or error}",
                           "Name a file with CA certificates, or unset it.")  # fmt: skip
        ready = [connection]
        secure(
            diagnosis,
            host,
            lambda: ready.pop() if ready else connect(diagnosis, host, port),
            context,
            bundle or "the CAs of botocore",
        ).close()
    connection.close()


def _look_at_credentials(diagnosis: Diagnosis, found: dict[str, Any]) -> None:
    if "key" not in found:
        return
    if not found["key"]:
        diagnosis.warn("credentials", "no credentials for S3: neither in AWS_ACCESS_KEY_ID, a"
                       " profile (AWS_PROFILE), nor by web identity", f"{_SET}.")  # fmt: skip
        return
    diagnosis.ok("credentials", f"access key {found['key']}, found by {found['method']}",
                 key=found["key"], method=found["method"], region=found.get("region"))  # fmt: skip


def _explain(diagnosis: Diagnosis, bucket: str, key: str, found: dict[str, Any]) -> NoReturn:
    code, said = str(found["code"]), str(found.get("said", ""))
    mine, theirs = found.get("region"), found.get("theirs")
    key_id = f"the access key {found.get('key')}"
    if code in ("InvalidAccessKeyId", "InvalidClientTokenId"):
        diagnosis.fail("credentials", f"the service doesn't know {key_id}", f"{_SET} that it gave.")
    if code == "SignatureDoesNotMatch":
        diagnosis.fail("credentials", f"the secret of {key_id} is wrong",
                       "Set AWS_SECRET_ACCESS_KEY to the one that belongs to the key.")  # fmt: skip
    if code in ("ExpiredToken", "InvalidToken", "ExpiredTokenException"):
        diagnosis.fail("credentials", f"the session of {key_id} has ended ({code})",
                       "Get new credentials, with AWS_SESSION_TOKEN.")  # fmt: skip
    if code == "RequestTimeTooSkewed":
        diagnosis.fail("clock", f"the service's clock differs too much from this machine's: {said}",
                       "Set it right: timedatectl shows whether it is synchronised.")  # fmt: skip
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect", "301"):
        diagnosis.fail("region", f"the bucket {bucket} is not in the region {mine}"
                       + (f" but in {theirs}" if theirs else f" ({said})"),
                       f"Set AWS_DEFAULT_REGION={theirs or 'its region'}.")  # fmt: skip
    if code == "NoSuchBucket":
        diagnosis.fail("bucket", f"there is no bucket {bucket}",
                       "Correct the bucket, or set AWS_ENDPOINT_URL to its service.")  # fmt: skip
    if code in ("NoSuchKey", "404"):
        diagnosis.fail("file", f"no such file in the bucket {bucket}: {key}", "Correct the key.")
    if code in ("AccessDenied", "403"):
        diagnosis.blame("credentials")
        diagnosis.fail("access", f"{key_id} may not read {key} in the bucket {bucket}",
                       "Let the bucket's owner allow s3:GetObject on it.")  # fmt: skip
    diagnosis.fail("server", f"the service answers {code}: {said}", "Try again later, or tell who"
                   " runs it.")  # fmt: skip
