"""The real command, named by DODAS_BIN (make dodas-cli): its requests are those of dodas.py."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dodas import Dodas
from support.machine import ROOT
from support.ports import free_port

TEMPLATES = sorted((ROOT / "tosca/generated").glob("*.yaml"))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
CLOUD = {"id": "os", "type": "OpenStack", "username": "operator", "password": "pw",
         "host": "http://127.0.0.1:5000/", "tenant": "mlaas", "auth_version": "3.x_password",
         "domain": "default"}  # fmt: skip


def one_request(port: int, ask: Callable[[], object]) -> bytes:
    """What is sent to this port first while `ask` runs."""
    got = []

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        server.close()  # what may follow depends on real answers
        with connection:
            said = b""
            while b"\r\n\r\n" not in said:
                said += connection.recv(65536)
            head, _, body = said.partition(b"\r\n\r\n")
            length = [line.split(b": ")[1] for line in head.split(b"\r\n") if b"gth: " in line]
            while length and len(body) < int(length[0]):
                body += connection.recv(65536)
            got.append(head + b"\r\n\r\n" + body)
            connection.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        ask()
        thread.join(30)
    return got[0]


def quietly(call: Callable[[Dodas], object], dodas: Dodas) -> None:
    """Ask; the answer here is of no use to some calls."""
    with contextlib.suppress(KeyError, OSError):
        call(dodas)


def command(folder: Path, dodas: Dodas, *words: str | Path) -> str:
    """What the real command prints, with the same configuration."""
    settings = folder / "dodas.yaml"
    im = {"id": "im", "type": "InfrastructureManager", "host": dodas.host, **dodas.im}
    settings.write_text(yaml.safe_dump({"cloud": dodas.cloud, "im": im}))
    asked = [os.environ["DODAS_BIN"], *words, "--config", settings]
    return subprocess.run(asked, capture_output=True, text=True, timeout=300).stdout


CALLS = {
    ("create", TEMPLATES[0]): lambda d: d.create(TEMPLATES[0].read_text()),
    ("update", "ID", TEMPLATES[0]): lambda d: d.update("ID", TEMPLATES[0].read_text()),
    ("get", "output", "ID"): lambda d: d.output("ID"),
    ("get", "status", "ID"): lambda d: d.status("ID"),
    ("get", "vm", "ID", "0"): lambda d: d.vm("ID"),
    ("list", "infIDs"): lambda d: d.infrastructures(),
    ("reconfig", "ID"): lambda d: d.reconfig("ID"),
    ("reboot", "ID", "0"): lambda d: d.reboot("ID"),
    ("destroy", "ID"): lambda d: d.destroy("ID"),
}


@pytest.mark.parametrize("words", CALLS, ids=lambda words: "-".join(map(str, words[:2])))
@pytest.mark.parametrize("im", [{"username": "u", "password": "p"}, {"token": "a.b.c"}], ids=list)
def test_each_call_is_the_same(
    words: tuple[str | Path, ...], im: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    dodas = Dodas(f"http://127.0.0.1:{port}/infrastructures", CLOUD, im)
    real = one_request(port, lambda: command(tmp_path, dodas, *words))
    ours = one_request(port, lambda: quietly(CALLS[words], dodas))
    assert ours == real


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_templates_are_valid(template: Path, tmp_path: Path) -> None:
    """Its exit status is 0 whatever it finds."""
    dodas = Dodas("http://127.0.0.1:1/infrastructures", CLOUD, {"token": "a.b.c"})
    assert "Template OK" in command(tmp_path, dodas, "validate", "--template", template)
