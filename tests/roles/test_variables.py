"""What roles make of their options, as Ansible templates it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[2] / "roles"


def saying(folder: Path, asked: str) -> dict[str, Any]:
    """A task that keeps an expression's value for `played`."""
    content = "{{ (%s) | to_json }}" % asked
    return {
        "ansible.builtin.copy": {
            "content": content,
            "dest": str(folder / "said.json"),
            "mode": "0600",
        }
    }


def played(folder: Path, play: dict[str, Any], **options: Any) -> Any:
    """What a play on this machine said."""
    book = folder / "play.json"
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, **play}]))
    program = Path(sys.executable).with_name("ansible-playbook")
    options |= {"ansible_python_interpreter": sys.executable}
    words = [program, "-i", "localhost,", "-c", "local", "-e", json.dumps(options), book]
    collections = f"{folder}:{ROLES.parent / 'build/collections'}"
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((folder / "said.json").read_text())


def templated(folder: Path, asked: str, roles: tuple[str, ...], **options: Any) -> Any:
    """An expression in terms of these roles' variables, with these options."""
    files = [
        str(ROLES / role / part / "main.yml") for role in roles for part in ("defaults", "vars")
    ]
    return played(folder, {"vars_files": files, "tasks": [saying(folder, asked)]}, **options)


def test_a_container_gets_what_the_site_sets(tmp_path: Path) -> None:
    """Through the roles as they depend on each other: only the last task is another."""
    stack = tmp_path / "ansible_collections/mlaas4hep/stack"
    for part in ("roles", "plugins"):
        shutil.copytree(ROLES.parent / part, stack / part)
    asked = "[service_container_env, service_container_volumes, service_container_networks]"
    last = stack / "roles/service_container/tasks/main.yml"
    last.write_text(json.dumps([saying(tmp_path, asked)]))
    role = {"name": "mlaas4hep.stack.tfaas", "tasks_from": "service"}
    env, volumes, networks = played(
        tmp_path,
        {"tasks": [{"ansible.builtin.include_role": role}]},
        mlaas4hep_issuer="https://issuer.example.org",
        mlaas4hep_http_proxy="http://proxy.example.org:3128",
        mlaas4hep_ca_bundle="ca.pem",
    )
    assert env["MLAAS4HEP_ISSUER"] == "https://issuer.example.org"
    assert env["HTTPS_PROXY"] == "http://proxy.example.org:3128"
    assert f"{env['SSL_CERT_FILE']}:{env['SSL_CERT_FILE']}:ro" in volumes
    assert [network["name"] for network in networks] == ["mlaas4hep-egress", "mlaas4hep-internal"]
    assert networks[1]["aliases"] == ["tfaas"]


@pytest.mark.parametrize(("port", "shown"), [(443, ""), (8443, ":8443")])
def test_all_roles_say_the_same_address(tmp_path: Path, port: int, shown: str) -> None:
    options = {
        "gateway_https_port": port,
        "mlaas4hep_domain": "ml.example.org",
        "mlaas4hep_issuer": "https://issuer.example.org",
    }
    asked = "[__oauth2_proxy_callback, __tfaas_env, __mlaas4hep_env]"
    roles = ("common", "mlaas4hep", "tfaas", "oauth2_proxy", "gateway")
    machine = {"processor_vcpus": 2, "memtotal_mb": 4096}
    options |= {"ansible_facts": machine, "__mlaas4hep_disk": {"stdout_lines": ["100"]}}
    callback, *services = templated(tmp_path, asked, roles, **options)
    url = f"https://ml.example.org{shown}"
    assert callback == f"{url}/oauth2/callback"
    for env in services:
        assert env["MLAAS4HEP_PUBLIC_URL"] == url
        assert env["MLAAS4HEP_TFAAS_URL"] == f"{url}/tfaas"


def options_of(role: str) -> dict[str, Any]:
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    return specs["argument_specs"]["main"]["options"]


@pytest.mark.parametrize("role", ["container_engine", "gateway", "oauth2_proxy", "tfaas"])
def test_what_a_role_had_of_its_own_is_renamed_to_what_the_site_sets(
    tmp_path: Path, role: str
) -> None:
    given = {"preflight_role": role, "role_path": str(ROLES / "preflight")}
    asked = "[__preflight_renamed, __preflight_options]"
    renamed, known = templated(tmp_path, asked, ("preflight",), **given)
    assert f"{role}_http_proxy" in renamed
    assert set(known) == {*options_of(role), *options_of("common")}
    assert not set(renamed) & set(known)
    elsewhere = {"gateway_https_port", "oauth2_proxy_initial_access_token_file"}
    assert set(renamed.values()) <= {*known, *elsewhere}


@pytest.mark.parametrize("given", [{}, {"max_upload_bytes": 5_000}, {"max_upload_bytes": "7000"}])
def test_the_gateway_lets_through_what_the_server_takes(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    """The server's own limit is the application's, as its reference says."""
    reference = (ROLES.parent / "docs/reference/settings.md").read_text()
    usual = re.search(r"`MLAAS4HEP_MAX_UPLOAD_BYTES` \| `(\d+)`", reference)[1]
    options = {"mlaas4hep_settings": given}
    said = templated(tmp_path, "gateway_max_body", ("gateway",), **options)
    assert int(said) == int(given.get("max_upload_bytes", usual)) + 1024**2


PUBLIC = ("container_engine", "gateway", "machine", "mlaas4hep", "oauth2_proxy", "tfaas")


@pytest.mark.parametrize("role", PUBLIC)
def test_every_option_that_may_hold_an_address_with_a_password_is_named(
    tmp_path: Path, role: str
) -> None:
    """What an option says ends in environments, diffs and logs: all of its kinds are looked at."""
    secret = "http://somebody:s3cret@proxy.example.org:3128"
    kinds = {"str": secret, "list": ["plain", secret], "dict": {"x": {"y": secret}}}
    asked = {
        name: kinds[option["type"]]
        for name, option in {**options_of(role), **options_of("common")}.items()
        if option["type"] in kinds and "choices" not in option
    }
    given = {"preflight_role": role, "role_path": str(ROLES / "preflight")} | asked
    found = templated(tmp_path, "__preflight_passwords", ("preflight",), **given)
    assert sorted(found) == sorted(asked)
    fine = dict.fromkeys(asked, "https://proxy.example.org:3128/a@b")
    assert templated(tmp_path, "__preflight_passwords", ("preflight",), **given | fine) == []


@pytest.mark.parametrize(
    ("word", "had", "current"),
    [
        ("", {}, True),
        ("", {"org.mlaas4hep.refresh": "2026-10"}, True),
        ("2026-11", {}, False),
        ("2026-11", {"org.mlaas4hep.refresh": "2026-10"}, False),
        ("2026-11", {"org.mlaas4hep.refresh": "2026-11"}, True),
        (202611, {"org.mlaas4hep.refresh": "202611"}, True),
    ],
)
def test_an_image_is_built_anew_once_for_each_word(
    tmp_path: Path, word: str | int, had: dict[str, str], current: bool
) -> None:
    sources = {"org.mlaas4hep.context": "sha256"}
    options = {
        "mlaas4hep_refresh": word,
        "__image_order": {"labels": sources},
        "__image_built": {"images": [{"Config": {"Labels": {**sources, **had}}}]},
    }
    asked = "[__image_current | bool, __image_labels]"
    found, labels = templated(tmp_path, asked, ("common", "image"), **options)
    assert found is current
    assert labels == sources | ({"org.mlaas4hep.refresh": str(word)} if word else {})


@pytest.mark.parametrize("role", PUBLIC)
def test_every_option_that_may_hold_a_secret_by_name_is_named(tmp_path: Path, role: str) -> None:
    """Without the value; a path is no secret, and neither are the names in other values."""
    asked = [name for name, option in options_of(role).items() if option["type"] == "dict"]
    given = {"preflight_role": role, "role_path": str(ROLES / "preflight")}
    secret = {"log-opts": {"splunk-token": "s3cret"}, "SMTP_PASSWORD": "s3cret"}
    found = templated(
        tmp_path, "__preflight_secrets", ("preflight",), **given | dict.fromkeys(asked, secret)
    )
    keys = ("splunk-token", "SMTP_PASSWORD")
    assert sorted(found) == sorted(f"{name}: {key}" for name in asked for key in keys)
    fine = {"max_jobs": 2, "token_file": "/root/token", "scope": "token", "secret": ""}
    given |= dict.fromkeys(asked, fine)
    assert templated(tmp_path, "__preflight_secrets", ("preflight",), **given) == []


SECRET = re.compile("secret|token|passw|key|auth|credential")
NO_SECRETS = {
    "gateway_acme_eab_key_id": "the public name of a key",
    "gateway_certificate_key": "a path",
    "x509_renewer_token_issuer": "an address",
    "x509_renewer_token_client": "the public name of a client",
    "x509_renewer_token_scope": "what may be read",
    "x509_renewer_token_audience": "an address",
}


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir()))
def test_an_option_for_a_secret_is_the_path_of_a_file_that_preflight_looks_at(role: str) -> None:
    """Or is kept out of all that Ansible shows."""
    files = [*(ROLES / role).glob("vars/*.yml"), *(ROLES / role).glob("tasks/*.yml")]
    if role == "common":
        files = [ROLES / "container_engine/vars/main.yml"]
    text = " ".join(" ".join(file.read_text().split()) for file in files)
    for name, option in options_of(role).items():
        if name in NO_SECRETS or not SECRET.search(name.removeprefix(role)):
            continue
        assert name.endswith("_file") or option.get("no_log"), name
        assert option.get("no_log") or re.search(rf"'{name}'.*?'secret': true", text), name


@pytest.mark.parametrize(
    ("registry", "image", "pulled"),
    [
        ("", "docker.io/library/caddy:2@sha256:f2a1", "docker.io/library/caddy:2@sha256:f2a1"),
        ("r.org", "docker.io/library/caddy:2@sha256:f2a1", "r.org/library/caddy:2@sha256:f2a1"),
        ("r.org/m", "quay.io/oauth2-proxy/oauth2-proxy:7", "r.org/m/oauth2-proxy/oauth2-proxy:7"),
        ("r.org", "debian:12", "r.org/library/debian:12"),
        ("r.org", "mlaas4hep/job:1", "r.org/mlaas4hep/job:1"),
        ("r.org:5000", "localhost/job@sha256:f2a1", "r.org:5000/job@sha256:f2a1"),
        ("r.org:5000", "other:5000/a/b:1", "r.org:5000/a/b:1"),
        ("r.org/mirror", "r.org/mirror/a:1", "r.org/mirror/a:1"),
    ],
)  # fmt: skip
def test_an_image_is_named_as_the_registry_of_the_site_has_it(
    registry: str, image: str, pulled: str, from_registry: ModuleType
) -> None:
    assert from_registry.from_registry(image, registry) == pulled


@pytest.mark.parametrize("images", ["build", "pull"])
def test_every_image_that_is_pulled_comes_from_the_registry_of_the_site(
    tmp_path: Path, images: str
) -> None:
    roles = ("common", "image", "mlaas4hep", "tfaas", "oauth2_proxy", "gateway")
    environments = {"torch": "ghcr.io/a/torch:2", "big": {"image": "a/big:1", "gpus": 1}}
    ours, *pulled, given = templated(
        tmp_path,
        "[[__mlaas4hep_service_image, __mlaas4hep_job_image, __tfaas_image],"
        " __gateway_image, __oauth2_proxy_image, __image_base, __mlaas4hep_environments]",
        roles,
        mlaas4hep_images=images,
        mlaas4hep_registry="r.example.org/m",
        mlaas4hep_environments=environments,
    )
    place = "r.example.org/m/" if images == "pull" else ""
    assert [name.rpartition(":")[0] for name in ours] == [
        f"{place}mlaas4hep/{name}" for name in ("service", "job", "tfaas")
    ]
    assert all(name.startswith("r.example.org/m/") for name in pulled)
    assert given == {
        "default": {"image": ours[1], "gpus": 0},
        "torch": {"image": "r.example.org/m/a/torch:2"},
        "big": {"image": "r.example.org/m/a/big:1", "gpus": 1},
    }
