from __future__ import annotations

import subprocess
import sys

import pytest

from mlaas4hep import __version__
from mlaas4hep.cli.main import app

COMMANDS = [
    "train", "specs", "inspect", "predict", "server", "runner", "tfaas", "expire", "demo",
    "token", "settings", "export", "data-proxy", "x509-renewer", "xrootd-cache", "doctor",
]  # fmt: skip


def test_every_command_is_there_and_explains_itself(command):
    registered = [c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    assert sorted(registered) == sorted(COMMANDS)
    overview = command("--help")
    assert overview.code == 0
    for name in COMMANDS:
        assert name in overview.out
        text = command(name, "--help")
        assert text.code == 0
        assert "Exit status" in text.out


def test_help_shows_what_is_to_be_typed(command, monkeypatch):
    """It is rendered as Markdown, to which * and <> are marks."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "*ttbar*=signal,*qcd*=background" in command("train", "--help").out
    for service in (
        "server",
        "runner",
        "tfaas",
        "settings",
        "data-proxy",
        "x509-renewer",
        "xrootd-cache",
    ):
        assert "MLAAS4HEP_<SETTING>" in command(service, "--help").out


def test_a_port_beyond_the_last_is_refused(command):
    for service in ("server", "tfaas"):
        ended = command(service, "--port", "80801")
        assert ended.code == 2
        assert f"MLAAS4HEP_{service.upper()}_PORT is 80801: " in ended.err


def test_version(command):
    assert command("--version").out == f"mlaas4hep {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", "--files"], ["inspect"], ["specs", "--no-such"]]
)
def test_wrong_usage_exits_with_2(command, arguments):
    ended = command(*arguments)
    assert ended.code == 2
    assert ended.err


def test_a_wrong_setting_names_its_variable(command, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_MAX_JOBS", "many")
    ended = command("server")
    assert ended.code == 2
    assert "MLAAS4HEP_MAX_JOBS is 'many'" in ended.err
    assert "Maximum trainings that run at once" in ended.err


@pytest.mark.parametrize("arguments", [["--help"], ["tfaas", "--help"], ["server", "--help"]])
def test_help_imports_no_framework(arguments):
    code = (
        "import sys; sys.argv = ['mlaas4hep', *%r]\n"
        "from mlaas4hep.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'uproot', 'awkward', 'sklearn', 'onnxruntime'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    ) % arguments
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240
    ).stdout
    assert out.splitlines()[-1] == "HEAVY []"
