"""What trainings in containers read through the cache: by relay, data proxy and sandbox.

A server of root:// stands for the cache, whose own tests show that it gives what its origin has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from mlaas4hep.core.origins import Cache, Door, doors_of, origins_of
from mlaas4hep.jobs.executors.offline import offline
from mlaas4hep.jobs.executors.relay import proxies, relay
from mlaas4hep.jobs.remote import SOCKET, credential, read_key
from mlaas4hep.sources.names import resolve
from parts.xrootd import XRootD
from support.ports import free_port
from support.remote_data import data_proxy, own_address

ORIGINS = "data.example.org, Other.example.org:1095"
READ = """
import json, sys
from pathlib import Path
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.sources import cached
from mlaas4hep.sources.names import resolve
from mlaas4hep.sources.opening import list_folder
from mlaas4hep.sources.root import RootFile

cached.LOOK_SECONDS = 0
for name in sys.argv[1:]:
    try:
        if name.endswith("/"):
            print(json.dumps(list_folder(name)))
        else:
            with RootFile(resolve(name, "", Path.cwd()), "events") as file:
                print(json.dumps([file.uuid, float(file.read(["x"])["x"].sum())]))
    except MlaasError as error:
        print(json.dumps(str(error)))
"""


class Status(ThreadingHTTPServer):
    """Says of each file what ``answers`` has for it, one by one; the last stays."""

    def __init__(self) -> None:
        super().__init__((own_address(), 0), _Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.asked: list[tuple[int, str]] = []

    def say(self, *states: str, code: int = 200, version: str = "1 1") -> None:
        self.answers = [(code, {"state": s, "reason": "away", "version": version}) for s in states]
        self.asked = []


class _Handler(BaseHTTPRequestHandler):
    server: Status

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append((int(query["door"][0]), query["path"][0]))
        answers = self.server.answers
        code, said = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def status() -> Iterator[Status]:
    with Status() as running:
        thread = Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as found:  # short, as sockets want it
        yield Path(found)


@pytest.fixture(scope="module")
def cache(folder: Path, plain: XRootD, status: Status) -> Iterator[Cache]:
    """The second origin's port leads nowhere."""
    settings = {
        "xrootd_cache": f"{own_address()}:{plain.port}",
        "xrootd_origins": ORIGINS,
        "xrootd_cache_status_port": str(status.server_port),
    }
    with data_proxy(folder, "", **settings):
        doors = tuple(doors_of(origins_of(ORIGINS), ()))
        yield Cache(settings["xrootd_cache"], status.server_port, doors)


def said(
    folder: Path,
    cache: Cache,
    *words: str,
    code: str = READ,
    mine: Sequence[Door] | None = None,
    wanted: Sequence[Door] | None = None,
) -> tuple[list, str]:
    """What a training prints, as lines of JSON, and its warnings.

    ``mine`` are the doors that it may use, ``wanted`` those that it tries.
    """
    mine = cache.doors if mine is None else mine
    wanted = mine if wanted is None else wanted
    line = credential(read_key(folder), "luca_1", time.time() + 600, cache.pass_for(mine))
    first = free_port()
    ports = cache.tunnels(wanted, first)
    port = free_port()
    ended = subprocess.run(
        [
            *offline(sys.executable, loopback=True),
            *relay(sys.executable, folder / SOCKET, line, port, ports),
            *["sh", "-c", '"$@"; kill 0', "sh", sys.executable, "-c", code, *words],
        ],
        env=os.environ
        | proxies(port)
        | cache.environment(wanted, first)
        | {"XRD_CONNECTIONRETRY": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    return [json.loads(each) for each in ended.stdout.splitlines()], ended.stderr


@pytest.mark.grid
def test_files_of_listed_servers_are_read_and_no_others(
    folder: Path, cache: Cache, plain: XRootD, status: Status, small_files: list[Path]
) -> None:
    plain.put(small_files[0], "cached/a.root")
    status.say("same")
    found, warned = said(
        folder,
        cache,
        "root://data.example.org//store/cached/a.root",
        "xroot://DATA.example.org:1094//store/cached/a.root",
        "/store/cached/a.root",
        "root://data.example.org//store/cached/",
        f"root://localhost:{plain.port}//store/cached/a.root",
        "root://other.example.org:1095//store/cached/a.root",
    )
    assert found[0] == found[1] == found[2]
    assert found[0][1]
    assert found[3] == ["a.root"]
    assert "trainings reach no root:// servers but data.example.org:1094, Other" in found[4]
    assert "root://other.example.org:1095//store/cached/a.root can't be read" in found[5]
    assert not warned
    assert set(status.asked) == {(0, "/store/cached/a.root"), (1, "/store/cached/a.root")}


@pytest.mark.grid
def test_a_file_that_was_replaced_is_named(
    folder: Path, cache: Cache, plain: XRootD, status: Status, small_files: list[Path]
) -> None:
    """At opening it is read anew; while it is read, that is an error."""
    plain.put(small_files[0], "cached/b.root")
    url = "root://data.example.org//store/cached/b.root"
    status.say("evicted", "same")
    found, warned = said(folder, cache, url)
    assert found[0][1]
    assert f"{url} was replaced at its server: it is read anew" in warned
    status.say("same", "same", "evicted")
    [error], _ = said(folder, cache, url)
    assert f"{url} was replaced while it was read" in error
    status.say("same", "same")
    status.answers.append((200, {"state": "same", "reason": "", "version": "2 2"}))
    [error], _ = said(folder, cache, url)
    assert f"{url} was replaced while it was read" in error
    status.say("in use")
    [error], _ = said(folder, cache, url)
    assert "others still read the old one from the cache" in error
    status.say("missing")
    [error], _ = said(folder, cache, url)
    assert f"no such file: {url}" in error


@pytest.mark.grid
def test_a_file_that_was_replaced_while_all_of_it_was_read_is_named(
    folder: Path, cache: Cache, plain: XRootD, status: Status, small_files: list[Path]
) -> None:
    """After each pass the cache is asked; that it is away by then is no reason to fail."""
    plain.put(small_files[0], "cached/d.root")
    url = "root://data.example.org//store/cached/d.root"
    seldom = READ.replace("LOOK_SECONDS = 0", "LOOK_SECONDS = 1e9")
    confirmed = seldom.replace(
        "print(json.dumps([file.uuid",
        "file.read(['x']); file.check_unchanged(); print(json.dumps([file.traffic.evictions",
    )
    status.say("evicted", "same")
    assert said(folder, cache, url, code=confirmed)[0][0][0] == 1
    status.say("same", "evicted")
    [error], _ = said(folder, cache, url, code=confirmed)
    assert f"{url} was replaced while it was read" in error
    status.say("same")
    status.answers.append((500, {}))
    found, warned = said(folder, cache, url, code=confirmed)
    assert found[0][0] == 0
    assert f"{url}: nobody tells whether it was replaced" in warned


@pytest.mark.grid
def test_what_is_cached_is_read_while_its_server_is_away(
    folder: Path, cache: Cache, plain: XRootD, status: Status, small_files: list[Path]
) -> None:
    plain.put(small_files[0], "cached/c.root")
    url = "root://data.example.org//store/cached/c.root"
    status.say("unknown")
    found, warned = said(folder, cache, url)
    assert found[0][1]
    assert f"{url}: what is cached of it may be old, as its server doesn't tell: away" in warned
    [error], _ = said(folder, cache, "root://other.example.org:1095//store/e.root")
    assert "(its server, as the cache says: away)" in error
    status.say("", code=404)
    [error], _ = said(folder, cache, url)
    assert "the cache doesn't read that folder" in error


@pytest.mark.grid
@pytest.mark.hostile
def test_of_the_cache_nothing_else_is_reached(folder: Path, cache: Cache, status: Status) -> None:
    """Neither other ports of it, nor more of its status, nor its status by a tunnel."""
    host, first = cache.at(cache.doors[0])
    code = f"""
import json, urllib.request, urllib.error
def tried(url):
    try:
        return urllib.request.urlopen(url).read().decode()
    except OSError as error:
        return str(error)
for url in ("http://{cache.status}/metrics", "http://{host}:{first}/fresh?x",
            "https://{cache.status}/fresh?", "https://{host}:22/",
            "http://{cache.status}/fresh?door=0&path=/a&path=/b"):
    print(json.dumps(tried(url)))
"""
    status.say("same")
    found, _ = said(folder, cache, code=code)
    assert len(found) == 5
    for each in found:
        assert "403" in each
    assert status.asked == []


@pytest.mark.grid
@pytest.mark.hostile
def test_a_training_uses_the_doors_of_its_groups_and_no_others(
    folder: Path, cache: Cache, plain: XRootD, status: Status, small_files: list[Path]
) -> None:
    """Those that it may not use are none for the data proxy, whatever its environment says."""
    plain.put(small_files[0], "mine/a.root")
    status.say("same")
    url = "root://data.example.org//store/mine/a.root"
    [found], _ = said(folder, cache, url, mine=cache.doors[:1])
    assert found[1]
    status.say("same")
    [error], _ = said(folder, cache, url, mine=())
    assert "of the grid's data, your groups may read none" in error
    [error], _ = said(folder, cache, url, mine=cache.doors[1:], wanted=cache.doors)
    assert "this training may not read it any more" in error
    host, port = cache.at(cache.doors[0])
    code = f"""
import json, urllib.request
try:
    urllib.request.urlopen("https://{host}:{port}/")
except OSError as error:
    print(json.dumps(str(error)))
"""
    [error], _ = said(folder, cache, code=code, mine=cache.doors[1:])
    assert "403" in error
    assert status.asked == []


def test_names_of_store_are_the_first_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = Cache("xrootd-cache:1094", 8085, tuple(doors_of(origins_of(ORIGINS), ())))
    for name, value in cache.environment(cache.doors).items():
        monkeypatch.setenv(name, value)
    file = "root://data.example.org:1094//store/a.root"
    assert resolve("/store/a.root", "", tmp_path) == file
    given = resolve("/store/a.root", "root://other.example.org:1095", tmp_path)
    assert given == "root://other.example.org:1095//store/a.root"
