"""The gateway's certificate: from an authority that speaks ACME, from files, from itself."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from scenario import play
from vm import ADDRESS, VM

from support.machine import neighbour, open_ports
from support.waiting import until

DOMAIN = "mlaas4hep.test"
GATEWAY = "mlaas4hep-gateway"


def served() -> x509.Certificate:
    """What the gateway shows to who asks for the domain."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((ADDRESS, 443)) as plain,
        context.wrap_socket(plain, server_hostname=DOMAIN) as door,
    ):
        return x509.load_der_x509_certificate(door.getpeercert(binary_form=True))


def issuer() -> str:
    return served().issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def names() -> list[str]:
    alternative = served().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return alternative.value.get_values_for_type(x509.DNSName)


def gateway(vm: VM, folder: Path, **variables: object) -> list[str]:
    """Deploy the gateway with these options, and see it healthy; what was changed."""
    changed = play(folder, "--tags", "gateway", **variables).changed
    until("the gateway is healthy", lambda: vm.healthy(GATEWAY))
    return changed


def test_its_certificate_is_of_the_acme_authority() -> None:
    assert "Pebble" in issuer()
    assert names() == [DOMAIN]


def test_another_run_asks_for_no_other_certificate(vm: VM, tmp_path: Path) -> None:
    serial = served().serial_number
    assert gateway(vm, tmp_path) == []
    vm.run(f"docker restart {GATEWAY}")
    until("the gateway is healthy", lambda: vm.healthy(GATEWAY))
    assert served().serial_number == serial


def test_metrics_are_for_the_sites_prometheus_only(vm: VM) -> None:
    asked = "curl -sk -w '\\n%{{http_code}}' -H 'Authorization: Bearer {}' https://{}{}/metrics"
    for path, metric in {"": "mlaas4hep_jobs", "/tfaas": "mlaas4hep_models_loaded"}.items():
        said = vm.run(asked.format("'\"$(cat /root/metrics-token)\"'", DOMAIN, path))
        assert metric in said
        assert said.endswith("200")
        assert metric not in vm.run(asked.format("another", DOMAIN, path))
        assert metric not in vm.run(asked.format("", DOMAIN, path))


def test_the_check_alone_finds_all_well_and_changes_nothing(tmp_path: Path) -> None:
    assert play(tmp_path, "--tags", "check").changed == []


def test_without_a_certificate_the_check_fails_and_says_why(vm: VM, tmp_path: Path) -> None:
    """With an address that is no ACME directory; the certificate of before is kept meanwhile."""
    serial, wrong = served().serial_number, "https://acme.test/wrong"
    try:
        played = play(
            tmp_path, "--tags", "gateway,check", expected=False,
            gateway_acme_directory=wrong, mlaas4hep_check_seconds=6,
        )  # fmt: skip
    finally:
        gateway(vm, tmp_path)
    (said,) = [text for text in played.messages if "The stack was deployed, but" in text]
    assert f"The gateway has no certificate for {DOMAIN}" in said
    assert wrong in said
    assert "gateway_acme_directory" in said
    assert served().serial_number == serial


def test_the_site_s_own_certificate_or_none(vm: VM, tmp_path: Path) -> None:
    """Files of the host, also renewed; its own authority; then the kept one of ACME again."""
    serial = served().serial_number
    files = {
        "gateway_tls": "files",
        "gateway_certificate": "/root/given.pem",
        "gateway_certificate_key": "/root/given.key",
    }
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90"
        " -subj '/CN=%s' -addext 'subjectAltName=DNS:mlaas4hep.test'"
        " -keyout /root/given.key -out /root/given.pem"
    )
    copied = [f"Copy files that were given: certificate.{end}" for end in ("pem", "key")]
    settings, run = "Write the gateway's settings", f"Run {GATEWAY}"
    gone = "Remove files that are no longer given: "
    try:
        vm.run(make % "first")
        with neighbour() as prometheus, neighbour() as stranger:
            networks = {"gateway_metrics_networks": [f"{prometheus.address()}/32"]}
            given = files | networks
            assert gateway(vm, tmp_path, **given) == [
                *copied, settings, f"{gone}acme-eab-key", run,
            ]  # fmt: skip
            assert (issuer(), names()) == ("first", [DOMAIN])
            # With networks and a token, a request needs both.
            token = vm.run("cat /root/metrics-token").strip()
            ask = f"curl -sk --resolve {DOMAIN}:443:{ADDRESS} https://{DOMAIN}/metrics"
            with_token = f"{ask} -H 'Authorization: Bearer {{}}'"
            assert "mlaas4hep_jobs" in prometheus.run(with_token.format(token))
            for refused in (
                prometheus.run(with_token.format("another")),
                prometheus.run(ask),
                stranger.run(with_token.format(token)),
            ):
                assert "mlaas4hep_jobs" not in refused
            vm.run(make % "renewed")
            assert gateway(vm, tmp_path, **given) == [*copied, run]
            assert issuer() == "renewed"
            networks["gateway_metrics_token_file"] = ""
            own = {"gateway_tls": "internal", "gateway_old_ports": False, **networks}
            removed = [
                f"{gone}{name}" for name in ("certificate.pem", "certificate.key", "metrics-token")
            ]
            assert gateway(vm, tmp_path, **own) == [settings, *removed, run]
            assert "mlaas4hep_jobs" in prometheus.run(ask)
            for other in (vm, stranger):
                assert "needs a bearer token" in other.run(ask)
        assert "Caddy Local Authority" in issuer()
        assert open_ports(ADDRESS) == {22, 80, 443}
    finally:
        gateway(vm, tmp_path)
        vm.run("rm -f /root/given.pem /root/given.key")
    assert served().serial_number == serial
