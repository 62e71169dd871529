"""Importing a certificate: what is kept, and what is refused without touching what was kept."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from grid.process import ENTRY, SOURCE
from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import GridSettings
from mlaas4hep.grid import certificate
from parts.xrootd import Pki
from parts.xrootd.commands import run

pytestmark = pytest.mark.grid

DAY = 86400
SECRET = b"two words"


@pytest.fixture
def settings(pki: Pki, tmp_path: Path) -> GridSettings:
    return GridSettings(x509_folder=tmp_path / "x509", ca_folder=str(pki.ca_folder))


def put_in(settings: GridSettings, *files: Path, passphrase: bytes = b"") -> None:
    given = certificate.read([file.read_bytes() for file in files], lambda: passphrase)
    certificate.keep(settings, given)


def p12(folder: Path, pair: tuple[Path, Path], *more: str) -> Path:
    made = folder / "user.p12"
    run("openssl", "pkcs12", "-export", "-in", pair[0], "-inkey", pair[1], "-out", made,
        "-passout", f"pass:{SECRET.decode()}", *more)  # fmt: skip
    return made


def locked(folder: Path, key: Path) -> Path:
    made = folder / "userkey.pem"
    words = ("-aes256", "-passout", f"pass:{SECRET.decode()}")
    run("openssl", "pkey", "-in", key, "-out", made, *words)
    return made


def test_a_pair_in_any_order_is_kept_for_its_owner_alone(pki, settings):
    own, key = pki.user()
    for files in ((own, key), (key, own)):
        put_in(settings, *files)
        kept = certificate.own_file(settings)
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]
        assert certificate.load(settings).subject == pki.subject_of("alice")
        # What openssl reads of the file: the certificate, and a key without passphrase.
        modulus = run("openssl", "x509", "-in", own, "-noout", "-modulus")
        assert run("openssl", "rsa", "-in", kept, "-noout", "-modulus") == modulus


@pytest.mark.parametrize("kind", [(), ("-legacy",)])
def test_pkcs12_as_browsers_and_cas_write_it(pki, settings, tmp_path, kind):
    pair = pki.user()
    put_in(settings, p12(tmp_path, pair, "-certfile", str(pki.ca), *kind), passphrase=SECRET)
    kept = certificate.load(settings)
    assert kept.subject == pki.subject_of("alice")
    assert [each.subject for each in kept.others] == [kept.own.issuer]


def test_a_key_with_a_passphrase(pki, settings, tmp_path):
    own, key = pki.user()
    put_in(settings, own, locked(tmp_path, key), passphrase=SECRET)
    assert b"ENCRYPTED" not in certificate.own_file(settings).read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Another authority, which nobody trusts here."""
    return Pki(tmp_path_factory.mktemp("other") / "pki", "Other CA")


def refused(pki: Pki, other: Pki, folder: Path, what: str) -> tuple[list[Path], bytes]:
    own, key = pki.user()
    if what == "other key":
        return [own, pki.user("bob")[1]], b""
    if what == "no key":
        return [own], b""
    if what == "no certificate":
        return [key], b""
    if what == "expired":
        return list(pki.user("carol", life=-DAY, start=-3 * DAY)), b""
    if what == "not yet":
        return list(pki.user("carol", start=DAY)), b""
    if what == "unknown CA":
        return list(other.user()), b""
    if what == "proxy":
        return [pki.proxy()], b""
    if what == "wrong passphrase":
        return [p12(folder, (own, key))], b"wrong"
    if what == "wrong passphrase of a key":
        return [own, locked(folder, key)], b"wrong"
    garbage = folder / "garbage"
    garbage.write_bytes(os.urandom(500))
    return [garbage], SECRET


@pytest.mark.parametrize(
    ("what", "said", "remedy"),
    [
        ("other key", "the key doesn't belong to the certificate", "made for it"),
        ("no key", "there is no private key", "usercert.pem userkey.pem"),
        ("no certificate", "there is no certificate", "usercert.pem userkey.pem"),
        ("expired", "expired on", "Get a new one"),
        ("not yet", "not valid before", "timedatectl"),
        ("unknown CA", "CN=Other CA, which signed /DC=test", "MLAAS4HEP_CA_FOLDER"),
        ("proxy", "is a proxy: it can't be renewed", "Not a proxy"),
        ("wrong passphrase", "the file .p12 can't be read", "passphrase"),
        ("wrong passphrase of a key", "the key can't be read", "passphrase"),
        ("garbage", "the file .p12 can't be read", "is whole"),
    ],
)
def test_what_no_server_would_take_is_refused(pki, settings, other, tmp_path, what, said, remedy):
    put_in(settings, *pki.user("bob"))
    before = certificate.own_file(settings).read_bytes()
    files, passphrase = refused(pki, other, tmp_path, what)
    with pytest.raises(UsageError) as error:
        put_in(settings, *files, passphrase=passphrase)
    assert said in error.value.message
    assert remedy in error.value.remedy
    assert certificate.own_file(settings).read_bytes() == before


def test_a_revoked_certificate_is_refused(other, tmp_path):
    files = other.user()
    settings = GridSettings(x509_folder=tmp_path / "x509", ca_folder=str(other.ca_folder))
    put_in(settings, *files)
    other.crl(revoked=files[0])
    with pytest.raises(UsageError, match="is revoked, says its CA"):
        put_in(settings, *files)


def test_a_ca_whose_own_ca_is_missing_is_named(pki, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    settings = GridSettings(x509_folder=tmp_path / "x509", ca_folder=str(folder))
    with pytest.raises(UsageError) as error:
        put_in(settings, *pki.user())
    assert f"is not in {folder} (0 CAs)" in error.value.message


def environment(settings: GridSettings) -> dict[str, str]:
    return os.environ | {
        "MLAAS4HEP_X509_FOLDER": str(settings.x509_folder),
        "MLAAS4HEP_CA_FOLDER": settings.ca_folder,
        "PYTHONPATH": str(SOURCE),
    }


def test_the_command_takes_a_passphrase_from_a_file(pki, settings, tmp_path):
    given = p12(tmp_path, pki.user())
    words = [*ENTRY, "admin", "certificate", str(given)]
    options = {"env": environment(settings), "capture_output": True, "text": True, "timeout": 60}
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, **options)
    assert ended.returncode == 2
    assert "--passphrase-file" in ended.stderr
    (tmp_path / "passphrase").write_bytes(SECRET + b"\n")
    words += ["--passphrase-file", str(tmp_path / "passphrase")]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{pki.subject_of('alice')}, until ")
    assert SECRET.decode() not in ended.stdout + ended.stderr


def test_the_command_asks_at_a_terminal(pki, settings, tmp_path):
    given = p12(tmp_path, pki.user())
    child, terminal = pty.fork()
    if child == 0:
        os.execve(ENTRY[0], [*ENTRY, "admin", "certificate", str(given)], environment(settings))
    said = b""
    try:
        while b"Passphrase of the key:" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, SECRET + b"\n")
        while piece := os.read(terminal, 1000):
            said += piece
    except OSError:  # it has ended
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    assert SECRET not in said
    assert certificate.load(settings).subject == pki.subject_of("alice")
