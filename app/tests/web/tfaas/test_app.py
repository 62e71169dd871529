from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.models.bundle import Bundle, pack
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.tfaas import serve
from support.bundles import constant, make_bundle
from support.service import packed
from support.tfaas_process import TFaaSProcess, error_of, tfaas_process

VALUES = [0.5] * 8
CARD = [
    "name", "model", "labels", "op", "input_name", "output_name", "img_channels", "options",
    "input_node", "output_node", "description", "timestamp",
]  # fmt: skip


def archive_of(folder: Path, value: float, name: str = "luca_1") -> Path:
    """NAME.tar.gz of a model that always answers ``value``."""
    folder.mkdir(parents=True, exist_ok=True)
    return pack(make_bundle(folder, name, lambda width: constant(width, value)))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TFaaSProcess]:
    with tfaas_process(tmp_path_factory.mktemp("running") / "store") as process:
        yield process


@pytest.fixture
def service(running: TFaaSProcess) -> Iterator[TFaaSProcess]:
    """One process for all tests, without models when each begins."""
    yield running
    repository = Repository(running.store / "models")
    for name in repository.names():
        repository.delete(name)


def upload(service: TFaaSProcess, archive: Path, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/upload", content=archive.read_bytes(), headers=named)


def test_the_life_of_a_model(service: TFaaSProcess, tmp_path: Path) -> None:
    assert service.http.get("/models").json() == []
    assert "No model yet" in service.http.get("/").text
    headers = {"content_encoding": "gzip", "content_type": "application/octet-stream"}
    for value in (1, 2):
        response = upload(service, archive_of(tmp_path / str(value), value), **headers)
        assert response.status_code == 200
        assert response.json() == {"model": "luca_1"}
        assert service.predict(VALUES).json() == [value]
    assert service.http.delete("/delete/luca_1").status_code == 200
    response = service.predict(VALUES)
    assert response.status_code == 404
    assert error_of(response) == "no model 'luca_1'. There are none."
    assert upload(service, archive_of(tmp_path / "3", 3)).status_code == 200
    assert service.predict(VALUES).json() == [3]


def test_a_plain_tar_is_accepted(service: TFaaSProcess, tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(make_bundle(tmp_path, "m", lambda width: constant(width, 9)), "m")
    assert service.http.post("/upload", content=plain.getvalue()).json() == {"model": "m"}
    assert service.predict(VALUES, "m").json() == [9]


def test_models_and_params(service: TFaaSProcess, tmp_path: Path) -> None:
    for name in ("b", "a"):
        upload(service, archive_of(tmp_path, 1, name))
    response = service.http.get("/models")
    assert response.text.endswith("]\n")
    cards = response.json()
    assert [card["name"] for card in cards] == ["a", "b"]
    assert [list(card) for card in cards] == [CARD, CARD]
    assert cards[0]["timestamp"] == "2026-11-24T12:00:00+00:00"

    response = service.http.get("/params/a")
    assert response.content == (tmp_path / "a/params.json").read_bytes()
    for path in ("/params/x", "/params/", "/params", "/params/%2e%2e%2fa", "/params/a%00"):
        assert service.http.get(path).status_code == 404
    assert "'a'" in error_of(service.http.get("/params/aa"))


def test_a_damaged_bundle_leaves_the_others_listed(service: TFaaSProcess, tmp_path: Path) -> None:
    for name in ("a", "b"):
        upload(service, archive_of(tmp_path, 1, name))
    (service.store / "models/a/params.json").unlink()
    with tfaas_process(service.store) as fresh:
        assert [card["name"] for card in fresh.http.get("/models").json()] == ["b"]
        assert "lacks params.json" in error_of(fresh.predict(VALUES, "a"))
        assert fresh.predict(VALUES, "b").json() == [1]
        assert fresh.http.get("/").status_code == 200
    assert "lacks params.json" in (service.store / "tfaas.log").read_text()


def test_delete_in_every_way(service: TFaaSProcess, tmp_path: Path) -> None:
    ways = [
        {"url": "/delete/m"},
        {"url": "/delete", "params": {"model": "m"}},
        {"url": "/delete", "files": {"model": (None, "m")}},
        {"url": "/delete", "data": {"model": "m"}},
    ]
    archive = archive_of(tmp_path, 1, "m")
    for way in ways:
        assert upload(service, archive).status_code == 200
        assert service.http.request("DELETE", **way).status_code == 200
        response = service.http.request("DELETE", **way)
        assert response.status_code == 404
        assert "no model 'm'" in error_of(response)
    response = service.http.request("DELETE", "/delete")
    assert response.status_code == 400
    assert "no model name is provided" in error_of(response)
    assert service.http.request("DELETE", "/delete/a-b").status_code == 404
    assert service.http.request("DELETE", "/delete", content=b"x" * 100_000).status_code == 413


def test_download_gives_the_bundle_back(service: TFaaSProcess, tmp_path: Path) -> None:
    archive = archive_of(tmp_path, 1, "m")
    upload(service, archive)
    response = service.http.get("/download/m.tar.gz")
    assert response.headers["content-type"] == "application/gzip"
    assert response.content == archive.read_bytes()
    head = service.http.head("/download/m.tar.gz")
    assert head.headers["content-length"] == str(len(response.content))
    for path in ("/download/n.tar.gz", "/download/", "/download/m", "/download/..%2fm.tar.gz"):
        assert service.http.get(path).status_code == 404
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"GET /download/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_status_has_the_prototypes_keys(service: TFaaSProcess) -> None:
    before = service.http.get("/status").json()
    service.http.post("/json")
    status = service.http.get("/status").json()
    assert list(status) == ["CPU", "Load", "Memory", "NGo", "Uptime", "getRequests", "postRequests"]
    assert list(status["Load"]) == ["load1", "load5", "load15"]
    assert list(status["Memory"]["Virtual"]) == ["total", "free", "used", "usedPercent"]
    assert len(status["CPU"]) == os.cpu_count()
    for kind in ("getRequests", "postRequests"):
        assert status[kind] == before[kind] + 1
    assert service.http.get("/healthz").json()["status"] == "ok"


def test_the_page_shows_a_curl_that_works(service: TFaaSProcess, tmp_path: Path) -> None:
    tmp_path = tmp_path / "bundles"
    tmp_path.mkdir()
    upload(service, archive_of(tmp_path, 4, "served"))
    odd = make_bundle(tmp_path, "odd", why_not="<script>alert(1)</script>", report="<h1>R</h1>")
    upload(service, pack(odd))
    response = service.http.get("/")
    page = response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "AUC 0.8750" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    for link in re.findall(r'href="([^"]+)"', page):
        assert link.startswith("data:") or service.http.get(f"/{link}").status_code == 200
    report = service.http.get("/report/odd")
    assert report.text == "<h1>R</h1>"
    assert report.headers["content-security-policy"].startswith("sandbox;")

    (command,) = re.findall(r"<pre[^>]*>(curl [^<]*predict/events[^<]*)</pre>", page)
    command = command.replace("&#34;", '"').replace("&#39;", "'")
    answer = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=True, timeout=240
    ).stdout
    assert json.loads(answer)["predictions"] == [[4]]


@pytest.mark.hostile
@pytest.mark.parametrize(
    "text",
    [
        '{"auc": 1' + "0" * 400 + "}",
        '{"auc": NaN}',
        "[" * 100_000,
        '{"auc": "1"}',
        '{"\\ud800": 1}',
        "[]",
    ],
)
def test_the_page_is_shown_whatever_a_bundle_says_of_itself(
    service: TFaaSProcess, tmp_path: Path, text: str
) -> None:
    (tmp_path / "bundles").mkdir()
    odd = make_bundle(tmp_path / "bundles", "odd")
    (odd / "metrics.json").write_text(text)
    manifest = json.loads((odd / "bundle.json").read_text())
    manifest["files"]["metrics.json"] = hashlib.sha256(text.encode()).hexdigest()
    (odd / "bundle.json").write_text(json.dumps(manifest))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(odd, "odd")
    answer = service.http.post("/upload", content=packed.getvalue())
    assert answer.status_code == (200 if text.startswith('{"auc"') else 400)
    response = service.http.get("/")
    assert response.status_code == 200
    assert ("odd" in response.text) == (answer.status_code == 200)
    assert "AUC" not in response.text


def test_unknown_paths_and_methods(service: TFaaSProcess) -> None:
    for path in ("/nope", "/models/", "/bundle", "/image", "/data?model=/etc/hostname"):
        response = service.http.get(path)
        assert response.status_code == 404
        assert error_of(response)
    for method, path in [
        ("POST", "/models"),
        ("GET", "/upload"),
        ("HEAD", "/upload"),
        ("PUT", "/"),
    ]:
        response = service.http.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"]
    assert service.http.head("/models").status_code == 200


def test_strangers_are_refused(service: TFaaSProcess, tmp_path: Path) -> None:
    archive = archive_of(tmp_path, 1)
    for path in ("/", "/models", "/json"):
        response = service.http.get(path, headers={"host": "evil.org"})
        assert response.status_code == 403
        assert "evil.org" in error_of(response)
    assert upload(service, archive, origin="http://evil.org").status_code == 403
    assert upload(service, archive, sec_fetch_site="cross-site").status_code == 403
    assert service.http.get("/models").json() == []
    assert upload(service, archive, origin=service.url).status_code == 200
    response = service.http.delete("/delete/luca_1", headers={"origin": "null"})
    assert response.status_code == 403


def test_only_our_bundles_are_accepted(service: TFaaSProcess, tmp_path: Path) -> None:
    archive_of(tmp_path, 1)
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as tar:
        tar.add(Path(__file__), "luca_1/model.py")
    escaping = io.BytesIO()
    with tarfile.open(fileobj=escaping, mode="w") as tar:
        tar.add(tmp_path / "luca_1", "luca_1")
        tar.add(Path(__file__), "../escaped")
    whole = (tmp_path / "luca_1.tar.gz").read_bytes()
    narrow = pack(make_bundle(tmp_path / "narrow", "m", constant(3, 1))).read_bytes()
    for content, status, part in [
        (b"", 415, "no tar or tar.gz"),
        (b"PK\x03\x04" + bytes(1000), 415, "NAME.tar.gz"),
        (other.getvalue(), 400, "bundle.json"),
        (escaping.getvalue(), 400, "'../escaped'"),
        (whole[: len(whole) // 2], 400, "ended before"),
        (narrow, 400, "can't be run"),
    ]:
        response = service.http.post("/upload", content=content)
        assert response.status_code == status
        assert part in error_of(response)
    for form in ({"params": b"{}", "model": b"x"}, {"file": whole}):
        response = service.http.post("/upload", files=form)
        assert response.status_code == 415
        assert "NAME.tar.gz" in error_of(response)
    assert service.http.get("/models").json() == []
    assert not (service.store / "escaped").exists()
    assert list((service.store / "models/.staging").iterdir()) == []


def test_an_upload_beyond_the_limit_is_413(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, 1)
    size = sum(path.stat().st_size for path in (tmp_path / "luca_1").rglob("*") if path.is_file())
    assert archive.stat().st_size < 2000 < size
    with tfaas_process(tmp_path / "store", max_bundle_bytes=2000) as service:
        for content in (archive.read_bytes(), bytes(3_000_000)):
            response = service.http.post("/upload", content=content)
            assert response.status_code == 413
            assert "2 kB" in error_of(response)
        assert service.http.get("/models").json() == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])  # while it is received, while it is unpacked
def test_a_full_disk_is_507(service: TFaaSProcess, tmp_path: Path, mode: str) -> None:
    before = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    response = service.http.post("/upload", content=packed({"big": bytes(1_500_000)}, mode=mode))
    assert response.status_code == 507
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, before)
    assert upload(service, archive_of(tmp_path, 1)).status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(service: TFaaSProcess, tmp_path: Path) -> None:
    archive = archive_of(tmp_path, 1).read_bytes()
    for sent in (0, 10, len(archive) - 1):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(
                b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                % len(archive)
                + archive[:sent]
            )
    assert service.http.get("/models").json() == []
    assert service.http.post("/upload", content=archive).status_code == 200


@settings(max_examples=60)
@given(data=st.data())
def test_no_upload_is_answered_500(
    fuzzed: tuple[TFaaSProcess, bytes, bytes], data: st.DataObject
) -> None:
    service, packed, plain = fuzzed
    body = bytearray(data.draw(st.sampled_from([packed, plain, b"", b"\x1f\x8b"])))
    for _ in range(data.draw(st.integers(0, 8)) if body else 0):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    body += data.draw(st.binary(max_size=600))
    response = service.http.post("/upload", content=bytes(body))
    assert response.status_code in (200, 400, 413, 415)
    assert service.predict(VALUES, "kept").json() == [1]


@pytest.fixture(scope="module")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TFaaSProcess, bytes, bytes]]:
    folder = tmp_path_factory.mktemp("fuzz")
    packed = archive_of(folder, 2).read_bytes()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(folder / "luca_1", "luca_1")
    with tfaas_process(folder / "store") as process:
        upload(process, archive_of(folder / "kept", 1, "kept"))
        yield process, packed, plain.getvalue()


class Client:
    """One keep-alive connection: counts what goes wrong, and forgives nothing."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def predict(self, model: str) -> float:
        body = json.dumps({"values": VALUES, "model": model}).encode()
        head = f"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", answer)
        content = await self._reader.readexactly(int(length))
        assert answer.startswith(b"HTTP/1.1 200 "), content
        (value,) = json.loads(content)
        return float(value)


def test_replaced_under_load(service: TFaaSProcess, tmp_path: Path) -> None:
    """200 clients, 10 versions: every answer is one that was due, none is of a replaced model."""
    archives = [archive_of(tmp_path / str(value), value) for value in range(11)]
    repository = Repository(service.store / "models")
    upload(service, archives[0])
    answered = offered = 0  # the newest version whose upload ended, and has begun
    seen: list[tuple[int, float, int]] = []
    stop = False

    async def client() -> None:
        async with Client(service.port) as connection:
            while not stop:
                least = answered
                seen.append((least, await connection.predict("luca_1"), offered))

    async def load() -> None:
        """Wait, however fast the machine is, until answers have come to later requests than now."""
        enough = len(seen) + 400
        while len(seen) < enough:
            await asyncio.sleep(0.01)

    async def replace() -> None:
        nonlocal answered, offered, stop
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:
            for value, archive in list(enumerate(archives))[1:]:
                await load()
                offered = value
                if value % 2:
                    response = await http.post("/upload", content=archive.read_bytes())
                    assert response.status_code == 200
                else:  # as the runner publishes: from another process
                    source = archive.parent / "luca_1"
                    await asyncio.to_thread(repository.put, source, "luca_1")
                answered = value
            await load()
        stop = True

    async def main() -> None:
        await asyncio.gather(replace(), *(client() for _ in range(200)))

    asyncio.run(main())
    assert [entry for entry in seen if not entry[0] <= entry[1] <= entry[2]] == []
    assert {value for _, value, _ in seen} == set(range(11))
    assert len(seen) > 2000


def test_a_cold_model_answers_100_clients(tmp_path: Path) -> None:
    source = make_bundle(tmp_path, "m", lambda width: constant(width, 6))
    Repository(tmp_path / "store/models").put(source, "m")

    async def main(service: TFaaSProcess) -> list[float]:
        async def client() -> float:
            async with Client(service.port) as connection:
                return await connection.predict("m")

        return await asyncio.gather(*(client() for _ in range(100)))

    with tfaas_process(tmp_path / "store") as service:
        assert asyncio.run(main(service)) == [6] * 100


def test_a_kill_during_an_upload_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    store = tmp_path / "store"
    archives = [archive_of(tmp_path / str(value), value).read_bytes() for value in range(2)]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    with ExitStack() as stack:
        service = stack.enter_context(tfaas_process(store))
        assert service.http.post("/upload", content=archives[0]).status_code == 200
        for attempt in range(6):

            def send(service: TFaaSProcess = service, attempt: int = attempt) -> bool:
                try:
                    url = f"{service.url}/upload"
                    return httpx.post(url, content=archives[attempt % 2]).status_code == 200
                except httpx.TransportError:
                    return False

            with ThreadPoolExecutor(1) as pool:
                answered = pool.submit(send)
                time.sleep(moments.uniform(0, 0.05))
                service.stop(9)
            service = stack.enter_context(tfaas_process(store))
            (value,) = service.predict(VALUES).json()
            assert value in (0, 1)
            if answered.result():
                assert value == attempt % 2
            assert list((store / "models/.staging").iterdir()) == []
            assert len(list((store / "models/.versions").iterdir())) == 1
            Bundle.open(Repository(store / "models").get("luca_1").path, verify=True)
            assert [card["name"] for card in service.http.get("/models").json()] == ["luca_1"]


def test_requests_under_way_are_answered_before_it_stops(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, 1)
    service = TFaaSProcess(tmp_path)
    upload(service, archive)
    head = b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    body = json.dumps({"values": VALUES, "model": "luca_1"}).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head % len(body) + body[:10])
        assert service.http.get("/healthz").status_code == 200
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        time.sleep(0.2)
        connection.sendall(body[10:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        stopping.join()


def test_only_loopback_and_free_ports(service: TFaaSProcess, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'0\.0\.0\.0': there is no sign-in"):
        serve(Settings(store=tmp_path, host="0.0.0.0", tfaas_port=0))
    with pytest.raises(UsageError, match=f":{service.port}: Address already in use"):
        serve(Settings(store=tmp_path, tfaas_port=service.port))


LOOK = """
import json, os, signal, sys, threading
from pathlib import Path
import httpx
from mlaas4hep.cli import main

def look(line):
    url = line.split()[-1]
    answer = httpx.post(url + "/json", json={"values": [0.5] * 8, "model": "luca_1"})
    event = {"met": 1, "nJet": 1, "jet_pt": [], "jet_eta": []}
    events = httpx.post(url + "/predict/events", json={"model": "luca_1", "events": [event]})
    page = httpx.get(url)
    answers = [answer.json(), events.status_code, page.status_code]
    Path(sys.argv[-1], "found.json").write_text(json.dumps([answers, list(sys.modules)]))
    os.kill(os.getpid(), signal.SIGTERM)

class Tell:
    def write(self, text):
        if "listens" in text:
            threading.Thread(target=look, args=(text,)).start()
    def flush(self):
        pass

sys.stdout = Tell()
sys.argv = ["mlaas4hep", "tfaas", "--port", "0", "--store", sys.argv[1]]
main.main()
"""


def test_serving_imports_no_training(tmp_path: Path) -> None:
    Repository(tmp_path / "models").put(
        make_bundle(tmp_path, "luca_1", lambda width: constant(width, 1)), "luca_1"
    )
    done = subprocess.run(
        [sys.executable, "-c", LOOK, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    answers, modules = json.loads((tmp_path / "found.json").read_text())
    assert answers == [[1.0], 200, 200]
    assert "mlaas4hep.inference.engine" in modules
    heavy = {"tensorflow", "keras", "uproot", "awkward", "numba", "sklearn", "onnx", "matplotlib",
             "sqlalchemy", "mplhep", "onnxruntime", "torch", "tf2onnx", "skl2onnx"}  # fmt: skip
    assert heavy.isdisjoint(modules)


@pytest.mark.hostile("full disk: DELETE answers 503")
def test_a_model_is_deleted_on_a_full_disk(tmp_path: Path) -> None:
    with tfaas_process(tmp_path / "store") as service:
        assert upload(service, archive_of(tmp_path, 1)).status_code == 200
        most = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (1, most))
        assert upload(service, archive_of(tmp_path, 2, "other")).status_code == 507
        assert service.http.delete("/delete/luca_1").status_code == 200
        assert service.http.get("/models").json() == []
        versions = Repository(service.store / "models").root / ".versions"
        assert list(versions.iterdir()) == []
