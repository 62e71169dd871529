from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grid.cache_process import Cache
from parts.xrootd import Pki, XRootD, gsi_origin, plain_origin, token_origin
from parts.xrootd.commands import GridError
from support.waiting import until

Origins = tuple[XRootD, XRootD]

pytestmark = pytest.mark.grid
READS = """
import sys
from XRootD.client import File
file = File()
file.open(sys.argv[1], timeout=30)
sys.stdout.buffer.write(file.read(0, 100_000, timeout=30)[1])
file.close()
"""


def put(origin: XRootD, name: str, content: bytes) -> str:
    """Its path."""
    file = origin.data / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o644)
    return f"/store/{name}"


@pytest.fixture(scope="module")
def origins(pki: Pki) -> Iterator[tuple[XRootD, XRootD]]:
    with gsi_origin(pki) as gsi, plain_origin() as plain:
        yield gsi, plain


@pytest.fixture(scope="module")
def cache(pki: Pki, origins: Origins) -> Iterator[Cache]:
    server = Cache(pki, *origins)
    server.place("proxy.pem", pki.proxy("alice").read_bytes())
    with server:
        yield server


def test_it_reads_with_its_proxy_and_counts_hits_and_misses(cache: Cache) -> None:
    content = os.urandom(700_000)
    path = put(cache.origins[0], "counted.root", content)
    assert (cache.ask("/healthz")[0], cache.ask("/readyz")[0]) == (200, 200)
    miss = cache.read_bytes("miss")

    assert cache.read(path) == content
    cache.until_read_bytes("miss", miss + 1)
    hit, miss = cache.read_bytes("hit"), cache.read_bytes("miss")
    assert cache.read(path) == content

    cache.until_read_bytes("hit", hit + len(content))
    assert cache.read_bytes("miss") == miss
    assert cache.metric("mlaas4hep_xrootd_cache_disk_bytes") >= len(content)


def test_a_file_of_one_origin_is_never_given_for_anothers(cache: Cache) -> None:
    for number, origin in enumerate(cache.origins):
        put(origin, "same.root", b"of %d" % number)

    assert [cache.read("/store/same.root", number) for number in (0, 1)] == [b"of 0", b"of 1"]


@pytest.mark.parametrize(
    "path",
    [
        "/root://localhost:1//store/counted.root",
        "/etc/passwd",
        "/store/../etc/passwd",
        "/storey/x.root",
    ],
)
def test_what_is_not_listed_is_refused(cache: Cache, path: str) -> None:
    with pytest.raises(OSError, match=r"\[30(10|00)\]"):
        cache.read(path)


def test_another_folder_that_begins_alike_is_refused(
    pki: Pki, origins: tuple[XRootD, XRootD]
) -> None:
    put(origins[1], "open/x.root", b"open")
    put(origins[1], "open-not/x.root", b"not")
    with Cache(pki, origins[1], xrootd_paths="/store/open/") as cache:
        assert cache.read("/store/open/x.root") == b"open"
        with pytest.raises(OSError, match=r"\[3010\]"):
            cache.read("/store/open-not/x.root")
        assert cache.fresh("/store/open-not/x.root") == "404"


def test_a_replaced_file_is_evicted_also_half_cached(cache: Cache) -> None:
    origin = cache.origins[0]
    path = put(origin, "replaced.root", os.urandom(3_000_000))
    cache.fresh(path)
    words = [sys.executable, "-c", READS, f"root://localhost:{cache.port}/{path}"]
    found = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    assert found == (origin.data / "replaced.root").read_bytes()[:100_000]
    kept = cache.kept(origin, path)
    until("some of it is on the disk", lambda: kept.exists() and kept.stat().st_blocks > 0)
    assert kept.stat().st_blocks * 512 < 1_000_000
    assert cache.fresh(path) == "same"

    new = os.urandom(2_000_000)
    put(origin, "replaced.root", new)
    assert cache.fresh(path) == "evicted"

    assert cache.read(path) == new
    assert cache.fresh(path) == "same"
    assert cache.metric("mlaas4hep_xrootd_cache_evicted_total") >= 1


def test_without_its_origin_it_serves_what_it_has(pki: Pki) -> None:
    with gsi_origin(pki) as origin:
        path = put(origin, "kept.root", b"kept" * 1000)
        put(origin, "other.root", b"other")
        cache = Cache(pki, origin)
        cache.place("proxy.pem", pki.proxy("alice").read_bytes())
        with cache:
            cache.fresh(path)
            assert cache.read(path) == b"kept" * 1000
            origin.stop()
            assert cache.read(path) == b"kept" * 1000
            with pytest.raises(OSError, match=r"\[3005\]|\[3012\]|refused"):
                cache.read("/store/other.root")
            assert cache.fresh(path) == "unknown"
            assert cache.ask("/healthz")[0] == 200


def test_a_proxy_that_expired_and_was_renewed(pki: Pki, origins: Origins) -> None:
    path = put(origins[0], "later.root", b"later")
    cache = Cache(pki, origins[0])
    cache.place("proxy.pem", pki.proxy("alice", life=-10).read_bytes())
    with cache:
        code, said = cache.ask("/readyz")
        assert code == 503
        assert "credential" in said
        with pytest.raises(OSError, match=r"\[3030\]|Auth"):
            cache.read(path)

        cache.place("proxy.pem", pki.proxy("alice").read_bytes())

        assert cache.read(path) == b"later"


def test_killed_and_started_again_it_reads_what_is_right(
    pki: Pki, origins: tuple[XRootD, XRootD]
) -> None:
    content = os.urandom(5_000_000)
    path = put(origins[1], "killed.root", content)
    with Cache(pki, origins[1]) as cache:
        assert cache.read(path) == content
        cache.kill()
        cache.start()
        assert cache.read(path) == content


def test_it_ends_when_its_xrootd_has_ended(pki: Pki, origins: Origins) -> None:
    with Cache(pki, origins[1]) as cache:
        process = cache.programs[0].process
        assert process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert process.wait(20) is not None


@pytest.mark.hostile
def test_each_folder_of_groups_has_a_door_that_opens_nothing_else(
    pki: Pki, origins: tuple[XRootD, XRootD]
) -> None:
    """Also not what begins alike, which XRootD's tokens open."""
    for name in ("a/x.root", "ab/x.root", "a.root", "b/x.root"):
        put(origins[1], f"groups/{name}", name.encode())
    folders = {"cms": ["/store/groups/a/"], "*": ["/store/groups/b/"]}
    with Cache(pki, origins[1], data_paths=json.dumps(folders)) as cache:
        for number, (mine, others) in enumerate([("a", "b"), ("b", "a")]):
            path = f"/store/groups/{mine}/x.root"
            assert cache.read(path, number) == f"{mine}/x.root".encode()
            assert json.loads(cache.ask(f"/fresh?door={number}&path={path}")[1])["version"]
            names = (f"{others}/x.root", f"{mine}/../{others}/x.root", "ab/x.root", "a.root")
            for name in names:
                with pytest.raises(OSError, match=r"\[30(10|00)\]"):
                    cache.read(f"/store/groups/{name}", number)
                assert cache.fresh(f"/store/groups/{name}", number) == "404"


def test_folders_of_groups_lie_below_those_of_the_cache(
    pki: Pki, origins: tuple[XRootD, XRootD]
) -> None:
    cache = Cache(pki, origins[1], data_paths='{"cms": ["/eos/"]}')
    with pytest.raises(GridError, match="data_paths has /eos/, which is below none"):
        cache.start()
    cache.close()


def test_it_reads_at_an_origin_with_a_bearer_token(pki: Pki) -> None:
    with token_origin(pki) as origin:
        path = put(origin, "bearer.root", b"bearer")
        cache = Cache(pki, origin)
        cache.place("token", pki.token().encode())
        with cache:
            assert cache.read(path) == b"bearer"
            assert cache.ask("/readyz")[0] == 200
