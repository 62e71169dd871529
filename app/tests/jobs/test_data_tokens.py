from __future__ import annotations

import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pydantic import ValidationError

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import JobSettings
from mlaas4hep.jobs.data_tokens import data_token, read_token_key

PATHS = {"cms": ["/store/mc/", "/store/data/"], "atlas": ["/atlas/"], "*": ["/store/open/"]}


def settings(**values: object) -> JobSettings:
    return JobSettings(data_paths=PATHS, **values)


def test_groups_read_their_folders_and_everybodys() -> None:
    ours = settings()
    assert ours.paths_of(["cms", "none"]) == ("/store/data/", "/store/mc/", "/store/open/")
    assert ours.paths_of([]) == ("/store/open/",)
    assert JobSettings(data_paths={"cms": ["/a/"]}).paths_of(["atlas"]) == ()
    assert JobSettings().paths_of(["cms"]) is None


@pytest.mark.parametrize(
    "path", ["/store", "store/", "", "/store/../", "/a b/", "/a/ storage.read:/"]
)
def test_what_is_no_folder_is_refused(path: str) -> None:
    """One without the slash at the end would open others that begin alike."""
    with pytest.raises(ValidationError, match="is no folder of grid data"):
        JobSettings(data_paths={"cms": [path]})


def test_a_token_says_what_may_be_read_and_until_when(tmp_path: Path) -> None:
    key = ECKey.generate_key("P-256", private=True)
    (tmp_path / "key.pem").write_bytes(key.as_pem(private=True))
    read = read_token_key(settings(data_token_key=tmp_path / "key.pem"))
    until = time.time() + 100
    token = data_token(read, "luca_1", ["/store/mc/", "/store/open/"], until)
    public = ECKey.import_key(key.as_pem(private=False))
    found = jwt.decode(token, public, algorithms=["ES256"])
    assert found.header["kid"] == public.thumbprint()
    assert found.claims["scope"] == "storage.read:/store/mc/ storage.read:/store/open/"
    assert found.claims["sub"] == "luca_1"
    assert until <= found.claims["exp"] <= until + 1


def test_limits_without_a_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing signs that"):
        read_token_key(settings())
    file = tmp_path / "key.pem"
    public = ECKey.generate_key("P-256", private=True).as_pem(private=False)
    other = ECKey.generate_key("P-384", private=True).as_pem(private=True)
    rsa = RSAKey.generate_key(2048, private=True).as_pem(private=True)
    for content in (public, other, rsa, b"no key"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"key\.pem"):
            read_token_key(settings(data_token_key=file))
    with pytest.raises(UsageError, match="can't be read"):
        read_token_key(settings(data_token_key=tmp_path / "none"))
