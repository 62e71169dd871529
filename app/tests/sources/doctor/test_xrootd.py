"""Set-ups that are broken in one way each, before real servers: is the right thing blamed?

The client's own text is the same for most of them: Auth failed: No protocols left to try.
"""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlaas4hep.sources.doctor import State, diagnose
from parts.xrootd import Pki, Redirector, Server, gsi_origin
from sources.doctor.blame import blamed

pytestmark = pytest.mark.grid


@pytest.fixture
def as_user(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Be a user with a proxy that is made with these options."""
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))

    def become(name: str = "alice", by: Pki = pki, **options: float) -> Path:
        proxy = by.proxy(name, **options)
        monkeypatch.setenv("X509_USER_PROXY", str(proxy))
        return proxy

    return become


@pytest.fixture
def with_token(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a token that is made with these options."""
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))

    def take(by: Pki = pki, **options: object) -> None:
        monkeypatch.setenv("BEARER_TOKEN", by.token(**options))

    return take


def test_all_is_well_with_a_proxy(gsi: Server, pki: Pki, as_user) -> None:
    as_user()
    found = diagnose(f"{gsi.url}/a.root:events")
    assert not found.failed, found.problem
    document = found.document()
    assert (document["ok"], document["problem"], document["remedy"]) == (True, "", "")
    steps = {step["what"]: step for step in document["steps"]}
    assert all(step["state"] == "ok" for step in steps.values())
    proxy = steps["proxy"]["details"]
    assert proxy["dn"] == pki.subject_of("alice")
    assert proxy["issuer"] == pki.subject
    assert 11 * 3600 < proxy["expires"] - time.time() < 13 * 3600
    assert (proxy["vo"], proxy["fqans"]) == (None, [])
    assert steps["server"]["details"]["wants"] == ["gsi"]
    assert re.fullmatch(r"5\.\d\.\d", steps["server"]["details"]["version"])
    assert steps["sign-in"]["details"]["by"] == "gsi"
    assert steps["CA folder"]["details"]["authorities"] == 1
    assert abs(steps["clock"]["details"]["ahead_s"]) <= 1
    assert steps["ROOT"]["details"]["trees"] == ["events"]


def test_the_vo_of_a_proxy(gsi: Server, pki: Pki, as_user, monkeypatch) -> None:
    as_user()
    monkeypatch.setenv("X509_USER_PROXY", str(pki.voms_proxy()))
    found = diagnose(f"{gsi.url}/a.root")
    assert not found.failed, found.problem
    assert (found.detail("proxy", "vo"), found.detail("proxy", "fqans")) == (
        "test.vo",
        ["/test.vo"],
    )
    assert 11 * 3600 < found.detail("proxy", "voms_expires") - time.time() < 13 * 3600


def test_no_proxy(gsi: Server, as_user, monkeypatch, tmp_path: Path) -> None:
    as_user()
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "none"))
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", "no X.509 proxy", "none, which doesn't exist",
           "voms-proxy-init")  # fmt: skip


def test_a_file_that_is_no_proxy(gsi: Server, pki: Pki, as_user, monkeypatch, tmp_path) -> None:
    as_user()
    certificate, _ = pki.user("alice")
    monkeypatch.setenv("X509_USER_PROXY", str(certificate))
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", "there is no private key in it")


def test_an_expired_proxy(gsi: Server, pki: Pki, as_user) -> None:
    as_user(start=-7300, life=-7200)
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", pki.subject_of("alice"), "expired 2 hours ago")


def test_a_proxy_that_is_not_yet_valid(gsi: Server, as_user) -> None:
    as_user(start=3600)
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", "is not valid before", "clock")


def test_a_proxy_of_an_unknown_authority(gsi: Server, other_pki: Pki, as_user) -> None:
    as_user(by=other_pki)
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", "its CA", other_pki.subject, "is not in")


def test_a_proxy_of_an_authority_that_only_the_server_lacks(
    gsi: Server, pki: Pki, other_pki: Pki, as_user, monkeypatch, tmp_path: Path
) -> None:
    as_user(by=other_pki)
    both = tmp_path / "certificates"
    for each in (pki, other_pki):
        shutil.copytree(each.ca_folder, both, dirs_exist_ok=True)
    monkeypatch.setenv("X509_CERT_DIR", str(both))
    blamed(diagnose(f"{gsi.url}/a.root"), "proxy", "localhost doesn't know the CA of the proxy",
           other_pki.subject)  # fmt: skip


def test_a_dn_that_is_not_mapped(gsi: Server, pki: Pki, as_user) -> None:
    as_user("bob")
    blamed(diagnose(f"{gsi.url}/a.root"), "sign-in", pki.subject_of("bob"), "grid-mapfile")


def test_the_servers_authority_is_missing(gsi: Server, pki: Pki, other_pki: Pki, as_user,
                                          monkeypatch) -> None:  # fmt: skip
    as_user()
    monkeypatch.setenv("X509_CERT_DIR", str(other_pki.ca_folder))
    blamed(diagnose(f"{gsi.url}/a.root"), "server certificate", pki.subject, "not among the CAs",
           "X509_CERT_DIR")  # fmt: skip


def test_no_authorities_at_all(gsi: Server, as_user, monkeypatch, tmp_path: Path) -> None:
    as_user()
    for folder, says in ((tmp_path / "none", "there is no folder"), (tmp_path, "holds no CA")):
        monkeypatch.setenv("X509_CERT_DIR", str(folder))
        blamed(diagnose(f"{gsi.url}/a.root"), "CA folder", says, str(folder))


def test_another_name_than_the_certificates(gsi: Server, as_user) -> None:
    as_user()
    url = gsi.url.replace("localhost", "127.0.0.1")
    blamed(diagnose(f"{url}/a.root"), "server certificate", "is for localhost, not for 127.0.0.1")


def test_an_expired_revocation_list(gsi: Server, pki: Pki, as_user, monkeypatch, tmp_path) -> None:
    """It is a warning, until the client is told to insist on a current one."""
    as_user()
    folder = tmp_path / "certificates"
    pki.crl(start=-7200, life=-3600)
    shutil.copytree(pki.ca_folder, folder)
    for each in pki.ca_folder.glob("*.r0"):
        each.unlink()
    monkeypatch.setenv("X509_CERT_DIR", str(folder))
    found = diagnose(f"{gsi.url}/a.root")
    assert found.state("CRL") == State.WARNING, [s.found for s in found.steps]
    assert not found.failed, found.problem
    monkeypatch.setenv("XrdSecGSICRLCHECK", "3")
    blamed(diagnose(f"{gsi.url}/a.root"), "CRL", pki.subject, "expired 60 minutes ago", "fetch-crl")


def test_attributes_of_the_vo_that_expired(gsi: Server, pki: Pki, as_user, monkeypatch) -> None:
    """Before the proxy, as of a VO that gives an hour. The server doesn't mind: a warning."""
    as_user()
    monkeypatch.setenv("X509_USER_PROXY", str(pki.voms_proxy(ac_hours=1)))
    now = time.time()
    monkeypatch.setattr("mlaas4hep.sources.doctor.certificates.time.time", lambda: now + 3 * 3600)
    found = diagnose(f"{gsi.url}/a.root")
    assert not found.failed
    assert found.state("VO") == State.WARNING
    step = next(step for step in found.steps if step.what == "VO")
    assert "the attributes of the VO test.vo" in step.found
    assert "expired 2 hours ago" in step.found


def test_a_proxy_that_others_can_read(gsi: Server, as_user) -> None:
    proxy = as_user()
    proxy.chmod(0o644)
    found = diagnose(f"{gsi.url}/a.root")
    assert not found.failed
    step = next(step for step in found.steps if step.what == "proxy's mode")
    assert step.state == State.WARNING
    assert "0644" in step.found
    assert step.remedy == f"chmod 600 {proxy}"


@pytest.mark.parametrize(
    ("path", "what", "says"),
    [
        ("//store/none.root", "file", "no such file on localhost: /store/none.root"),
        ("//other/a.root", "file", "localhost doesn't export /other/a.root"),
        ("/store/a.root", "file", "Write two slashes"),
        ("//store", "file", "is a folder"),
        ("//store/page.root", "ROOT", "is not a ROOT file: it starts with '<!DOCTYPE html>"),
        ("//store/half.root", "ROOT", "less than it should"),
        ("//store/empty.root", "ROOT", "is empty: 0 bytes"),
    ],
)
def test_a_path_or_file_that_is_wrong(
    gsi: Server, as_user, path: str, what: str, says: str
) -> None:
    as_user()
    blamed(diagnose(gsi.url.removesuffix("//store") + path), what, says)


def test_a_server_that_hangs(gsi: Server, as_user) -> None:
    as_user()
    gsi.pause()
    try:
        found = diagnose(f"{gsi.url}/a.root")
    finally:
        gsi.resume()
    blamed(found, "server", "accepts the connection and doesn't answer within 4 s")


def test_a_server_that_is_down() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found = diagnose(f"root://127.0.0.1:{port}//a.root")
    blamed(found, "connection", f"no connection to 127.0.0.1, port {port}", "connection refused")


def test_a_name_that_does_not_resolve() -> None:
    blamed(diagnose("root://no-such-host.invalid//a.root"), "name",
           "the host name no-such-host.invalid can't be resolved")  # fmt: skip


def test_the_port_of_a_web_server(tokens: Server) -> None:
    port = int(re.search(r":(\d+)/", tokens.https)[1])
    blamed(diagnose(f"root://localhost:{port}//a.root"), "server",
           "ends the connection", "https://")  # fmt: skip


def test_all_is_well_with_a_token(tokens: Server, with_token) -> None:
    with_token()
    for url in (tokens.url, tokens.https):
        found = diagnose(f"{url}/a.root")
        assert not found.failed, found.problem
        assert found.detail("token", "sub") == "alice"
        assert found.detail("token", "scopes") == ["storage.read:/"]
        assert found.state("TLS") == State.OK


@pytest.mark.parametrize("scheme", ["roots", "xroot", "davs"])
def test_other_names_of_schemes(tokens: Server, with_token, scheme: str) -> None:
    with_token()
    url = tokens.https if scheme == "davs" else tokens.url
    found = diagnose(f"{scheme}://{url.partition('://')[2]}/a.root")
    assert not found.failed, found.problem


def test_a_token_is_never_shown(tokens: Server, pki: Pki, monkeypatch) -> None:
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))
    token = pki.token(aud="https://elsewhere.test")
    monkeypatch.setenv("BEARER_TOKEN", token)
    for url in (tokens.url, tokens.https):
        document = str(diagnose(f"{url}/a.root?authz=Bearer%20{token}").document())
        assert not any(part in document for part in token.split("."))


@pytest.mark.parametrize("scheme", ["url", "https"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"life": -7200}, "expired 2 hours ago"),
        ({"start": 3600, "life": 7200}, "is not valid before"),
        ({"aud": "https://elsewhere.test"}, "its audience is https://elsewhere.test"),
        ({"scope": "storage.read:/other"}, "its scope storage.read:/other doesn't cover /store/"),
        ({"scope": "openid profile"}, "it has no scope to read, but openid profile"),
        ({"issuer": "https://unknown.test/"}, "issuer https://unknown.test/"),
    ],
)
def test_a_token_that_is_refused(
    tokens: Server, with_token, scheme: str, options: dict[str, object], says: str
) -> None:
    with_token(**options)
    blamed(diagnose(f"{getattr(tokens, scheme)}/a.root"), "token", says)


@pytest.mark.parametrize("scheme", ["url", "https"])
def test_no_token(tokens: Server, pki: Pki, monkeypatch, tmp_path: Path, scheme: str) -> None:
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))
    url = f"{getattr(tokens, scheme)}/a.root"
    blamed(diagnose(url), "token", "no bearer token", "BEARER_TOKEN_FILE")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "none"))
    blamed(diagnose(url), "token", str(tmp_path / "none"), "No such file")


def test_a_token_file_that_others_can_read(tokens: Server, pki: Pki, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("X509_CERT_DIR", str(pki.ca_folder))
    file = tmp_path / "token"
    file.write_text(pki.token())
    file.chmod(0o644)
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    blamed(diagnose(f"{tokens.url}/a.root"), "token's mode", f"chmod 600 {file}")


@pytest.mark.parametrize("scheme", ["url", "https"])
def test_tls_of_an_unknown_authority(tokens: Server, with_token, other_pki: Pki, monkeypatch,
                                     pki: Pki, scheme: str) -> None:  # fmt: skip
    with_token()
    monkeypatch.setenv("X509_CERT_DIR", str(other_pki.ca_folder))
    blamed(diagnose(f"{getattr(tokens, scheme)}/a.root"), "TLS", pki.subject, "not among")


def test_tls_without_authorities(tokens: Server, with_token, monkeypatch, tmp_path: Path) -> None:
    with_token()
    monkeypatch.setenv("X509_CERT_DIR", str(tmp_path / "none"))
    blamed(diagnose(f"{tokens.url}/a.root"), "CA folder", "there is no folder")


@pytest.mark.parametrize("scheme", ["url", "https"])
def test_tls_of_another_name(tokens: Server, with_token, scheme: str) -> None:
    with_token()
    url = getattr(tokens, scheme).replace("localhost", "127.0.0.2")
    blamed(diagnose(f"{url}/a.root"), "TLS", "is for localhost, not for 127.0.0.2")


def test_files_behind_https_that_are_wrong(tokens: Server, with_token) -> None:
    with_token()
    for name, what, says in (
        ("none.root", "file", "no such file on localhost: /store/none.root"),
        ("page.root", "ROOT", "is not a ROOT file"),
        ("half.root", "ROOT", "less than it should"),
        ("empty.root", "ROOT", "is empty"),
    ):
        blamed(diagnose(f"{tokens.https}/{name}"), what, says)


def test_behind_a_redirector(redirecting: Redirector, as_user, small_files: list[Path]) -> None:
    as_user()
    found = diagnose(redirecting.put(small_files[0]))
    assert not found.failed, found.problem
    assert found.detail("server", "role") == "redirector"
    assert found.detail("redirected", "server") in [
        f"localhost:{origin.port}" for origin in redirecting.origins
    ]


def test_a_file_that_no_server_has(redirecting: Redirector, as_user) -> None:
    as_user()
    blamed(diagnose(f"{redirecting.url}/none.root"), "file",
           "no server behind the redirector localhost has /store/none.root")  # fmt: skip


def test_the_server_behind_a_redirector_accepts_nobody(
    redirecting: Redirector, pki: Pki, as_user, small_files: list[Path]
) -> None:
    """The redirector knows the user, and the server that it sends to doesn't."""
    as_user()
    origin = redirecting.origins[1]
    origin.put(small_files[0], "refused.root")
    mapping = origin.folder / "grid-mapfile"
    content = mapping.read_text()
    mapping.write_text("")
    origin.stop()
    origin.start()
    try:
        found = diagnose(f"{redirecting.url}/refused.root")
    finally:
        mapping.write_text(content)
        origin.stop()
        origin.start()
    blamed(found, "sign-in", pki.subject_of("alice"))
    assert f"localhost sends to localhost, port {origin.port}" in [s.found for s in found.steps]


@pytest.mark.parametrize(
    ("user", "says"),
    [("bob", "the origin doesn't accept its proxy or token"), (None, "no server runs there")],
)
def test_a_relay_that_cannot_get_the_file(
    gsi: Server, pki: Pki, as_user, user: str | None, says: str
) -> None:
    """A proxy server, as caches are, with a proxy that its origin refuses, or no origin."""
    as_user()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    origin = gsi.url.split("/")[2] if user else f"localhost:{port}"
    relay = gsi_origin(pki)
    with relay.configuration.open("a") as configuration:
        configuration.write(f"ofs.osslib libXrdPss.so\npss.origin {origin}\n")
    proxy = pki.proxy(user or "alice", path=relay.folder / "proxy.pem")
    relay.programs[0].env |= {
        "X509_USER_PROXY": str(proxy),
        "X509_CERT_DIR": str(relay.folder / "certificates"),
        "XRD_CONNECTIONRETRY": "1",
        "XRD_CONNECTIONWINDOW": "2",
    }
    relay.own()
    with relay:
        blamed(diagnose(f"{relay.url}/a.root"), "origin", "localhost is a proxy server", says)
