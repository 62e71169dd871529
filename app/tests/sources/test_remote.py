from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Jagged
from mlaas4hep.sources.names import friends_of, resolve
from mlaas4hep.sources.root import RootFile
from real.files import written
from sources.plain import assert_same


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, whole or one range of bytes at a time, as web servers of sites do."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        size = len(content)
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@pytest.fixture
def server(small_files: list[Path]) -> Iterator[str]:
    handler = type("Handler", (RangeHandler,), {"folder": small_files[0].parent})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_a_file_behind_a_web_server(server: str, small_files: list[Path], tmp_path: Path) -> None:
    name = resolve("a.root", server, tmp_path)
    assert name == f"{server}/a.root"
    with RootFile(name, "events") as file, RootFile(str(small_files[0]), "events") as local:
        assert (file.uuid, file.size, file.entries) == (local.uuid, local.size, local.entries)
        reader = file.reader(["x", "Jet_pt"], 3000)
        while reader.position < reader.stop:
            start = reader.position
            for branch, values in reader.take(170).items():
                assert_same(values, small_files[0], "events", branch, start, reader.position)


def test_friends_and_an_rntuple_behind_a_web_server(server: str, small_files: list[Path]) -> None:
    """A friend is found beside the file on the server; here the events are an RNTuple."""
    folder = small_files[0].parent
    for name in ("nanoaod_rntuple.root", "nanoaod_friend.root"):
        shutil.copy(written() / name, folder)
    places = {"Friend": "{dir}/nanoaod_friend.root"}
    names = ["event", "Jet_pt", "Friend.Jet_btag", "Friend.score"]
    found = []
    for name in (f"{server}/nanoaod_rntuple.root", str(written() / "nanoaod.root")):
        with RootFile(name, "Events", friends_of(name, "Events", places)) as file:
            assert file.friends["Friend"].name.startswith(name.rpartition("/")[0])
            reader = file.reader(names, 4000)
            found.append([reader.take(700), reader.take(1300)])
    for remote, local in zip(*found, strict=True):
        for name in names:
            ours, wanted = remote[name], local[name]
            if isinstance(wanted, Jagged):
                assert isinstance(ours, Jagged)
                assert ours.counts.tolist() == wanted.counts.tolist()
                ours, wanted = (x.content[x.offsets[0] : x.offsets[-1]] for x in (ours, wanted))
            np.testing.assert_array_equal(ours, wanted)


def test_what_is_not_on_the_server(server: str) -> None:
    with pytest.raises(DataError, match=f"no such file: {server}/none.root"):
        RootFile(f"{server}/none.root", "events")


def test_a_truncated_file_on_the_server(server: str, small_files: list[Path]) -> None:
    whole = small_files[0].read_bytes()
    for length in (0, 50, len(whole) // 2, len(whole) - 1):
        (small_files[0].parent / "short.root").write_bytes(whole[:length])
        with (
            pytest.raises(
                DataError, match=f"{server}/short.root.* (can't be read|truncated|empty)"
            ),
            RootFile(f"{server}/short.root", "events") as file,
        ):
            file.read(["x", "Jet_pt"])


OPEN = """
import sys
from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.root import RootFile
try:
    RootFile(sys.argv[1], "events")
except DataError as error:
    print(error)
"""


def said_on_opening(url: str, before: str = "") -> str:
    """What a new process prints on opening a file: XRootD and TensorFlow are picky neighbours."""
    ended = subprocess.run(
        [sys.executable, "-c", before + OPEN, url],
        env=os.environ | {"XRD_CONNECTIONRETRY": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.parametrize(
    ("scheme", "why"),
    [("http", "no connection to 127.0.0.1"), ("root", "no connection to 127.0.0.1")],
)
def test_a_server_that_does_not_answer(scheme: str, why: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}//a.root"
        said = said_on_opening(url)
    assert f"{url} can't be read: {why}" in said
    assert "server" in said


def test_an_address_that_is_none() -> None:
    url = "root://a b//a.root"
    assert f"{url} can't be read: the host name a b can't be resolved" in said_on_opening(url)


def test_xrootd_after_tensorflow_is_an_error_instead_of_a_crash() -> None:
    said = said_on_opening("root://127.0.0.1:1//a.root", "import tensorflow")
    assert "before importing tensorflow" in said


def test_tensorflow_after_xrootd_works() -> None:
    before = "from XRootD import client\nimport tensorflow\ntensorflow.zeros(1)"
    assert "can't be read" in said_on_opening("root://127.0.0.1:1//a.root", before)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_server_without_ranges(small_files: list[Path], version: str) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = version

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    folder = str(small_files[0].parent)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=folder)
    ) as web:
        threading.Thread(target=web.serve_forever).start()
        host = f"127.0.0.1:{web.server_port}"
        try:
            with (
                pytest.raises(DataError, match=f"{host} doesn't answer range requests") as error,
                RootFile(f"http://{host}/a.root", "events") as file,
            ):
                file.read(["x", "Jet_pt"])
            assert "Copy the file" in error.value.remedy
            assert "damaged" not in error.value.message
            with (
                pytest.raises(DataError, match=rf"{host}/a\.root can't be read: {host} doesn't"),
                RootFile(f"http://{host}/a.root:events") as file,
            ):
                file.read(["x"])
        finally:
            web.shutdown()


@pytest.mark.parametrize(
    ("scheme", "use"), [("gsiftp", "root:// or https"), ("srm", "root"), ("htps", "https")]
)
def test_a_scheme_that_is_not_supported(scheme: str, use: str) -> None:
    with pytest.raises(DataError, match=f"{scheme}:// is not supported") as error:
        RootFile(f"{scheme}://host.cern.ch//store/a.root", "events")
    assert f"Use {use}://" in error.value.remedy
