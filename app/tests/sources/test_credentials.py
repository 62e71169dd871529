from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources import credentials
from mlaas4hep.sources.credentials import bearer_token, ca_folder, x509_proxy

UID = os.geteuid()


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own in place of /tmp, where the developer's credentials may be."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(credentials, "_TMP", folder)
    return folder


def test_proxies_and_cas_are_where_grid_tools_put_them(tmp: Path) -> None:
    assert x509_proxy({}) is None
    usual = written(tmp / f"x509up_u{UID}", "")
    assert x509_proxy({"X509_USER_PROXY": ""}) == credentials.X509(usual, str(usual))
    named = x509_proxy({"X509_USER_PROXY": "/home/me/proxy"})
    assert named == credentials.X509(Path("/home/me/proxy"), "X509_USER_PROXY")
    assert ca_folder({}) == Path("/etc/grid-security/certificates")
    assert ca_folder({"X509_CERT_DIR": "/ca"}) == Path("/ca")


def test_tokens_are_found_in_the_order_of_wlcg(tmp: Path, tmp_path: Path) -> None:
    assert bearer_token({}) is None
    runtime = tmp_path / "run"
    runtime.mkdir()
    files = [written(f / name, f" {where}\n") for f, name, where in (
        (tmp, f"bt_u{UID}", "in-tmp"),
        (runtime, f"bt_u{UID}", "in-runtime"),
        (tmp_path, "token", "in-file"),
    )]  # fmt: skip
    names = [str(file) for file in files]
    env: dict[str, str] = {}
    for value, key, where, file in (
        ("in-tmp", None, names[0], files[0]),
        ("in-runtime", ("XDG_RUNTIME_DIR", str(runtime)), names[1], files[1]),
        ("in-file", ("BEARER_TOKEN_FILE", names[2]), f"BEARER_TOKEN_FILE {names[2]}", files[2]),
        ("direct", ("BEARER_TOKEN", "\tdirect\v"), "BEARER_TOKEN", None),
    ):
        env |= dict([key]) if key else {}
        found = bearer_token(env)
        assert found
        assert (found.value, found.where, found.file, found.exposed) == (value, where, file, False)
        assert value not in repr(found).replace(where, "")


def test_an_empty_token_is_passed_over(tmp: Path, tmp_path: Path) -> None:
    written(tmp / f"bt_u{UID}", "last")
    empty = written(tmp_path / "empty", " \n")
    found = bearer_token({"BEARER_TOKEN": " ", "BEARER_TOKEN_FILE": str(empty)})
    assert found
    assert found.value == "last"


def test_a_file_is_read_anew_each_time(tmp: Path) -> None:
    path = written(tmp / f"bt_u{UID}", "old")
    assert bearer_token({}) == credentials.Bearer("old", str(path), path)
    written(path, "new")
    assert bearer_token({}) == credentials.Bearer("new", str(path), path)


@pytest.mark.usefixtures("tmp")
def test_what_is_no_token_stops_the_search_and_is_not_shown(tmp_path: Path) -> None:
    wrong = written(tmp_path / "token", '{"access_token": "geheim"}')
    with pytest.raises(DataError, match=f"BEARER_TOKEN_FILE {wrong} holds no bearer") as error:
        bearer_token({"BEARER_TOKEN_FILE": str(wrong)})
    assert "geheim" not in str(error.value)
    with pytest.raises(DataError, match="BEARER_TOKEN holds no bearer token"):
        bearer_token({"BEARER_TOKEN": "two tokens"})
    with pytest.raises(DataError, match="none can't be read: No such file"):
        bearer_token({"BEARER_TOKEN_FILE": str(tmp_path / "none")})


def test_a_file_that_others_may_read(tmp: Path) -> None:
    path = written(tmp / f"bt_u{UID}", "token")
    path.chmod(0o640)
    found = bearer_token({})
    assert found
    assert found.exposed


def test_another_users_file_in_a_shared_place_is_refused(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: UID + 1)
    path = written(tmp / f"bt_u{UID + 1}", "token")
    with pytest.raises(DataError, match=f"{path} belongs to another user"):
        bearer_token({})


def test_claims_of_a_token() -> None:
    def token(claims: object) -> credentials.Bearer:
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return credentials.Bearer(f"e30.{payload}.c2ln", "BEARER_TOKEN")

    said = token({"sub": "alice", "exp": 1795000000})
    assert said.claims() == {"sub": "alice", "exp": 1795000000}
    assert said.expires == 1795000000
    assert token({"exp": "soon"}).expires is None
    assert token(["exp"]).claims() == {}
    for value in ("opaque", "a.b.c", "a.é.c"):
        assert credentials.Bearer(value, "BEARER_TOKEN").claims() == {}
