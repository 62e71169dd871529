from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas4hep.core.probe import main
from mlaas4hep.jobs.presence import only_runner


@pytest.fixture
def service() -> Iterator[str]:
    """A service that is well at /healthz, not ready at /readyz, and talks nonsense at /else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["host"])
            if self.path == "/else":
                self.wfile.write(b"nonsense\r\n\r\n")
                return
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()
            self.wfile.write(b'{"title": "not ready: no runner"}')

        def log_message(self, *_: object) -> None:
            pass

    hosts: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    assert set(hosts) <= {f"127.0.0.1:{server.server_port}"}


def test_a_service_that_is_well(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{service}/healthz"]) == 0
    assert capsys.readouterr().out.startswith(f"{service}/healthz: 200")


def test_a_service_that_is_not(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{service}/readyz"]) == 1
    assert "503" in (said := capsys.readouterr().out)
    assert "no runner" in said
    assert main([f"{service}/else"]) == 1
    assert main(["http://127.0.0.1:9/healthz"]) == 1
    assert "refused" in capsys.readouterr().out


def test_a_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runner", str(tmp_path)]) == 1
    with only_runner(tmp_path):
        assert main(["runner", str(tmp_path)]) == 0
    assert main(["runner", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[1] == f"a runner works on {tmp_path}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["runner"],
        ["data-proxy"],
        ["localhost:80/"],
        ["http://localhost/healthz"],
        ["a", "b", "c"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_it_needs_the_standard_library_only() -> None:
    """So that it starts quickly, every few seconds in every container."""
    code = (
        "import sys, mlaas4hep.core.probe\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - sys.stdlib_module_names - {'mlaas4hep', '__main__'}))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.stdout == "[]\n", done.stderr
