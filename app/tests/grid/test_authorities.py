"""CAs and CRLs as readers of data are shown them: copied and fetched, or where CVMFS has them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import authorities, certificate
from mlaas4hep.grid.certificate import Certificate
from mlaas4hep.grid.renewer import Renewer
from parts.xrootd import Pki
from support.remote_data import FileServer, file_server

pytestmark = pytest.mark.grid

DAY = 86400


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """An authority with a CRL that these tests change."""
    return Pki(tmp_path_factory.mktemp("own") / "pki")


@pytest.fixture
def cas(own: Pki, tmp_path: Path) -> Path:
    """A folder of the CA without its CRL, as the packages of CAs are."""
    folder = tmp_path / "cas"
    folder.mkdir()
    for path in own.ca_folder.iterdir():
        if ".r" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def user(own: Pki) -> Certificate:
    return certificate.read([file.read_bytes() for file in own.user()], lambda: b"")


def crl_of(own: Pki) -> Path:
    return next(own.ca_folder.glob("*.r0"))


@pytest.fixture
def web(own: Pki) -> Iterator[FileServer]:
    """Serves the CRL of the CA."""
    own.crl()
    with file_server(crl_of(own).read_bytes(), ("127.0.0.1", 0)) as server:
        yield server


def test_fetched_crls_lie_beside_the_cas(own, cas, web, tmp_path):
    for path in cas.glob("*.0"):
        path.with_suffix(".crl_url").write_text(f"http://{web.target}/ca.crl\n")
    settings = Settings(x509_folder=tmp_path / "x509", ca_folder=str(cas))
    renewer = Renewer(settings)
    certificate.keep(settings, user(own))
    renewer.tick()
    renewer.look()
    shown = authorities.folder(settings)
    assert {path.name for path in cas.iterdir()} < {path.name for path in shown.iterdir()}
    left = renewer.seconds_left()
    assert 29 * DAY < left["crl"] <= 30 * DAY
    # openssl, as a server does, checks a certificate by what is shown.
    words = ["openssl", "verify", "-crl_check", "-CApath", str(shown), str(own.user()[0])]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert said.stdout.endswith(": OK\n"), said.stderr
    # A CA that is distrusted goes, with its list.
    for path in cas.iterdir():
        path.unlink()
    authorities.publish(settings)
    assert list(shown.iterdir()) == []


def test_a_server_of_crls_that_is_away_is_named_and_the_old_list_stays(own, cas, tmp_path):
    own.crl()
    for path in cas.glob("*.0"):
        path.with_suffix(".crl_url").write_text("http://127.0.0.1:9/ca.crl\n")
    settings = Settings(x509_folder=tmp_path / "x509", ca_folder=str(cas))
    renewer = Renewer(settings)
    authorities.publish(settings)
    kept = authorities.folder(settings) / crl_of(own).name
    kept.write_bytes(crl_of(own).read_bytes())
    old = time.time() - 3 * DAY  # for a day, fetch-crl says nothing
    os.utime(kept, (old, old))
    renewer.look()
    assert "127.0.0.1:9" in renewer.facts()["failing"]["crl"]
    assert kept.exists()


def test_a_stale_crl_is_not_ready(own, tmp_path):
    own.crl(life=-60, start=-2 * DAY)
    settings = Settings(
        x509_folder=tmp_path / "x509", ca_folder=str(own.ca_folder), fetch_crl_hours=0
    )
    renewer = Renewer(settings)
    certificate.keep(settings, user(own))
    renewer.tick()
    renewer.look()
    assert authorities.folder(settings).readlink() == own.ca_folder  # as of CVMFS: its own
    assert renewer.seconds_left()["crl"] < -59
    # The proxy isn't made either: voms-proxy-init looks at the lists, as servers do.
    said = [lack.message for lack in renewer.lacks()]
    assert "CRL has expired" in said[0]
    assert said[1].startswith("the CRL of the certificate's CA has expired")
    expired = [m.samples[0].value for m in renewer.collect() if m.name.endswith("crls_expired")]
    assert expired == [1]
    own.crl()


def test_a_ca_that_goes_is_named(own, cas, tmp_path):
    settings = Settings(x509_folder=tmp_path / "x509", ca_folder=str(cas), fetch_crl_hours=0)
    renewer = Renewer(settings)
    certificate.keep(settings, user(own))
    renewer.tick()
    for path in cas.glob("*.0"):
        path.unlink()
    renewer.look()
    assert "CN=Test CA, which signed" in renewer.lacks()[0].message


def test_from_a_copy_to_cvmfs_and_back(cas, tmp_path):
    for hours, linked in ((6, False), (0, True), (6, False)):
        settings = Settings(
            x509_folder=tmp_path / "x509", ca_folder=str(cas), fetch_crl_hours=hours
        )
        Renewer(settings)
        authorities.publish(settings)
        shown = authorities.folder(settings)
        assert shown.is_symlink() == linked
        assert {path.name for path in shown.iterdir()} == {path.name for path in cas.iterdir()}
