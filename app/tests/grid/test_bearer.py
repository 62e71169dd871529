"""A bearer token by client credentials, which an origin takes by root://."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import bearer
from mlaas4hep.grid.renewer import Renewer
from parts.xrootd import Pki
from support.device_issuer import DeviceIssuer

pytestmark = pytest.mark.grid


class Issuer(DeviceIssuer):
    """Gives the robot tokens that the origin takes, of ``life`` seconds."""

    def __init__(self, pki: Pki) -> None:
        self.pki, self.life = pki, 3600.0
        super().__init__()

    def grant(self, form: dict[str, str], login: str) -> tuple[int, Any]:
        status, answer = super().grant(form, login)
        if status == 200:
            answer["access_token"] = self.pki.token(scope=form["scope"], life=self.life)
        return status, answer


@pytest.fixture(scope="module")
def issuer(pki: Pki) -> Iterator[Issuer]:
    started = Issuer(pki)
    yield started
    started.close()


@pytest.fixture
def settings(pki: Pki, issuer: Issuer, tmp_path: Path) -> Settings:
    secret = tmp_path / "secret"
    secret.write_text(DeviceIssuer.SECRET + "\n")
    return Settings(
        x509_folder=tmp_path / "x509",
        ca_folder=str(pki.ca_folder),
        grid_token_issuer=issuer.url,
        grid_token_client="robot",
        grid_token_secret=secret,
    )


def test_an_origin_takes_the_token_without_any_certificate(pki, tokens, settings):
    (tokens.data / "bearer").write_text("events")
    renewer = Renewer(settings)
    renewer.tick()
    assert renewer.lacks() == []
    assert 3590 < renewer.seconds_left()["token"] <= 3600
    token = bearer.token_file(settings)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BEARER")}
    env = clean | {"BEARER_TOKEN_FILE": str(token), "X509_CERT_DIR": str(pki.ca_folder)}
    words = ["xrdcp", "-s", f"{tokens.url}/bearer", "-"]
    assert subprocess.run(words, env=env, capture_output=True, timeout=60).stdout == b"events"
    before = token.read_text()
    renewer.tick()
    assert token.read_text() == before


def test_it_is_renewed_when_half_of_it_is_over(pki, issuer, settings):
    renewer = Renewer(settings)
    token = bearer.token_file(settings)
    token.write_text(pki.token(life=600))
    made = time.time() - 700
    os.utime(token, (made, made))
    renewer.tick()
    assert 3590 < renewer.seconds_left()["token"] <= 3600


def test_while_the_issuer_is_away_the_old_token_stays(pki, issuer, settings, monkeypatch):
    monkeypatch.setattr("mlaas4hep.grid.renewer.FIRST_PAUSE", 600.0)
    renewer = Renewer(settings)
    token = bearer.token_file(settings)
    old = pki.token(life=600)
    token.write_text(old)
    os.utime(token, (time.time() - 700,) * 2)
    issuer.away = 1
    renewer.tick()
    assert token.read_text() == old
    assert renewer.lacks() == []
    assert "HTTP 503" in renewer.facts()["failing"]["token"]
    renewer.tick()  # too soon for another try
    assert token.read_text() == old
    renewer.token.hurry()
    renewer.tick()
    assert token.read_text() != old
    assert renewer.facts()["failing"] == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid_token_client": "stranger"}, "invalid_client"),
        ({"grid_token_client": ""}, "MLAAS4HEP_GRID_TOKEN_CLIENT"),
        ({"grid_token_secret": Path("/nowhere")}, "/nowhere can't be read"),
        ({"grid_token_issuer": "http://127.0.0.1:9"}, "127.0.0.1:9"),
    ],
)
def test_what_is_wrong_is_named(settings, changes, said):
    wrong = settings.model_copy(update=changes)
    with pytest.raises(MlaasError) as error:
        bearer.get(wrong)
    assert said in str(error.value)
    assert not bearer.token_file(wrong).exists()


def test_a_token_that_has_ended_is_not_taken(issuer, settings):
    Renewer(settings)
    issuer.life = -10
    with pytest.raises(MlaasError, match="has ended by this clock"):
        bearer.get(settings)
    issuer.life = 3600
    assert not bearer.token_file(settings).exists()
