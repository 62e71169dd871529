"""From `dodas create` to a prediction by a user, and on to `dodas destroy`: tests in this order."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from cloud import FLAVORS, IMAGE, Cloud
from deployment import Deployment, another, template, usual
from machines import GATEWAY, PUBLIC

from conftest import NEXT, VERSION
from dodas import Dodas, RefusedError
from support.machine import ROOT, docker, neighbour
from support.tokens import Issuer
from support.user import FOLDER, Files, Session, area_under_curve, example, variables
from support.waiting import until

SECRET = "/root/client-secret"
# Prints the ports of a machine that take connections.
CONNECT = """
import socket, sys
for port in sys.argv[2:]:
    with socket.socket() as tried:
        tried.settimeout(2)
        if tried.connect_ex((sys.argv[1], int(port))) == 0:
            print(port)
"""
TEMPLATE, VOLUME = "mlaas4hep-volume", "/var/lib/mlaas4hep"
TRAIN = "--files=files.txt --labels=labels.txt --model=model.py --params=params.json --fout=trained"


@pytest.fixture(scope="module")
def inputs() -> dict[str, str]:
    return usual(
        flavor="medium",
        volume_size="5 GB",
        admins_cidr=f"{GATEWAY}/32",
        client_id="mlaas4hep-browser",
        client_secret_file=SECRET,
    )


@pytest.fixture(scope="module")
def made(
    dodas: Dodas, releases: dict[str, Path], inputs: dict[str, str], folder: Path
) -> Deployment:
    """What the operator created: the first try lacks a file of the machine, which is put there."""
    deployment = Deployment(
        dodas, dodas.create(template(releases[VERSION], TEMPLATE, **inputs)), folder
    )
    assert deployment.ended() == "unconfigured"
    assert f"{SECRET}', which is not a file on the host" in dodas.status(deployment.id)
    deployment.ssh(f"echo -n browser-secret | sudo install -m 0600 /dev/stdin {SECRET}")
    dodas.reconfig(deployment.id)
    deployment.configured()
    return deployment


@dataclass(frozen=True)
class Site:
    """The deployed stack for a user: its name, and the authority that the outputs lead to."""

    made: Deployment
    authorities: Path

    @property
    def host(self) -> str:
        return re.fullmatch("https://(.+)/", self.made.outputs["address"])[1]

    @property
    def options(self) -> list[str]:
        """Of a neighbour that knows the name, and trusts that authority and the tests' own."""
        return [
            *("--add-host", f"{self.host}:{self.made.address}"),
            *("-v", f"{self.authorities}:/site.pem:ro"),
            *variables({"CURL_CA_BUNDLE": "/site.pem", "SSL_CERT_FILE": "/site.pem"}),
        ]

    def predict(self, files: Files, token: str) -> list[float]:
        """What the model that the session left answers for the session's events."""
        asked = f"-d @{FOLDER}/asked.json https://{self.host}/tfaas/predict/events"
        with neighbour("-v", f"{files.folder}:{FOLDER}", *self.options) as there:
            said = there.ended(f"curl -sS -H 'Authorization: Bearer {token}' {asked}")
        return [row[0] for row in json.loads(said.stdout)["predictions"]]

    def ready(self) -> bool:
        """Whether it answers from outside, its certificate verified."""
        with neighbour(*self.options) as there:
            both = f"https://{self.host}/readyz https://{self.host}/tfaas/readyz"
            return there.ended(f"curl -sSf --fail-early {both}").returncode == 0


@pytest.fixture(scope="module")
def site(made: Deployment, folder: Path) -> Site:
    """The outputs say how to get the authority of the machine's own certificate."""
    command = re.search(r"sudo cat (\S+)", made.outputs["next"])[0]
    authorities = folder / "authorities.pem"
    authorities.write_text(f"{made.ssh(command)}\n{usual()['ca_bundle']}\n")
    return Site(made, authorities)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a user has to train with."""
    return example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def session(site: Site, files: Files) -> Session:
    """What alice's script did on another machine: signed in, trained, predicted."""
    environment = {
        "SERVER": f"https://{site.host}",
        "TFAAS": f"https://{site.host}/tfaas",
        "ISSUER": "https://iam.test/realms/mlaas4hep",
        "PERSON": f"python3 {FOLDER}/person.py",
        "WHO": "alice alice-pw",
        "KEEP": "1",
    }
    with neighbour("-v", f"{files.folder}:{FOLDER}", *site.options) as there:
        return Session.of(["exec", *variables(environment), there.name])


def test_openstack_was_asked_for_one_machine(made: Deployment, cloud: Cloud) -> None:
    (server,) = cloud.servers.values()
    assert server.asked.imageRef == IMAGE
    assert FLAVORS[server.asked.flavorRef]["name"] == "medium"
    assert [network.uuid for network in server.asked.networks] == ["net-private"]
    disk, data = server.asked.block_device_mapping_v2
    assert (disk.source_type, disk.destination_type, disk.uuid) == ("image", "volume", IMAGE)
    assert (disk.volume_size, disk.delete_on_termination) == (40, True)
    assert (data.source_type, data.destination_type, data.uuid) == ("blank", "volume", None)
    assert (data.volume_size, data.delete_on_termination) == (5, True)
    (account,) = server.user_data["users"]
    assert account["name"] == made.outputs["ssh_user"] == "cloudadm"
    (address,) = cloud.addresses.values()
    assert address["floating_ip_address"] == made.address


def test_the_security_groups_let_in_users_and_the_administrator(
    made: Deployment, cloud: Cloud
) -> None:
    """Users to the gateway, administrators to ssh; the old ports only from the machine itself."""
    rules = {
        (rule["protocol"], rule["port_range_min"], rule["port_range_max"], rule["remote_ip_prefix"])
        for rule in cloud.rules.values()
        if rule["remote_group_id"] is None
    }
    assert rules == {
        ("tcp", 80, 80, "0.0.0.0/0"),
        ("tcp", 443, 443, "0.0.0.0/0"),
        ("tcp", 22, 22, f"{GATEWAY}/32"),
        ("tcp", 4433, 4433, "127.0.0.1/32"),
        ("tcp", 8081, 8081, "127.0.0.1/32"),
    }


def test_outputs_are_texts_without_secrets_but_the_key(made: Deployment) -> None:
    outputs = made.outputs
    assert all(isinstance(value, str) for value in outputs.values())
    assert outputs["address"] == f"https://{made.address}.myip.cloud.infn.it/"
    assert "PRIVATE KEY" in outputs["ssh_key"]


def test_the_data_is_on_the_volume(made: Deployment) -> None:
    source, kind, options = made.ssh(f"findmnt -no SOURCE,FSTYPE,OPTIONS {VOLUME}").split()
    assert (source, kind) == ("/dev/vdb", "ext4")
    assert {"nosuid", "nodev"} <= set(options.split(","))


def test_a_user_signs_in_trains_and_predicts(session: Session, files: Files) -> None:
    """With the device flow, from another machine; TLS is verified against the machine's CA."""
    assert session.state["state"] == "succeeded"
    assert len(session.predictions) == len(files.truth)
    assert area_under_curve(files.truth, session.predictions) > 0.7


def test_nobody_else_gets_in(site: Site) -> None:
    with neighbour(*site.options) as there:
        said = there.ended(f"curl -sS -o /dev/null -w '%{{http_code}}' https://{site.host}/jobs")
        assert said.stdout == "401", said
        assert there.ended(f"curl -sS --cacert /ca.pem https://{site.host}/").returncode == 60


def test_only_the_gateway_is_open(made: Deployment) -> None:
    """Whatever listens there, ssh too: that is for the administrator's address."""
    listening = set(re.findall(r":(\d+) ", made.ssh("ss -Hltn")))
    assert {"22", "80", "443"} <= listening
    ports = " ".join(listening | {"4433", "8081"})
    with neighbour() as there:
        docker("network", "connect", PUBLIC, there.name)  # else with this computer's address
        said = there.ended(f"python3 - {made.address} {ports} <<'EOF'{CONNECT}EOF")
        assert set(said.stdout.split()) == {"80", "443"}, said


def test_the_administrator_trains_there(made: Deployment, files: Files) -> None:
    """By ssh with the key of the outputs, in a folder of their own."""
    made.put(files.upload, "work")
    made.ssh(f"cd work && sudo workflow.py {TRAIN}")
    assert made.ssh("cd work && find . -name model.onnx") == "./trained/1/model.onnx"


def test_the_im_is_never_banned(made: Deployment) -> None:
    """It is known by its session, whatever admins_cidr says."""
    ignored = made.ssh("sudo grep ignoreip /etc/fail2ban/jail.d/mlaas4hep.local").split()
    assert {GATEWAY, f"{GATEWAY}/32"} <= set(ignored)


def test_reconfig_changes_nothing(made: Deployment, dodas: Dodas) -> None:
    dodas.reconfig(made.id)
    made.configured()
    assert made.changes() == []


def test_after_a_reboot_all_is_back(
    made: Deployment, dodas: Dodas, site: Site, session: Session, files: Files, issuer: Issuer
) -> None:
    first = made.ssh("stat -c %Y /proc/1")
    dodas.reboot(made.id)
    until("the machine has booted", lambda: made.ssh("stat -c %Y /proc/1") != first)
    assert made.ssh(f"findmnt -no SOURCE {VOLUME}") == "/dev/vdb"
    until("the site is ready", site.ready)
    assert site.predict(files, issuer.token("alice")) == session.predictions


def test_the_documented_backup_has_everything(made: Deployment) -> None:
    """It is taken while services run, all is lost, it is put back; the update starts them."""
    page = (ROOT / "docs/how-to/dodas.md").read_text()
    backup = re.search(r"'(sudo mlaas4hep-admin backup.*?)'", page, re.DOTALL)[1]
    restore = re.search(r"^ +(sudo docker stop.* &&)\s+(sudo tar .*)$", page, re.MULTILINE)
    made.ssh(f"umask 077; ({backup}) >backup.tar.gz")
    names = made.ssh("tar -tzf backup.tar.gz").splitlines()
    kept = [name for name in names if "sqlite" in name]
    assert kept == ["var/lib/mlaas4hep/store/mlaas4hep.sqlite"]
    made.ssh(f"{restore[1]} sudo rm -rf {VOLUME}/* /etc/mlaas4hep && {restore[2]}")


def test_update_brings_another_version(
    made: Deployment,
    dodas: Dodas,
    releases: dict[str, Path],
    inputs: dict[str, str],
    site: Site,
    session: Session,
    files: Files,
    issuer: Issuer,
) -> None:
    """Other images run, and the user's model is still served."""
    later = another(inputs, NEXT)
    dodas.update(made.id, template(releases[NEXT], TEMPLATE, **later))
    made.configured()
    for container, image in (("server", "service"), ("runner", "service"), ("tfaas", "tfaas")):
        asked = f"sudo docker inspect -f '{{{{.Config.Image}}}}' mlaas4hep-{container}"
        assert made.ssh(asked).partition("@")[2] == later[f"{image}_image"].partition("@")[2]
    until("the site is ready", site.ready)
    assert site.predict(files, issuer.token("alice")) == session.predictions


def test_destroy_leaves_nothing(made: Deployment, dodas: Dodas, cloud: Cloud) -> None:
    machines = [server.machine for server in cloud.servers.values()]
    dodas.destroy(made.id)
    assert cloud.left() == []
    assert machines
    assert made.id not in dodas.infrastructures()
    with pytest.raises(RefusedError, match="404"):
        dodas.status(made.id)
