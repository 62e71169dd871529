"""Open a file as a training does, in a process of its own: XRootD keeps credentials per process.

Prints a line of JSON for each thing that is found, so that what came before a hang is known.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mlaas4hep.sources.names import scheme_of


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def _ask_xrootd(url: str, seconds: int) -> bool:
    import XRootD.client
    from XRootD.client.flags import QueryCode

    client: Any = XRootD.client
    file = client.File()
    status, _ = file.open(url, timeout=seconds)
    _say(code=status.code, errno=status.errno, message=status.message.strip(),
         server=file.get_property("DataServer"))  # fmt: skip
    if not status.ok:
        return False
    status, info = file.stat(timeout=seconds)
    size = info.size if status.ok else None
    status, head = file.read(0, 64, timeout=seconds)
    _say(size=size, head=(head or b"").hex() if status.ok else None)
    server = client.FileSystem(f"root://{file.get_property('DataServer')}")
    status, stats = server.query(QueryCode.STATS, "i", timeout=seconds)
    if status.ok:
        _say(stats=stats.decode(errors="replace"))
    return True


def _ask_bucket(url: str, seconds: int) -> bool:
    import botocore.exceptions
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    config = Config(connect_timeout=4, read_timeout=seconds, retries={"max_attempts": 0})
    errors = botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
    try:
        found = session.get_credentials()
        key = found.get_frozen_credentials().access_key if found else None  # may ask a service
    except (*errors, OSError) as error:
        _say(refused=str(error))
        return False
    if not key:
        config = config.merge(Config(signature_version=botocore.UNSIGNED))
    try:
        client = session.create_client("s3", config=config)
    except (*errors, ValueError) as error:
        _say(failure=str(error))
        return False
    _say(endpoint=client.meta.endpoint_url, region=client.meta.region_name)
    _say(key=key, method=found.method if found else None)
    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range="bytes=0-63")
        total = answer.get("ContentRange", "").rpartition("/")[2]
        _say(size=int(total or answer["ContentLength"]), head=answer["Body"].read(64).hex())
    except botocore.exceptions.ClientError as error:
        said, head = error.response["Error"], error.response["ResponseMetadata"]["HTTPHeaders"]
        _say(code=said["Code"], said=said.get("Message", ""),
             theirs=said.get("Region") or head.get("x-amz-bucket-region"))  # fmt: skip
        return False
    except botocore.exceptions.BotoCoreError as error:
        _say(failure=str(error))
        return False
    return True


def _open(name: str) -> None:
    from mlaas4hep.core.errors import DataError
    from mlaas4hep.sources.opening import open_file
    from mlaas4hep.sources.root import tree_names

    try:
        with open_file(name, explained=False) as file:
            _say(trees=tree_names(file))
    except DataError as error:
        _say(error=error.message, remedy=error.remedy)


def main() -> None:
    """Entry point: a name, and the seconds that each request may take."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    ask = {"root": _ask_xrootd, "roots": _ask_xrootd, "s3": _ask_bucket}.get(scheme_of(name))
    try:
        if not ask or ask(name, seconds):
            _open(name)
    except ImportError as error:
        _say(missing=str(error))


if __name__ == "__main__":
    main()
