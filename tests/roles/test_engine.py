"""Settings of a container engine that others use as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

THEIRS = {"data-root": "/srv/theirs", "log-driver": "journald"}


@pytest.fixture
def play(engine: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """Write defaults and options, as the module does; what there is then."""

    def run(defaults: dict[str, Any], options: dict[str, Any]) -> Any:
        files = tmp_path / "daemon.json", tmp_path / "ours.json"
        found = engine.Settings(defaults, options, *files)
        for file, settings in zip(files, (found.after, found.ours), strict=True):
            file.write_text(engine.text(settings))
        return found

    return run


@pytest.fixture
def daemon(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


def test_where_there_is_nothing_ours_is_written_once(play: Any) -> None:
    first = play({"live-restore": True}, {"debug": True})
    assert first.changed
    assert first.after == {"live-restore": True, "debug": True}
    assert not play({"live-restore": True}, {"debug": True}).changed


def test_theirs_stay_and_win_over_defaults(play: Any, daemon: Path) -> None:
    daemon.write_text(json.dumps(THEIRS | {"live-restore": False}))
    found = play({"live-restore": True}, {"debug": True})
    assert found.after == THEIRS | {"live-restore": False, "debug": True}
    assert not found.conflicts


def test_options_that_contradict_theirs_are_named(play: Any, daemon: Path) -> None:
    daemon.write_text(json.dumps(THEIRS))
    found = play({}, {"data-root": "/srv/ours", "log-driver": "journald"})
    assert found.conflicts == [("data-root", "/srv/theirs", "/srv/ours")]


def test_ours_is_put_right_changed_and_taken_out_and_theirs_is_left(
    play: Any, daemon: Path
) -> None:
    """What others add later is theirs, too."""
    daemon.write_text(json.dumps(THEIRS))
    play({"live-restore": True}, {"debug": True})
    by_hand = json.loads(daemon.read_text()) | {"live-restore": False, "runtimes": {"nvidia": {}}}
    daemon.write_text(json.dumps(by_hand))
    assert play({"live-restore": True}, {"debug": True}).changed
    assert json.loads(daemon.read_text()) == THEIRS | {
        "live-restore": True, "debug": True, "runtimes": {"nvidia": {}},
    }  # fmt: skip
    assert not play({"live-restore": True}, {"debug": False}).conflicts
    assert json.loads(daemon.read_text())["debug"] is False
    play({}, {})
    assert json.loads(daemon.read_text()) == THEIRS | {"runtimes": {"nvidia": {}}}
