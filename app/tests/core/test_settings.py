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
