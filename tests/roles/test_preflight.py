"""What preflight says: each thing that can be wrong, made wrong for real."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PEM = Encoding.PEM
GROUPS = {"audience": ["mlaas4hep"], "allowed_groups": ["physicists"]}


@pytest.fixture
def look(preflight: ModuleType) -> Callable[..., Any]:
    """Run the checks for some options, the others at their defaults."""

    def run(**given: Any) -> Any:
        nothing = dict.fromkeys(
            [
                "system",
                "engine",
                "registry",
                "issuer",
                "domain",
                "certificate",
                "variables",
                "ansible_version",
                "sign_in",
                "data_hosts",
                "grid",
            ]
        )
        empty = {"ports": [], "files": [], "networks": [], "required": []}
        empty |= {"ca_pem": "", "ca_file": ""}
        return preflight.check(nothing | empty | given)

    return run


def only(found: Any) -> str:
    """The one problem; nothing else was complained about."""
    assert not found.warnings
    (problem,) = found.problems
    return problem


class Issuer(http.server.BaseHTTPRequestHandler):
    says = ""
    ahead = 0

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.ahead)

    def do_GET(self) -> None:
        body = json.dumps({"issuer": self.says}).encode() if self.says else b"<html>"
        self.send_response(200 if "/.well-known/openid-configuration" in self.path else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def issuer() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Issuer.says = f"http://127.0.0.1:{server.server_port}/realms/x"
        yield Issuer.says
        server.shutdown()
        thread.join()


def asked(url: str, **changed: Any) -> dict[str, Any]:
    return {"url": url, "option": "mlaas4hep_issuer"} | GROUPS | changed


class TestIssuer:
    def test_one_that_is_as_it_says_is_no_problem(self, look: Any, issuer: str) -> None:
        found = look(issuer=asked(issuer))
        assert not found.problems
        assert not found.warnings

    def test_another_name_is_a_problem_that_says_which(self, look: Any, issuer: str) -> None:
        problem = only(look(issuer=asked(issuer + "/")))
        assert f"Set mlaas4hep_issuer to {issuer!r}" in problem

    def test_one_that_is_away_is_a_problem(self, look: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        problem = only(look(issuer=asked(f"http://127.0.0.1:{port}")))
        assert "refused" in problem
        assert "mlaas4hep_ca_bundle" in problem

    def test_a_page_that_is_no_document_is_a_problem(self, look: Any, issuer: str) -> None:
        Issuer.says = ""
        assert "can't be read" in only(look(issuer=asked(issuer)))

    @pytest.mark.parametrize(("ahead", "said"), [(90, "behind"), (-90, "ahead of")])
    def test_another_time_than_the_issuers_is_a_problem(
        self, look: Any, issuer: str, monkeypatch: pytest.MonkeyPatch, ahead: int, said: str
    ) -> None:
        monkeypatch.setattr(Issuer, "ahead", ahead)
        assert f"s {said} the issuer's" in only(look(issuer=asked(issuer)))

    @pytest.mark.parametrize("url", ["http://iam.example.org", "iam.example.org", "ftp://x/"])
    def test_only_https_is_taken(self, look: Any, url: str) -> None:
        assert "https://" in only(look(issuer=asked(url)))

    def test_no_groups_is_a_problem(self, look: Any, issuer: str) -> None:
        problem = only(look(issuer=asked(issuer, allowed_groups=[])))
        assert "mlaas4hep_allowed_groups is empty" in problem

    def test_no_audience_is_a_warning(self, look: Any, issuer: str) -> None:
        found = look(issuer=asked(issuer, audience=[]))
        assert not found.problems
        assert "mlaas4hep_audience is empty" in found.warnings[0]


class TestSignIn:
    def where(self, folder: Path, *files: str, **given: Any) -> dict[str, Any]:
        for name in files:
            (folder / name).touch()
        paths = {name: str(folder / name) for name in ("made", "data")}
        return {"issuer": "", "consent": False} | paths | given

    def test_it_ends_only_with_consent(self, look: Any, tmp_path: Path) -> None:
        where = self.where(tmp_path, "made", "data")
        assert "mlaas4hep_drop_sign_in" in only(look(sign_in=where))
        assert not look(sign_in=where | {"consent": True}).problems
        assert not look(sign_in=where | {"issuer": "https://iam.example.org"}).warnings

    def test_it_begins_with_a_word_about_data_of_nobody(self, look: Any, tmp_path: Path) -> None:
        found = look(sign_in=self.where(tmp_path, "data", issuer="https://iam.example.org"))
        assert not found.problems
        assert "mlaas4hep-admin give" in found.warnings[0]

    def test_a_bare_host_is_no_problem_either_way(self, look: Any, tmp_path: Path) -> None:
        for issuer in ("", "https://iam.example.org"):
            found = look(sign_in=self.where(tmp_path, issuer=issuer))
            assert not found.problems
            assert not found.warnings


class TestEngine:
    """With the engine's settings in a folder of the test's own."""

    @pytest.fixture
    def daemon(self, engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        settings = engine.Settings
        files = {"daemon": tmp_path / "daemon.json", "ours": tmp_path / "ours.json"}
        monkeypatch.setattr(engine, "Settings", lambda *words: settings(*words, **files))
        return files["daemon"]

    def wanted(self, **options: Any) -> dict[str, Any]:
        defaults = {"live-restore": True}
        return {"package": "docker.io", "defaults": defaults, "options": options}

    def test_what_others_set_otherwise_names_the_setting(self, look: Any, daemon: Path) -> None:
        daemon.write_text('{"data-root": "/srv/theirs"}')
        found = look(engine=self.wanted(**{"data-root": "/srv/ours"}))
        (problem,) = [text for text in found.problems if "data-root" in text]
        assert '"/srv/theirs"' in problem
        assert '"/srv/ours"' in problem

    @pytest.mark.parametrize("text", ["{", "[]", "7"])
    def test_a_file_that_is_no_json_is_a_problem(self, look: Any, daemon: Path, text: str) -> None:
        daemon.write_text(text)
        assert [p for p in look(engine=self.wanted()).problems if "can't be read" in p]

    def test_other_users_in_containers_are_a_problem(self, look: Any, daemon: Path) -> None:
        daemon.write_text('{"userns-remap": "default"}')
        assert [p for p in look(engine=self.wanted()).problems if "userns-remap" in p]


class TestRegistry:
    """Where images are pulled, and the logins for it."""

    LOGIN = json.dumps({"auths": {"registry.example.org": {"auth": "bmFtZTpzM2NyZXQ="}}})

    @pytest.mark.parametrize("name", ["", "r.example.org", "r.example.org/a/b", "reg:5000/a"])
    def test_a_good_name_is_no_problem(self, look: Any, name: str) -> None:
        assert not look(registry={"name": name, "logins": ""}).problems

    @pytest.mark.parametrize("name", ["https://r.example.org", "r.example.org/", "mirror", "R.org"])
    def test_another_is_named(self, look: Any, name: str) -> None:
        assert repr(name) in only(look(registry={"name": name, "logins": ""}))

    def test_logins_that_docker_can_read_are_no_problem(self, look: Any, tmp_path: Path) -> None:
        file = tmp_path / "config.json"
        file.write_text(self.LOGIN)
        assert not look(registry={"name": "", "logins": str(file)}).problems

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"auths": {}}', "name:s3cret"])
    def test_a_file_without_logins_names_the_command(
        self, look: Any, tmp_path: Path, text: str
    ) -> None:
        """And shows nothing of what is in it."""
        file = tmp_path / "config.json"
        file.write_text(text)
        problem = only(look(registry={"name": "", "logins": str(file)}))
        assert f"docker --config {tmp_path} login" in problem
        assert "s3cret" not in problem

    def test_docker_wants_its_own_name_of_the_file(self, look: Any, tmp_path: Path) -> None:
        file = tmp_path / "auth.json"
        file.write_text(self.LOGIN)
        assert "config.json" in only(look(registry={"name": "", "logins": str(file)}))


class TestPorts:
    def test_one_in_use_names_its_holder_and_the_option(self, look: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            problem = only(look(ports=[{"port": port, "option": "gateway_https_port"}]))
        assert f"port {port} is in use" in problem
        assert "gateway_https_port" in problem

    def test_a_free_one_is_no_problem(self, look: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert not look(ports=[{"port": port, "option": "gateway_https_port"}]).problems


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    folder = tmp_path_factory.mktemp("certificates")

    def make(name: str, days: int) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        end = datetime.now(UTC) + timedelta(days=days)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(end - timedelta(days=100))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        paths = folder / f"{name}{days}.pem", folder / f"{name}{days}.key"
        paths[0].write_bytes(certificate.public_bytes(PEM))
        paths[1].write_bytes(key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(paths[0]), str(paths[1])

    return make


class TestCertificate:
    DOMAIN = "mlaas.example.org"

    def given(self, pair: tuple[str, str]) -> dict[str, str]:
        return {"certificate": pair[0], "key": pair[1], "domain": self.DOMAIN}

    def test_a_good_one_is_no_problem(self, look: Any, certificates: Any) -> None:
        found = look(certificate=self.given(certificates(self.DOMAIN, 90)))
        assert not found.problems
        assert not found.warnings

    def test_another_host_s_is_a_problem(self, look: Any, certificates: Any) -> None:
        problem = only(look(certificate=self.given(certificates("other.example.org", 90))))
        assert f"is not for {self.DOMAIN}" in problem

    def test_another_s_key_is_a_problem(self, look: Any, certificates: Any) -> None:
        pair = certificates(self.DOMAIN, 90)[0], certificates("other.example.org", 90)[1]
        assert "KEY_VALUES_MISMATCH" in only(look(certificate=self.given(pair)))

    def test_a_missing_file_is_a_problem(self, look: Any) -> None:
        assert "No such file" in only(look(certificate=self.given(("/nowhere.pem", "/nowhere"))))

    def test_one_that_ended_is_a_problem(self, look: Any, certificates: Any) -> None:
        assert "ended on" in only(look(certificate=self.given(certificates(self.DOMAIN, -1))))

    def test_one_that_ends_soon_is_a_warning(self, look: Any, certificates: Any) -> None:
        found = look(certificate=self.given(certificates(self.DOMAIN, 3)))
        assert not found.problems
        assert "Renew it" in found.warnings[0]


class TestDomain:
    def domain(self, name: str, resolve: bool = True) -> dict[str, Any]:
        return {"name": name, "option": "mlaas4hep_domain", "resolve": resolve}

    @pytest.mark.parametrize("name", ["", "https://mlaas.example.org", "MLaaS.example.org", "a b"])
    def test_it_must_be_a_name(self, look: Any, name: str) -> None:
        assert "mlaas4hep_domain is" in only(look(domain=self.domain(name)))

    def test_acme_needs_one_that_resolves(self, look: Any) -> None:
        assert "DNS" in only(look(domain=self.domain("nowhere.invalid")))

    def test_else_it_is_a_warning(self, look: Any) -> None:
        found = look(domain=self.domain("nowhere.invalid", resolve=False))
        assert not found.problems
        assert "can't be resolved" in found.warnings[0]

    def test_one_that_resolves_is_no_problem(self, look: Any) -> None:
        assert not look(domain=self.domain("localhost")).problems


class TestSystem:
    def test_everything_is_said_at_once(self, look: Any) -> None:
        huge = dict.fromkeys(["memory_mb", "disk_gb", "images_gb", "cpus"], 10**9)
        wanted = {"releases": {"debian": ["1"]}, "engine": {}} | huge
        problems = "\n".join(look(system=wanted, ansible_version="2.15.3").problems)
        for text in ("supported are debian 1", "MB of memory", "GB are free", "cores", "2.15.3"):
            assert text in problems

    def test_what_is_needed_may_be_text(self, look: Any) -> None:
        """As ansible-core 2.16 gives an option whose default is computed."""
        few = dict.fromkeys(["memory_mb", "disk_gb", "images_gb", "cpus"], "1")
        wanted = {"releases": {"debian": ["12"]}, "engine": {}}
        said = "\n".join(look(system=wanted | few).problems)
        assert not [word for word in ("MB of memory", "GB are free", "cores") if word in said]
        assert "cores" in "\n".join(look(system=wanted | few | {"cpus": "1000000"}).problems)

    def test_one_disk_must_hold_data_and_images(
        self, preflight: ModuleType, tmp_path: Path
    ) -> None:
        """Also where neither folder is there yet; a disk of its own for each is asked alone."""
        free = shutil.disk_usage(tmp_path).free // 10**9
        data, images = tmp_path / "data/x", tmp_path / "images"
        found = preflight.Found()
        preflight.check_disk(found, {data: free // 2, images: free // 2})
        preflight.check_disk(found, {data: free // 2, Path("/proc"): 0})
        assert not found.problems
        preflight.check_disk(found, {data: free, images: 2})
        assert f"free below {data} and {images}; {free + 2} GB are needed" in only(found)

    def test_newer_versions_of_ansible_are_no_problem(self, look: Any) -> None:
        for version in ("2.16.0", "2.19.4", "2.20.1", "3.0"):
            assert not look(ansible_version=version).problems


class TestOptions:
    def variables(self, given: str, known: str) -> dict[str, Any]:
        return {"given": [given], "known": [known], "renamed": {}, "passwords": [], "secrets": []}

    def test_an_address_with_a_password_names_the_option_alone(self, look: Any) -> None:
        given = self.variables("mlaas4hep_http_proxy", "mlaas4hep_http_proxy")
        problem = only(look(variables=given | {"passwords": ["mlaas4hep_http_proxy"]}))
        assert "mlaas4hep_http_proxy has a password" in problem

    def test_a_secret_is_named_by_its_option_alone(self, look: Any) -> None:
        given = self.variables("container_engine_options", "container_engine_options")
        secret = "container_engine_options: splunk-token"
        assert f"{secret} looks like a secret" in only(
            look(variables=given | {"secrets": [secret]})
        )

    def test_a_renamed_variable_names_the_new_one(self, look: Any) -> None:
        renamed = {"gateway_old": "gateway_new"}
        given = self.variables("gateway_old", "gateway_new") | {"renamed": renamed}
        assert "it is called gateway_new now" in only(look(variables=given))

    def test_a_misspelt_variable_names_the_nearest(self, look: Any) -> None:
        given = self.variables("gateway_tlss", "gateway_tls")
        assert "Perhaps gateway_tls is meant" in look(variables=given).warnings[0]

    def test_an_option_that_is_needed(self, look: Any) -> None:
        needed = {"option": "mlaas4hep_issuer", "value": "", "why": "browsers sign in there"}
        assert "Set mlaas4hep_issuer" in only(look(required=[needed]))
        assert not look(required=[needed | {"value": "x"}]).problems

    def test_a_file_that_is_needed(self, look: Any) -> None:
        file = {"path": "/nowhere", "option": "oauth2_proxy_client_secret_file"}
        assert "oauth2_proxy_client_secret_file" in only(look(files=[file]))
        assert not look(files=[file | {"path": __file__}]).problems

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_secret_is_its_owners_only(self, look: Any, tmp_path: Path, mode: int) -> None:
        file = {"path": str(tmp_path / "key"), "option": "gateway_acme_eab_key_file"}
        (tmp_path / "key").touch(mode)
        (tmp_path / "key").chmod(mode)
        assert not look(files=[file]).problems
        assert "chmod 600" in only(look(files=[file | {"secret": True}]))
        (tmp_path / "key").chmod(0o600)
        assert not look(files=[file | {"secret": True}]).problems

    @pytest.mark.parametrize("text", ["", "\n", "*", "short", "a" * 15, f"{'a' * 16}*", "a b" * 9])
    def test_a_token_can_not_be_guessed(self, look: Any, tmp_path: Path, text: str) -> None:
        file = {"path": str(tmp_path / "token"), "option": "gateway_metrics_token_file"}
        (tmp_path / "token").write_text(text)
        assert "openssl rand" in only(look(files=[file | {"token": True}]))
        for good in ("a" * 16, "0123456789-._~+/aB==\n"):
            (tmp_path / "token").write_text(good)
            assert not look(files=[file | {"token": True}]).problems

    @pytest.mark.parametrize("entry", ["https://a.org", "0.0.0.0/0", "169.254.169.254", "*.org"])
    def test_data_hosts_are_hosts_that_trainings_may_reach(
        self, look: Any, entry: str, wrong_data_hosts: Callable[..., Any]
    ) -> None:
        fine = ["eospublic.cern.ch", "*.example.org:8443", "10.1.0.0/16"]
        given = {"listed": [*fine, entry], "wrong": wrong_data_hosts(fine), "network": "none"}
        assert not look(data_hosts=given).problems
        given["wrong"] = wrong_data_hosts([*fine, entry])
        assert f"mlaas4hep_data_hosts has {entry!r}; it " in only(look(data_hosts=given))

    def test_data_hosts_and_a_network_exclude_each_other(self, look: Any) -> None:
        given = {"listed": ["a.org"], "wrong": [], "network": "data"}
        assert "mlaas4hep_job_network is 'data'" in only(look(data_hosts=given))
        assert not look(data_hosts=given | {"listed": []}).problems

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"origins": ["root://a.org"]}, "mlaas4hep_xrootd_origins has 'root://a.org'"),
            ({"origins": ["a.org:1094/store"]}, "it must be HOST or HOST:PORT"),
            ({"paths": [], "data_paths": {}}, "mlaas4hep_xrootd_paths lists nothing"),
            ({"paths": ["/store/", "/eos"]}, "has '/eos'; it must be a folder"),
            ({"paths": ["/store/", "/eos/../"]}, "has '/eos/../'; it must be a folder"),
            ({"issuer": ""}, "mlaas4hep_issuer is empty"),
            ({"data_paths": {"a": "/store/"}}, "it must be a list"),
            ({"data_paths": {"a": ["/store/a"]}}, "for a, has '/store/a'; it must be a folder"),
            ({"data_paths": {"a": ["/eos/"]}}, "for a, has '/eos/'; it is below no folder"),
            ({"network": "data"}, "mlaas4hep_job_network is 'data'"),
            ({"cache_gib": "0"}, "mlaas4hep_xrootd_cache_gib is 0"),
            ({"cache_gib": "999999999"}, "has room for"),
            ({"vo": "cms:cms"}, "mlaas4hep_vo is 'cms:cms'"),
            ({"uid": "64004"}, "must not be able to read the proxy"),
            ({"ca_folder": "/no/such"}, "has no CAs (HASH.0)"),
        ],
    )
    def test_files_of_the_grid(
        self, look: Any, tmp_path: Path, given: dict[str, Any], said: str
    ) -> None:
        (tmp_path / "0123abcd.0").touch()
        fine = {
            "origins": ["xrootd.example.org", "192.0.2.1:1095", "se"],
            "paths": ["/store/", "/eos/open-data/"], "data_paths": {"a": ["/store/a/"]},
            "issuer": "https://iam.example.org/", "network": "none", "cache_gib": "1",
            "cache": str(tmp_path / "cache"), "vo": "cms:/cms/Role=production",
            "ca_folder": str(tmp_path), "uid": "64005", "store_uid": "64004",
        }  # fmt: skip
        assert not look(grid=fine).problems
        assert said in only(look(grid=fine | given))

    @pytest.mark.parametrize("network", ["192.0.2.1/24", "prometheus", "", "192.0.2.0/33"])
    def test_networks_are_addresses(self, look: Any, network: str) -> None:
        given = {"network": network, "option": "gateway_metrics_networks"}
        assert f"gateway_metrics_networks has {network!r}" in only(look(networks=[given]))
        for good in ("192.0.2.0/24", "192.0.2.1", "2001:db8::/32"):
            assert not look(networks=[given | {"network": good}]).problems
