"""Set-ups of S3 that are broken in one way each, before a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.sources.doctor import diagnose
from parts.xrootd import Bucket, Pki
from sources.doctor.answers import answering, serving
from sources.doctor.blame import blamed

pytestmark = pytest.mark.grid


@pytest.fixture
def url(bucket: Bucket, small_files: list[Path], monkeypatch, tmp_path: Path) -> str:
    """A file in the bucket, with the credentials to read it."""
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return bucket.put(small_files[0])


def test_all_is_well(url: str, bucket: Bucket) -> None:
    found = diagnose(url)
    assert not found.failed, found.problem
    assert found.detail("endpoint", "endpoint") == bucket.endpoint
    assert found.detail("credentials", "key") == bucket.env["AWS_ACCESS_KEY_ID"]
    assert bucket.env["AWS_SECRET_ACCESS_KEY"] not in str(found.document())


def test_no_credentials(url: str, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    blamed(diagnose(url), "credentials", "no credentials for S3", "AWS_ACCESS_KEY_ID")


def test_a_wrong_key(url: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    blamed(diagnose(url), "credentials", "doesn't know the access key nobody")


def test_a_wrong_secret(url: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = diagnose(url)
    blamed(found, "credentials", "the secret of the access key alice is wrong")


def test_a_wrong_bucket_or_file(url: str) -> None:
    blamed(diagnose("s3://data/none.root"), "file", "no such file in the bucket data: none.root")
    blamed(diagnose("s3://missing/a.root"), "bucket", "there is no bucket missing")
    blamed(diagnose("s3://other/a.root"), "access", "alice may not read a.root in the bucket other")
    blamed(diagnose("s3://data"), "address", "s3://BUCKET/KEY")


def test_over_tls(url: str, bucket: Bucket, pki: Pki, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.https)
    blamed(diagnose(url), "TLS", pki.subject)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pki.ca))
    found = diagnose(url)
    assert not found.failed, found.problem


def test_a_bundle_of_authorities_that_is_missing(url: str, bucket: Bucket, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.https)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none.pem")
    blamed(diagnose(url), "TLS", "AWS_CA_BUNDLE names /none.pem: No such file")


def test_a_profile_and_a_web_identity_that_are_missing(url: str, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/none")
    blamed(diagnose(url), "credentials", "/none", "AWS_WEB_IDENTITY_TOKEN_FILE")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    blamed(diagnose(url), "credentials", "nobody")


def test_an_endpoint_where_nobody_listens(url: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    blamed(diagnose(url), "connection", "no connection to 127.0.0.1, port 9")


@pytest.mark.parametrize(
    ("code", "more", "what", "says"),
    [
        ("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>", "region",
         "not in the region us-east-1 but in eu-west-1"),
        ("ExpiredToken", "", "credentials", "the session of the access key alice has ended"),
        ("RequestTimeTooSkewed", "", "clock", "clock differs"),
        ("SlowDown", "", "server", "answers SlowDown"),
    ],
)  # fmt: skip
def test_what_aws_answers(
    url: str, monkeypatch, code: str, more: str, what: str, says: str
) -> None:
    """SeaweedFS takes any region and time; these are the errors of AWS's documentation."""
    body = f"<Error><Code>{code}</Code><Message>So it is.</Message>{more}</Error>"
    with serving(answering(400, body.encode())) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        blamed(diagnose(url), what, says)
