import http.server
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.client.client import Client
from mlaas4hep.core.errors import MlaasError, NotFoundError
from mlaas4hep.data.events import Jagged
from support.service import small_files
from support.small_runner import SCRIPT

SERVE = """
import sys
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.{0} import serve
serve(Settings({0}_port=0))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of all three services, which run as processes."""
    store = tmp_path_factory.mktemp("service") / "store"
    commands = [
        ["-c", SERVE.format("server")],
        ["-c", SERVE.format("tfaas")],
        [str(SCRIPT.with_name("small_runner.py")), "--stop-jobs"],
    ]
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"MLAAS4HEP_STORE": str(store)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    lines = [process.stdout.readline() for process in started if process.stdout]
    with Client(lines[0].split()[-1] + "/", lines[1].split()[-1]) as client:
        yield client
    for process in started:
        process.terminate()
        process.wait(240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my_folder"
    path.mkdir()
    for name, content in small_files().items():
        (path / name).write_bytes(content)
    return path


def test_the_main_job(client: Client, folder: Path, tmp_path: Path) -> None:
    assert client.upload(folder) == "my_folder"
    job = client.submit("my_folder")
    seen: list[tuple[str, int, int, dict[str, float]]] = []

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        seen.append((phase, done, total, figures))

    ended = client.wait(job, progress, interval=0.05)
    assert (ended["state"], ended["metrics"]["auc"]) == ("succeeded", 0.75)
    assert seen[-1] == ("training", 3, 10, {"loss": 0.5})
    assert f"training of {job}" in client.logs(job)
    archive = client.model(job, tmp_path)
    with tarfile.open(archive) as tar:
        assert f"{job}/bundle.json" in tar.getnames()
    assert [model["name"] for model in client.models()] == [job]

    events = {
        "met": np.array([20.0, np.nan, 100.0], np.float32),
        "pt": np.array([25, 0, 50], np.int32),
        "unused": Jagged(np.array([0, 1, 1, 3]), np.array([1.0, 2.0, np.inf], np.float32)),
    }
    answers = client.predict_events(job, events)
    expected = 1 / (1 + np.exp(-np.array([[0.2 - 0.5], [0.0], [0.0]])))
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, rtol=1e-5)

    many = {name: branch[np.arange(3000) % 3] for name, branch in list(events.items())[:2]}
    lists = np.arange(3001)
    many |= {"unused": Jagged(lists * 100, np.ones(300_000))}  # goes as more than one request
    many_answers = client.predict_events(job, many)
    np.testing.assert_array_equal(many_answers, answers[np.arange(3000) % 3])

    other_units = {name: branch * 1000 for name, branch in list(events.items())[:2]}
    with pytest.warns(UserWarning, match=r"of 6 values 0 were dropped, and \d lie outside"):
        client.predict_events(job, other_units)

    client.delete_specs("my_folder")
    client.delete_folder("my_folder")
    assert client.folders() == []
    assert [found["process_name"] for found in client.jobs()] == [job]
    client.delete_model(job)
    assert client.models() == []


def test_an_archive_and_links_in_a_folder(client: Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("linked")
    (folder / "data.txt").symlink_to(tmp_path / "data.txt")
    client.upload(folder, "linked")
    assert client.wait(client.submit("linked"))["metrics"]["data"] == "linked"
    archive = tmp_path / "packed.tar.gz"
    with tarfile.open(archive, "w:gz", dereference=True) as tar:
        tar.add(folder, "folder")
    assert client.upload(archive) == "packed"
    assert {found["name"] for found in client.folders()} == {"linked", "packed"}


def test_a_failed_job_raises_its_reason_and_remedy(client: Client, folder: Path) -> None:
    (folder / "params.json").write_text('{"mode": "fail"}')
    client.upload(folder, "failing")
    with pytest.raises(
        MlaasError, match=r"failing_1 failed: no branch 'mett' in a\.root"
    ) as caught:
        client.wait(client.submit("failing"))
    assert caught.value.remedy == "Did you mean 'met'?"


def test_a_cancelled_job(client: Client, folder: Path) -> None:
    (folder / "params.json").write_text('{"mode": "hang"}')
    client.upload(folder, "hanging")
    job = client.submit("hanging", memory="1gb", cpus=1)
    client.cancel(job)
    with pytest.raises(MlaasError, match="cancelled by its user"):
        client.wait(job)


def test_the_services_words_reach_the_caller(client: Client, folder: Path, tmp_path: Path) -> None:
    client.upload(folder, "luca")
    with pytest.raises(NotFoundError) as caught:
        client.submit("lucca")
    assert "'luca'" in caught.value.remedy
    with pytest.raises(MlaasError, match="leads outside"):
        client.submit("luca", model="../x")
    with pytest.raises(NotFoundError, match="no job 'luca_77'"):
        client.model("luca_77", tmp_path / "m.tar.gz")
    assert not list(tmp_path.glob("*m.tar.gz*"))
    with pytest.raises(MlaasError, match="nobody"):
        client.predict_events("nobody", {"met": np.zeros(1)})
    with pytest.raises(NotFoundError, match="no such folder or archive"):
        client.upload(tmp_path / "nothing")


def test_a_service_that_is_away_is_named() -> None:
    with (
        Client("http://127.0.0.1:9", "nonsense") as client,
        pytest.raises(MlaasError, match=r"can't reach http://127\.0\.0\.1:9/jobs"),
    ):
        client.jobs()


def test_an_answer_that_is_none_of_ours(tmp_path: Path) -> None:
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502, "Bad Gateway")
            seen.append(self.headers["authorization"])

        def log_message(self, *_: object) -> None:
            pass

    seen: list[str] = []
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{gateway.server_port}"
        with Client(url, token="abc") as client, pytest.raises(MlaasError, match="HTTP 502"):
            client.jobs()
        tokens = iter(["one", "two"])
        with Client(url, token=lambda: next(tokens)) as client:
            for _ in range(2):
                with pytest.raises(MlaasError, match="HTTP 502"):
                    client.jobs()
        gateway.shutdown()
    assert seen == ["Bearer abc", "Bearer one", "Bearer two"]
