from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mlaas4hep.core.settings import Settings


def test_the_environment_sets_them(monkeypatch, tmp_path):
    monkeypatch.setenv("MLAAS4HEP_STORE", str(tmp_path))
    monkeypatch.setenv("MLAAS4HEP_MAX_JOBS", "3")
    settings = Settings()
    assert settings.max_jobs == 3
    assert settings.models == tmp_path / "models"
    assert settings.database_url == f"sqlite:///{tmp_path}/mlaas4hep.sqlite"


def test_a_given_value_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_STORE", "/a")
    assert Settings(store=Path("/b")).store == Path("/b")


def test_a_wrong_value_names_the_setting(monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_MAX_JOBS", "many")
    with pytest.raises(ValidationError, match="max_jobs"):
        Settings()


def test_environments_are_json_and_the_first_is_the_default(monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_EXECUTOR", "container")
    monkeypatch.setenv(
        "MLAAS4HEP_ENVIRONMENTS",
        '{"plain": "a/job:1", "gpu": {"image": "a/gpu:1", "gpus": 2}}',
    )
    found = Settings().job_environments
    assert [(name, e.image, e.gpus) for name, e in found.items()] == [
        ("plain", "a/job:1", 0),
        ("gpu", "a/gpu:1", 2),
    ]


@pytest.mark.parametrize(
    "text",
    ["{}", '{"": "a"}', '{"a b": "x"}', '{"a": ""}', '{"a": {"gpus": 1}}',
     '{"a": {"image": "x", "gpu": 1}}', '{"a": {"image": "x", "gpus": -1}}'],
)  # fmt: skip
def test_environments_that_are_none(monkeypatch, text):
    monkeypatch.setenv("MLAAS4HEP_ENVIRONMENTS", text)
    with pytest.raises(ValidationError, match="environments"):
        Settings()


def test_processes_have_one_environment_whatever_images_there_are():
    assert list(Settings(environments={"torch": "x"}).job_environments) == ["default"]


def test_an_executor_that_is_none():
    with pytest.raises(ValidationError, match="'process' or 'container'"):
        Settings(executor="docker")


def test_voms_servers_in_one_line_or_several(monkeypatch):
    lines = [
        '"cms" "voms.example.org" "443" "/DC=org/CN=voms.example.org" "cms"',
        '"cms" "old.example.org" "15002" "/DC=org/CN=old, with a comma" "cms" "24"',
    ]
    for text in (
        "\n".join(lines),
        "; ".join(lines),
        " ".join(lines),
        f"\n{lines[0]}\n\n{lines[1]}\n",
    ):
        monkeypatch.setenv("MLAAS4HEP_VOMSES", text)
        assert Settings().vomses == "\n".join(lines)
