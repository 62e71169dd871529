"""Servers of the grid for the tests of what is said about them, each started once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parts.xrootd import Bucket, Pki, Redirector, Server, gsi_origin, redirector, s3, token_origin


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="session")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Of an authority that no server knows."""
    return Pki(tmp_path_factory.mktemp("pki") / "other", "Other CA")


@pytest.fixture(scope="session")
def gsi(pki: Pki, small_files: list[Path]) -> Iterator[Server]:
    """With X.509, for alice; it has a.root and files that are broken."""
    with gsi_origin(pki) as server:
        _fill(server, small_files[0])
        yield server


@pytest.fixture(scope="session")
def tokens(pki: Pki, small_files: list[Path]) -> Iterator[Server]:
    """With tokens, by root:// and https://; the same files."""
    with token_origin(pki) as server:
        _fill(server, small_files[0])
        _wait_for(int(server.https.split(":")[2].partition("/")[0]))
        yield server


@pytest.fixture(scope="session")
def redirecting(pki: Pki) -> Iterator[Redirector]:
    with redirector(pki) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(pki: Pki) -> Iterator[Bucket]:
    with s3(pki) as server:
        yield server


def _wait_for(port: int) -> None:
    """The port for HTTPS is opened a moment after the one that the server is waited for by."""
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _fill(server: Server, file: Path) -> None:
    server.put(file)
    content = file.read_bytes()
    (server.data / "half.root").write_bytes(content[: len(content) // 2])
    (server.data / "page.root").write_bytes(b"<!DOCTYPE html><html>" + bytes(100))
    (server.data / "empty.root").touch()


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials are found but those that a test gives."""
    for name in os.environ:
        if (
            name.startswith(("X509_", "BEARER_", "AWS_", "XrdSec", "XRD_"))
            or "proxy" in name.lower()
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
