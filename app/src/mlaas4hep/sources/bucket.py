"""Files in buckets (S3): s3://BUCKET/KEY."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache, partial
from threading import Semaphore, Thread
from time import monotonic
from typing import Any, TypeVar

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ProxyConnectionError,
    SSLError,
)

from mlaas4hep.core.errors import DataError, FileError, RefusedError
from mlaas4hep.core.units import size
from mlaas4hep.sources.columns import Place
from mlaas4hep.sources.credentials import Bearer
from mlaas4hep.sources.remote import HEAD_BYTES, PassingError, Patience, ReplacedError, Traffic
from mlaas4hep.sources.web import AT_ONCE, BUSY, parts, retry_after, unreached

T = TypeVar("T")
_LISTING_SECONDS = 300
"""For all pages of names of a folder."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_BUSY_CODES = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")
_SET = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or AWS_ROLE_ARN and"
    " AWS_WEB_IDENTITY_TOKEN_FILE; AWS_ENDPOINT_URL names the service."
)


class BucketConnection:
    """A file in a bucket; ranges are asked for side by side, each of the version that was opened.

    Endpoint, region and credentials are those that every tool of AWS finds (AWS_..., ~/.aws, a web
    identity); botocore renews the ones that expire. Without any, the request is not signed, as
    public buckets take it.
    """

    def __init__(self, url: str, patience: Patience, traffic: Traffic) -> None:
        self._bucket, _, self._key = url.split("://", 1)[1].partition("/")
        if not self._bucket or not self._key:
            raise DataError(f"{url} names no file", "Write s3://BUCKET/KEY.")
        self._url, self._patience, self._traffic = url, patience, traffic
        self._version: str | None = None
        self.size: int | None = None
        self.token: Bearer | None = None
        try:
            self._client, self._is_signed = _client(patience, _environment())
        except (BotoCoreError, ValueError) as error:
            raise RefusedError(f"{url} can't be read: {error}", _SET) from error
        self._turns = Semaphore(AT_ONCE)
        ((self.head,),) = self._all([[(0, HEAD_BYTES)]])
        self.versioned = bool(self._version)

    def confirm(self) -> None:
        """Each read says so itself."""

    def close(self) -> None:
        """Nothing is open: other files use the same connections."""

    def read(self, ranges: Sequence[Place]) -> list[bytes]:
        """The bytes of each range."""
        return [b"".join(each) for each in self._all(parts(ranges))]

    def _all(self, split: list[list[Place]]) -> list[list[bytes]]:
        """All places, side by side; PassingError where that takes too long.

        botocore has a deadline for each piece that comes, but none for all of an answer.
        """
        asked = [_start(partial(self._get, place), self._turns) for each in split for place in each]
        rounds = -(-len(asked) // AT_ONCE)
        seconds = self._patience.connect + self._patience.request * rounds
        end = monotonic() + seconds
        try:
            found = iter([each.result(max(0, end - monotonic())) for each in asked])
        except TimeoutError:
            raise PassingError(f"no answer within {seconds:g} s") from None
        finally:
            for each in asked:
                each.cancel()
        return [[next(found) for _ in each] for each in split]

    def _get(self, place: Place) -> bytes:
        start, stop = place
        of_version = {"IfMatch": self._version} if self._version else {}
        self._traffic.requests += 1
        try:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{stop - 1}", **of_version
            )
            self._check(answer, place)
            body: bytes = answer["Body"].read()
        except ClientError as error:
            raise self._understood(error, place) from error
        except SSLError as error:
            raise RefusedError(
                f"{self._url} can't be read: no connection by TLS: {error}",
                "Name the file with the service's CA in AWS_CA_BUNDLE.",
            ) from error
        except (EndpointConnectionError, ProxyConnectionError) as error:
            raise _unconnected(error) from error
        except ConnectTimeoutError as error:
            raise PassingError(f"no connection within {self._patience.connect:g} s") from error
        except (HTTPClientError, IncompleteReadError) as error:
            raise PassingError(f"the connection failed: {error}") from error
        except BotoCoreError as error:
            raise RefusedError(f"{self._url} can't be read: {error}", _SET) from error
        return body

    def _check(self, answer: dict[str, Any], place: Place) -> None:
        """Whether the range that comes is the one that was asked for; note size and version."""
        found = _RANGE.fullmatch(answer.get("ContentRange", ""))
        if not found:
            raise DataError(
                f"{self._url} can't be read: {self._client.meta.endpoint_url} doesn't answer range"
                " requests",
                "Copy the file here, or ask for it from a service that does.",
            )
        first, last, length = map(int, found.groups())
        if self._version is None:
            self.size, self._version = length, answer.get("ETag", "")
        elif length != self.size:
            raise ReplacedError(f"another version of {size(length)}")
        if (first, last + 1) != (place[0], min(place[1], length)):
            raise OSError(f"bytes {first} to {last + 1} came for {place[0]} to {place[1]}")

    def _understood(self, error: ClientError, place: Place) -> Exception:
        """What the service's own code means."""
        code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        told = f"{self._client.meta.endpoint_url} answers {code}{said and ': '}{said}"
        if code == "NoSuchBucket":
            return RefusedError(
                f"{self._url} can't be read: there is no bucket {self._bucket}",
                "Check the name, and AWS_ENDPOINT_URL.",
            )
        if status == 404:
            return FileNotFoundError(self._url)
        if status == 412:
            return ReplacedError("another version")
        if status == 416:
            if self._version is None:
                return FileError(f"{self._url} is empty: 0 bytes", "Give a file with events.")
            return OSError(f"the file ends before byte {place[0]}")
        if status in BUSY or code in _BUSY_CODES:
            headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
            return PassingError(told, retry_after(headers.get("retry-after", "")))
        if code in _ELSEWHERE:
            return RefusedError(
                f"{self._url} can't be read: the bucket is in another region",
                f"Set AWS_DEFAULT_REGION to that of the bucket. {told}",
            )
        if status in (400, 401, 403):
            why = told if self._is_signed else f"{told} (no credentials were found)"
            return RefusedError(f"{self._url} can't be read: {why}", _SET)
        return OSError(f"unexpected answer: {status} {told}")


def _start(work: Callable[[], T], turns: Semaphore) -> Future[T]:
    """Do it in a thread that, other than those of a pool, no process waits for at its end."""
    asked: Future[T] = Future()

    def run() -> None:
        with turns:
            if not asked.set_running_or_notify_cancel():
                return
            try:
                asked.set_result(work())
            except BaseException as error:
                asked.set_exception(error)

    Thread(target=run, daemon=True).start()
    return asked


def list_folder(url: str, patience: Patience) -> list[str]:
    """Names of the objects whose keys begin with that URL's, up to the next slash."""
    try:
        return _start(partial(_list, url, patience), Semaphore()).result(_LISTING_SECONDS)
    except TimeoutError:
        raise OSError(f"it takes longer than {_LISTING_SECONDS} s") from None
    except (EndpointConnectionError, ProxyConnectionError) as error:
        raise _unconnected(error) from error
    except (HTTPClientError, IncompleteReadError) as error:
        raise PassingError(f"the connection failed: {error}") from error


def _list(url: str, patience: Patience) -> list[str]:
    bucket, _, prefix = url.split("://", 1)[1].partition("/")
    client, _ = _client(patience, _environment())
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, Delimiter="/"
    )
    keys: list[str] = []
    end = monotonic() + _LISTING_SECONDS
    for page in pages:
        keys += [each["Key"] for each in page.get("Contents", ())]
        if monotonic() > end:
            break  # nobody waits for it any more
    return [key.removeprefix(prefix) for key in keys if key != prefix]


def _unconnected(error: EndpointConnectionError | ProxyConnectionError) -> Exception:
    """Why no connection was made, which botocore's own text doesn't say."""
    cause: BaseException = error.kwargs["error"]
    if "Tunnel connection failed" in str(cause):  # a proxy that doesn't let the host pass
        return OSError(f"the proxy {error.kwargs['proxy_url']} refuses: {cause}")
    while cause.__cause__:
        cause = cause.__cause__
    return unreached(cause)


def _environment() -> tuple[tuple[str, str], ...]:
    """What makes one client differ from another."""
    return tuple(
        sorted(
            (name, value)
            for name, value in os.environ.items()
            if name.startswith("AWS_") or name.lower().endswith("_proxy")
        )
    )


@cache
def _client(patience: Patience, _: tuple[tuple[str, str], ...]) -> tuple[Any, bool]:
    """A client of S3, and whether it signs; it tries once, as further tries are RemoteSource's.

    To make one takes 0.1 s, so the files of an environment share it.
    """
    session = botocore.session.get_session()
    config = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.request,
        max_pool_connections=AT_ONCE,
        retries={"total_max_attempts": 1},
        response_checksum_validation="when_required",
    )
    is_signed = session.get_credentials() is not None
    if not is_signed:
        config = config.merge(Config(signature_version=UNSIGNED))
    return session.create_client("s3", config=config), is_signed
