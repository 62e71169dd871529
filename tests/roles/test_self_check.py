"""What the check after a deployment says: each thing that can be wrong, made wrong for real."""

from __future__ import annotations

import http.server
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

NAME = "localhost"
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
PROBLEM = {"Content-Type": "application/problem+json"}
Answers = dict[str, tuple[int, dict[str, str], str]]
BROKEN = (0, dict[str, str](), "")


class Authority:
    """One of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A site's CA")])
        made = self._signed(self.subject, self._key.public_key(), 10, ca=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(made.public_bytes(Encoding.PEM))

    def context(self, *names: str, days: int = 50) -> ssl.SSLContext:
        """Of a server with a certificate for these names, which ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        made = self._signed(subject, key.public_key(), days, *names)
        file = self._folder / f"{names[0]}{days}.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(made.public_bytes(Encoding.PEM) + secret)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self, subject: x509.Name, key: Any, days: int, *names: str, ca: bool = False
    ) -> x509.Certificate:
        end = datetime.now(UTC) + timedelta(days=days)
        made = (
            x509.CertificateBuilder(self.subject, subject, key, x509.random_serial_number())
            .not_valid_before(end - timedelta(days=100))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        alternative: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        if alternative:
            made = made.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        return made.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Gateway:
    """A server that answers as the deployed gateway does."""

    port: int
    answers: Answers = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, name: str = NAME) -> str:
        return f"https://{name}:{self.port}"

    def well(self, name: str = NAME) -> None:
        callback = f"https%3A%2F%2F{name}%3A{self.port}%2Foauth2%2Fcallback"
        issuer = f"https://iam.test/authorize?client_id=x&redirect_uri={callback}"
        self.answers |= {
            "/": (302, {"Location": issuer}, ""),
            "/jobs": (401, PROBLEM, "{}"),
            "/readyz": (200, {}, '{"status": "ready"}'),
            "/tfaas/readyz": (200, {}, '{"status": "ready"}'),
        }


Serve = Callable[..., Gateway]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start one with this TLS."""
    with ExitStack() as stack:

        def start(context: ssl.SSLContext, at: str = HERE, port: int = 0) -> Gateway:
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    gateway.asked.append(self.path)
                    status, headers, body = gateway.answers.get(self.path, (404, {}, "nothing"))
                    if not status:
                        return
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body.encode())

                def log_message(self, *_: object) -> None: ...

            class Server(http.server.ThreadingHTTPServer):
                def finish_request(self, request: Any, address: Any) -> None:
                    try:
                        with context.wrap_socket(request, server_side=True) as wrapped:
                            super().finish_request(wrapped, address)
                    except OSError:  # a client that doesn't like the certificate
                        pass

            server = stack.enter_context(Server((at, port), Handler))
            gateway = Gateway(server.server_port)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return gateway

        yield start


@pytest.fixture
def check(self_check: ModuleType, authority: Authority) -> Callable[..., Any]:
    """What is wrong with it, and what is warned of, for a site that trusts the test's authority."""

    def run(url: str = "", **given: Any) -> tuple[list[str], list[str]]:
        usual = {
            "url": url,
            "ready": {"/readyz": "mlaas4hep-server", "/tfaas/readyz": "mlaas4hep-tfaas"},
            "sign_in": True,
            "resolve": True,
            "trusted": True,
            "ca_files": [str(authority.file)],
            "acme_directory": "",
            "log": [],
            "prediction": [],
        }
        found: tuple[list[str], list[str]] = self_check.check(usual | given)
        return found

    return run


def only(found: tuple[list[str], list[str]]) -> str:
    """The one problem."""
    assert not found[1]
    (problem,) = found[0]
    return problem


def free_port() -> int:
    with socket.create_server((HERE, 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class TestDoor:
    def test_one_that_is_as_it_must_be(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        gateway = serve(authority.context(NAME))
        gateway.well()
        assert check(gateway.url()) == ([], [])
        assert sorted(gateway.asked) == sorted(gateway.answers)

    def test_an_authority_that_nobody_knows(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        """For trials it is a warning, and the rest is checked all the same."""
        gateway = serve(authority.context(NAME))
        gateway.well()
        problem = only(check(gateway.url(), ca_files=[]))
        assert f"The certificate of {NAME} is not valid: unable to get" in problem
        assert "gateway_certificate_ca" in problem
        problems, warnings = check(gateway.url(), ca_files=[], trusted=False)
        assert problems == []
        assert "gateway_acme_directory to production" in warnings[0]
        assert "/jobs" in gateway.asked

    @pytest.mark.parametrize("trusted", [True, False])
    def test_one_that_has_expired_or_is_for_another_name(
        self, check: Any, serve: Serve, authority: Authority, trusted: bool
    ) -> None:
        url = serve(authority.context(NAME, days=-1)).url()
        assert "expired. Renew it" in only(check(url, trusted=trusted))
        url = serve(authority.context("other.test")).url()
        assert "Give one that names mlaas4hep_domain" in only(check(url, trusted=trusted))

    def test_one_that_ends_soon_is_a_warning(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        gateway = serve(authority.context(NAME, days=13))
        gateway.well()
        problems, (warning,) = check(gateway.url())
        assert problems == []
        assert f"The certificate of {NAME} ends on " in warning
        gateway = serve(authority.context(NAME, days=15))
        gateway.well()
        assert check(gateway.url()) == ([], [])

    def test_no_certificate_yet_in_the_words_of_the_gateway(
        self, check: Any, serve: Serve, authority: Authority, tmp_path: Path
    ) -> None:
        context = authority.context("other.test")
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        url = serve(context).url()
        assert f"no certificate for {NAME}: TLSV1_ALERT_INTERNAL_ERROR. Correct" in only(check(url))
        log = tmp_path / "log"
        entries = [
            {"logger": "tls.obtain", "error": "an older one"},
            {"logger": "tls.obtain", "error": "HTTP 404: <html>\n<p>Not found"},
            {"logger": "http.log.access", "error": "another matter"},
        ]
        log.write_text("\n".join(["no JSON", *map(json.dumps, entries)]))
        directory = "https://acme.test/wrong"
        problem = only(check(url, log=["cat", str(log)], acme_directory=directory))
        assert f"no certificate for {NAME} from {directory}: HTTP 404: Not found." in problem
        assert "gateway_acme_directory" in problem

    def test_a_name_that_leads_to_another_machine(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        ours = serve(authority.context(ELSEWHERE))
        serve(authority.context("another.test"), ELSEWHERE, ours.port)
        problem = only(check(ours.url(ELSEWHERE)))
        assert f"{ELSEWHERE} leads to {ELSEWHERE}, where another machine answers" in problem
        assert "DNS" in problem

    def test_a_port_that_is_closed_outside_only(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        problem = only(check(serve(authority.context(ELSEWHERE)).url(ELSEWHERE)))
        assert "is closed (Connection refused), but this host answers" in problem
        assert "security group" in problem

    def test_a_port_that_is_closed_everywhere(self, check: Any) -> None:
        port = free_port()
        problem = only(check(f"https://{NAME}:{port}"))
        assert f"port {port} is closed (Connection refused), and this host doesn't" in problem
        assert "closed" in only(check(f"http://{HERE}:{port}", sign_in=False))

    def test_a_name_that_is_not_in_the_dns(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        """Only ACME needs the host to find itself: others' users may have a DNS of their own."""
        name = "nowhere.invalid"
        gateway = serve(authority.context(name))
        gateway.well(name)
        assert "can't be resolved" in only(check(gateway.url(name)))
        problems, warnings = check(gateway.url(name), resolve=False)
        assert problems == []
        assert "can't be resolved" in warnings[0]

    def test_a_file_of_authorities_that_is_none(self, check: Any, tmp_path: Path) -> None:
        problem = only(check(f"https://{NAME}", ca_files=[str(tmp_path / "none.pem")]))
        assert f"{tmp_path}/none.pem can't be read" in problem


class TestAnswers:
    def test_all_that_is_wrong_is_said_at_once(
        self, check: Any, serve: Serve, authority: Authority
    ) -> None:
        gateway = serve(authority.context(NAME))
        gateway.answers = {
            "/": (502, {}, ""),
            "/jobs": (200, {"Content-Type": "application/json"}, "[]"),
            "/readyz": (503, PROBLEM, '{"title":\n "no runner"}'),
        }
        problems, _ = check(gateway.url())
        for said, problem in zip(
            [
                '/readyz answers 503: {"title": "no runner"}. See docker logs mlaas4hep-server',
                "/tfaas/readyz answers 404: nothing. See docker logs mlaas4hep-tfaas",
                "is not sent to the issuer and back: it gets 502 nothing",
                "/jobs answers 200 as application/json to a request without a token",
            ],
            problems,
            strict=True,
        ):
            assert said in problem

    @pytest.mark.parametrize("callback", ["https://old.test/oauth2/callback", ""])
    def test_a_browser_must_come_back_to_this_address(
        self, check: Any, serve: Serve, authority: Authority, callback: str
    ) -> None:
        gateway = serve(authority.context(NAME))
        gateway.well()
        location = f"https://iam.test/authorize?redirect_uri={callback}"
        gateway.answers["/"] = (302, {"Location": location}, "")
        assert f"it gets 302 {location}" in only(check(gateway.url()))

    def test_one_that_breaks_off(self, check: Any, serve: Serve, authority: Authority) -> None:
        gateway = serve(authority.context(NAME))
        gateway.well()
        gateway.answers["/jobs"] = BROKEN
        assert f"{gateway.url()} broke off its answer" in only(check(gateway.url()))

    def test_a_prediction_that_fails_is_said_in_its_own_words(self, check: Any) -> None:
        assert check(prediction=["true"]) == ([], [])
        failing = ["sh", "-c", "echo no model answers; exit 1"]
        assert "No prediction: no model answers. See" in only(check(prediction=failing))
        assert "No prediction: no reason given" in only(check(prediction=["no-such-program"]))
