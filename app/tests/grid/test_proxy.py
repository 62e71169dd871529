"""Making a proxy where that fails half way: the one before stays, and nothing is left over."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grid.process import membership
from mlaas4hep.core.errors import LimitError, MlaasError
from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import certificate, proxy
from mlaas4hep.grid.renewer import Renewer
from parts.xrootd import Pki, Voms

pytestmark = pytest.mark.grid


@pytest.fixture
def settings(pki: Pki, vo: Voms, tmp_path: Path, monkeypatch) -> Settings:
    for name, value in membership(pki, vo).items():
        monkeypatch.setenv(f"MLAAS4HEP_{name.upper()}", value)
    made = Settings(x509_folder=tmp_path / "x509", ca_folder=str(pki.ca_folder))
    own = certificate.read([file.read_bytes() for file in pki.user()], lambda: b"")
    certificate.keep(made, own)
    proxy.proxy_file(made).parent.mkdir()
    proxy.make(made, own)
    return made


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond 1,000 bytes, which is a part of a proxy."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:  # the tests' own log grows on
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(settings):
    path = proxy.proxy_file(settings)
    before = path.read_bytes()
    own = certificate.load(settings)
    with full_disk(), pytest.raises(LimitError) as error:
        proxy.make(settings, own)
    assert error.value.message == f"{path} can't be written: File too large"
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_last_proxy_of_a_certificate_ends_with_it(settings, pki):
    """The program takes one that would end later for a failure."""
    last = settings.model_copy(update={"voms": ""})
    own = certificate.read([file.read_bytes() for file in pki.user("dora", life=3600)], bytes)
    certificate.keep(last, own)
    renewer = Renewer(last)
    renewer.tick()
    made = proxy.read(proxy.proxy_file(last))
    assert own.end - 300 < made.end <= own.end
    renewer.tick()  # it can't get any longer
    assert renewer.proxy.done == 1
    assert renewer.lacks() == []


def test_a_young_proxy_is_left_alone(settings):
    before = proxy.proxy_file(settings).read_bytes()
    renewer = Renewer(settings)  # as after a new start
    renewer.tick()
    assert proxy.proxy_file(settings).read_bytes() == before
    assert renewer.lacks() == []


def test_a_role_that_the_vo_does_not_give_is_an_error(settings, vo):
    before = proxy.proxy_file(settings).read_bytes()
    role = "/test.vo/Role=production"
    renewer = Renewer(settings.model_copy(update={"voms": f"test.vo:{role}"}))
    renewer.tick()
    assert vo.asked[-1] == role
    assert proxy.proxy_file(settings).read_bytes() == before
    assert "the VO gave /test.vo, not test.vo:/test.vo/Role=production" in str(renewer.proxy.error)


def test_a_stranger_to_the_vo_is_told(settings, pki):
    bob = certificate.read([file.read_bytes() for file in pki.user("bob")], bytes)
    certificate.keep(settings, bob)
    with pytest.raises(MlaasError) as error:
        proxy.make(settings, bob)
    assert "None of the contacted servers for test.vo were capable" in error.value.message
    assert "registered with the VO" in error.value.remedy


def test_the_program_is_missing(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MlaasError) as error:
        proxy.make(settings, certificate.load(settings))
    assert error.value.message == "voms-proxy-init is missing"
    assert "voms-clients" in error.value.remedy


def test_a_vo_of_which_nothing_is_known(settings, monkeypatch):
    monkeypatch.delenv("MLAAS4HEP_VOMSES")
    unknown = Settings(x509_folder=settings.x509_folder, ca_folder=settings.ca_folder)
    with pytest.raises(MlaasError) as error:
        proxy.make(unknown, certificate.load(settings))
    assert "the servers of the VO test.vo are not known" in error.value.message
    assert "MLAAS4HEP_VOMSES" in error.value.remedy


def test_an_attribute_signed_by_another_is_refused(settings, pki, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_VOMS_LSC", '{"voms.test": ["/CN=another", "/CN=Another CA"]}')
    other = Settings(x509_folder=settings.x509_folder, ca_folder=settings.ca_folder)
    before = proxy.proxy_file(settings).read_bytes()
    with pytest.raises(MlaasError):
        proxy.make(other, certificate.load(settings))
    assert proxy.proxy_file(settings).read_bytes() == before
