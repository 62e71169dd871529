"""What a cache does when its surroundings fail: run by `make soak`, as it takes minutes.

Whatever a reader gets is right, or an error within its time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grid.cache_process import Cache
from grid.test_cache import put
from parts.xrootd import Pki, gsi_origin, plain_origin

pytestmark = pytest.mark.grid
MB = 1_000_000


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A disk of that size, for everybody."""
    folder = Path(tempfile.mkdtemp(prefix="mlaas4hep-disk-"))
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "none", folder]
    subprocess.run(words, check=True, timeout=60)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=60)
        folder.rmdir()


def read_or_refused(cache: Cache, path: str, content: bytes) -> bool:
    """Whether it could be read; then it is right."""
    try:
        found = cache.read(path, seconds=240)
    except OSError:
        return False
    assert found == content, f"{path}: {len(found)} bytes, not the {len(content)} of the origin"
    return True


def test_its_disk_is_full(pki: Pki) -> None:
    with plain_origin() as origin:
        content = {f"full{n}.root": os.urandom(9 * MB) for n in range(4)}
        paths = {put(origin, name, found): found for name, found in content.items()}
        settings = {"xrootd_cache_bytes": 1 << 30}
        with (
            small_disk(1200) as disk,
            Cache(pki, origin, xrootd_cache_folder=disk / "kept", **settings) as cache,
        ):
            with (disk / "others").open("wb") as others:  # another program fills the disk
                os.posix_fallocate(others.fileno(), 0, shutil.disk_usage(disk).free - 16 * MB)
            read = [read_or_refused(cache, path, found) for path, found in paths.items()]
            again = [read_or_refused(cache, path, found) for path, found in paths.items()]
            print(f"a disk with room for 16 MB, four files of 9 MB: read {read}, again {again}")
            assert read[0]
            assert cache.ask("/healthz")[0] == 200


def test_its_origin_hangs(pki: Pki) -> None:
    """What is cached is served; all else ends with an error, and /healthz answers meanwhile."""
    with plain_origin() as origin:
        path = put(origin, "hangs.root", os.urandom(MB))
        other = put(origin, "not-cached.root", b"other")
        content = (origin.data / "hangs.root").read_bytes()
        with Cache(pki, origin) as cache:
            assert cache.fresh(path) == "same"
            assert cache.read(path) == content
            origin.pause()
            try:
                begun = time.monotonic()
                served = read_or_refused(cache, path, content)
                cached = time.monotonic() - begun
                assert cache.fresh(path) == "unknown"
                assert cache.ask("/healthz")[0] == 200
                assert not read_or_refused(cache, other, b"other")
                print(f"a hung origin: cached file served {served} in {cached:.0f} s")
                assert served
            finally:
                origin.resume()
            assert cache.read(other) == b"other"


def test_its_origin_is_of_another_authority(pki: Pki, tmp_path: Path) -> None:
    others = Pki(tmp_path / "others", "Other CA")
    with gsi_origin(others) as origin:
        path = put(origin, "theirs.root", b"theirs")
        cache = Cache(pki, origin)
        cache.place("proxy.pem", pki.proxy("alice").read_bytes())
        with cache:
            assert not read_or_refused(cache, path, b"theirs")
            code, said = cache.ask("/readyz")
            assert code == 503
            assert f"localhost:{origin.port}" in said
