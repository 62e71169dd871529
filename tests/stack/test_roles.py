"""What the roles say when something is wrong, and what they do with secrets."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path

import pytest
from scenario import play
from vm import DOORS, SERVICES, VM, clients

from support.waiting import until

BROUGHT = "/etc/docker/mlaas4hep.images"
CLIENT = "/etc/mlaas4hep/oauth2-proxy/client.json"
SICK = """
- hosts: mlaas4hep
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: mlaas4hep.stack.service_container
      vars:
        service_container_name: mlaas4hep-sick
        service_container_image: "{{ image }}"
        service_container_command: [sh, -c, "echo opening the database; exec sleep infinity"]
        service_container_user: 64004:64004
        service_container_wait_seconds: 10
        service_container_healthcheck:
          test: [CMD-SHELL, "echo the database is gone; exit 1"]
          interval: 1s
          retries: 2
"""


def test_an_unhealthy_container_says_why(vm: VM, tmp_path: Path) -> None:
    """In the words of its own health check, with the end of its log."""
    playbook = tmp_path / "sick.yml"
    playbook.write_text(SICK)
    image = vm.inspect("mlaas4hep-server")["Config"]["Image"]
    try:
        played = play(tmp_path, playbook=playbook, image=image, expected=False)
    finally:
        vm.run("docker rm -f mlaas4hep-sick")
    (said,) = played.messages
    assert "mlaas4hep-sick is not healthy" in said
    assert "the database is gone" in said
    assert "opening the database" in said


def test_wrong_settings_replace_nothing(vm: VM, tmp_path: Path) -> None:
    """All are named at once, in the words of the application, and the service runs on."""
    before = vm.inspect("mlaas4hep-server")["Id"]
    wrong = {"max_jobs": "many", "max_job_memory": 3}
    played = play(tmp_path, "--tags", "mlaas4hep", expected=False, mlaas4hep_settings=wrong)
    (said,) = played.messages
    assert "MLAAS4HEP_MAX_JOBS is 'many'" in said
    assert "MLAAS4HEP_MAX_JOB_MEMORY is not a setting. Did you mean" in said
    assert played.changed == []
    assert vm.inspect("mlaas4hep-server")["Id"] == before
    assert vm.healthy("mlaas4hep-server")


def test_images_are_built_anew_for_security_updates_once(vm: VM, tmp_path: Path) -> None:
    """The container follows; neither the same word nor none builds them again.

    What it starts from is pulled, and recorded if it wasn't there before.
    """
    options = ("--tags", "tfaas")
    base = "debian:bookworm-slim"
    vm.run(f"docker image rm --no-prune {base}", check=False)
    vm.run(f"sed -i '/^base /d' {BROUGHT}")
    before = vm.inspect("mlaas4hep-tfaas")["Image"]
    name = vm.inspect("mlaas4hep-tfaas")["Config"]["Image"]
    would = play(tmp_path, "--check", *options, mlaas4hep_refresh="2001-01").changed
    assert would == [f"The image would be built: {name}"]
    changed = play(tmp_path, *options, mlaas4hep_refresh="2001-01").changed
    assert f"Build (minutes the first time): {name}" in changed
    assert "Run mlaas4hep-tfaas" in changed
    assert f"base {base}" in vm.run(f"cat {BROUGHT}").splitlines()
    after = vm.inspect("mlaas4hep-tfaas")
    assert after["Image"] != before
    assert after["Config"]["Labels"]["org.mlaas4hep.refresh"] == "2001-01"
    nameless = "--filter dangling=true --filter label=org.mlaas4hep.stage=image"
    assert vm.run(f"docker image ls --quiet {nameless}") == ""
    # Docker asks for its health after a whole interval.
    until("it is healthy", lambda: vm.healthy("mlaas4hep-tfaas"))
    assert play(tmp_path, *options, mlaas4hep_refresh="2001-01").changed == []
    assert play(tmp_path, *options).changed == []


PULL = """
- hosts: mlaas4hep
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: mlaas4hep.stack.image
      vars:
        image_name: private.test/library/debian:bookworm-slim
        image_part: base
"""


def test_a_private_registry_wants_its_login(vm: VM, tmp_path: Path) -> None:
    """Without one, the message names the option; with it the image is there."""
    playbook = tmp_path / "pull.yml"
    playbook.write_text(PULL)
    image = "private.test/library/debian:bookworm-slim"
    refused = play(tmp_path, playbook=playbook, expected=False, mlaas4hep_registry_auth_file="")
    said = "\n".join(refused.messages)
    assert f"{image} can't be pulled" in said
    assert "mlaas4hep_registry_auth_file" in said
    assert refused.changed == []
    try:
        assert play(tmp_path, playbook=playbook).changed == [
            f"Pull the image: {image}", f"Record that the stack pulled or built it: {image}"
        ]  # fmt: skip
        assert play(tmp_path, playbook=playbook).changed == []
    finally:
        vm.run(f"docker image rm {image}", check=False)
        vm.run(f"sed -i '/private.test/d' {BROUGHT}")


def test_of_images_of_earlier_versions_the_one_before_stays(vm: VM, tmp_path: Path) -> None:
    """Going back is possible; what the roles did not bring stays, too. uninstall.yml finds both."""
    now = vm.inspect("mlaas4hep-tfaas")["Config"]["Image"]
    ours = [f"mlaas4hep/tfaas:0.0.{number}" for number in (1, 2, 3)]
    theirs = "theirs/tfaas:1"
    for name in ours:
        vm.run(f"docker build --quiet --tag {name} -", input=f"FROM {now}\nLABEL earlier={name}\n")
    vm.run(f"docker tag {ours[0]} {theirs}")
    brought = "".join(f"tfaas {name}\n" for name in ours)
    vm.run(f"cat >>{BROUGHT}", input=brought)
    prune = ["Remove images that are older than the version before"]
    would = play(tmp_path, "--check", "--tags", "tfaas")
    played = play(tmp_path, "--tags", "tfaas")
    assert would.changed == played.changed == prune
    assert "its images are kept: mlaas4hep/tfaas:0.0.3" in "\n".join(played.messages)
    names = "docker images --format '{{.Repository}}:{{.Tag}}'"
    left = vm.run(names).split()
    assert {now, ours[2], theirs} <= set(left)
    assert not {*ours[:2]} & set(left)
    assert play(tmp_path, "--tags", "tfaas").changed == []
    vm.run(f"docker image rm {theirs}")


def test_preflight_says_everything_that_is_wrong_at_once(vm: VM, tmp_path: Path) -> None:
    """In one message, before anything is changed."""
    state = (
        "find /etc /usr/local /var/lib/mlaas4hep -type f -not -name '*.sqlite-*'"
        " -exec sha256sum {} + | sort;"
        " docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}' | sort;"
        " docker images -q | sort"
    )
    before = vm.run(state)
    played = play(
        tmp_path,
        expected=False,
        mlaas4hep_issuer="https://nowhere.test/realms/none",
        mlaas4hep_domain="https://MLaaS.test",
        mlaas4hep_allowed_groups=[],
        mlaas4hep_min_memory_mb=10**9,
        container_engine_package="docker-ce",
        container_engine_options={"log-drver": "journald"},
        gateway_http_port=22,
        gateway_tls="files",
        gateway_certificate="/nowhere.pem",
        gateway_certificate_key="/nowhere.key",
        oauth2_proxy_client_id="given",
        oauth2_proxy_client_secret_file="/nowhere",
        gateway_tlss="files",
    )
    said = "\n".join(played.messages)
    for found in (
        "nowhere.test/realms/none/.well-known/openid-configuration can't be read",
        "mlaas4hep_domain is 'https://MLaaS.test'",
        "mlaas4hep_allowed_groups is empty",
        "1000000000 MB are needed",
        "the package docker.io is installed",
        "would not start with its settings: unable to configure the Docker daemon",
        "log-drver",
        "port 22 is in use by sshd",
        "gateway_certificate /nowhere.pem",
        "oauth2_proxy_client_secret_file is '/nowhere'",
        "Perhaps gateway_tls is meant",
        "Nothing was changed",
    ):
        assert found in said, found
    assert played.changed == []
    assert vm.run(state) == before


class TestClient:
    """The client at the issuer, by which browsers are signed in."""

    def test_the_client_registered_itself_once(self, vm: VM, tmp_path: Path) -> None:
        kept, before = vm.run(f"sha256sum {CLIENT}"), clients(vm)
        assert json.loads(vm.run(f"cat {CLIENT}"))["client_id"] in before
        assert play(tmp_path, "--tags", "oauth2_proxy").changed == []
        assert vm.run(f"sha256sum {CLIENT}") == kept
        assert clients(vm) == before

    def test_a_client_that_is_given_changes_once(self, vm: VM, tmp_path: Path) -> None:
        """And the one that was registered is taken again, when it is given no more."""
        secret, before = "/root/given-secret", clients(vm)
        vm.run(f"umask 077 && echo browser-secret >{secret}")
        given = {
            "oauth2_proxy_client_id": "mlaas4hep-browser",
            "oauth2_proxy_client_secret_file": secret,
        }
        settings = ["Write oauth2-proxy's settings", "Run mlaas4hep-oauth2-proxy"]
        try:
            first = play(tmp_path, "--tags", "oauth2_proxy", **given)
            again = play(tmp_path, "--tags", "oauth2_proxy", **given)
            kept = vm.run("stat -c '%a %s' /etc/mlaas4hep/oauth2-proxy/client-secret")
            vm.run(f"echo another-secret >{secret}")
            would = play(tmp_path, "--check", "--tags", "oauth2_proxy", **given)
        finally:
            back = play(tmp_path, "--tags", "oauth2_proxy")
            vm.run(f"rm {secret}")
        assert first.changed == ["Copy the client's secret", *settings]
        assert again.changed == []
        assert would.changed == ["Copy the client's secret"]
        assert kept == f"600 {len('browser-secret')}"
        assert back.changed == ["Client at the issuer, registered or updated", *settings]
        assert clients(vm) == before


class TestSecrets:
    """What was made or given on the machine stays in files that only their reader can open."""

    @pytest.fixture(scope="class")
    def files(self, vm: VM) -> list[str]:
        found = vm.run(
            "find /etc/mlaas4hep /var/lib/mlaas4hep/gateway -type f"
            " '(' -name '*secret*' -o -name client.json -o -name '*.key' -o -name '*-key'"
            " -o -name '*-token' ')'"
        ).split()
        names = {Path(file).name for file in found}
        # The last are keys: of the certificate, of the account at its authority, and of ours there.
        assert names >= {
            "cookie-secret", "client-secret", "client.json", "mlaas4hep.test.key", "admin.key",
            "acme-eab-key", "metrics-token",
        }  # fmt: skip
        return found

    def test_only_their_reader_can_open_them(self, vm: VM, files: list[str]) -> None:
        found = vm.run(f"stat -c '%a %U' {' '.join(files)}").splitlines()
        assert set(found) <= {"600 root", "600 mlaas4hep"}

    def test_they_are_nowhere_else(self, vm: VM, files: list[str]) -> None:
        """Not in what the engine knows, a log, the journal, a process's words or surroundings."""
        vm.run(
            "umask 077; rm -rf /root/looked; mkdir /root/looked; cd /root/looked;"
            " for name in $(docker ps -aq); do docker inspect $name; docker logs $name; done"
            " >engine 2>&1; docker image inspect $(docker images -q) >images;"
            " journalctl --no-pager >journal; cat /proc/[0-9]*/cmdline >words;"
            " cat /proc/[0-9]*/environ >surroundings; true"
        )
        try:
            login = json.loads(vm.run("cat /root/registry/config.json"))["auths"]
            logins = [auth["auth"] for auth in login.values()]
            logins += [base64.b64decode(auth).decode().partition(":")[2] for auth in logins]
            for secret in [*self.contents(vm, files), *logins]:
                assert len(secret) >= 16
                found = vm.ended(f"grep -lF -e {shlex.quote(secret)} -r /root/looked")
                assert (found.returncode, found.stdout) == (1, ""), f"{secret[:3]}…: {found.stdout}"
            control = vm.run("grep -lF mlaas4hep-server -r /root/looked").split()
            assert {Path(file).name for file in control} >= {"engine", "journal"}
        finally:
            vm.run("rm -r /root/looked")

    def contents(self, vm: VM, files: list[str]) -> list[str]:
        secrets = []
        for file in files:
            text = vm.run(f"cat {file}")
            if file.endswith("client.json"):
                client = json.loads(text)
                secrets += [client["client_secret"], client["registration_access_token"]]
            else:
                secrets.append(text.splitlines()[1 if file.endswith(".key") else 0])
        return secrets


def test_all_is_as_it_was(vm: VM) -> None:
    until("all are healthy", lambda: vm.healthy(*SERVICES, *DOORS))
