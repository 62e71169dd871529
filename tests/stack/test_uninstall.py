"""Uninstalled, the machine keeps its users' data; told to remove these too, it is bare again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scenario import UNINSTALL, play
from vm import VM, clients

from support.machine import docker

# The database writes its journal back when it is closed, and the runner says in it that it lives.
DATA = """
find /var/lib/mlaas4hep /etc/mlaas4hep -type f -not -name '*.sqlite*' -exec sha256sum {} + | sort
python3 - <<'EOF'
import sqlite3
base = sqlite3.connect("/var/lib/mlaas4hep/store/mlaas4hep.sqlite")
for table in ("jobs", "folders"):
    rows = base.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    print(table, len(rows), rows)
EOF
"""
BROUGHT = "/etc/docker/mlaas4hep.images"
KEEP = "mlaas4hep-test-layers"
# What the kernel, systemd, apt and people write as they go; homes hold the commands' tokens.
ELSEWHERE = [
    "/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/root", "/home",
    "/usr/share", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/var/lib/docker",
    "/var/lib/containerd", "/var/backups",
]  # fmt: skip
FOUND = f"""
find / -xdev '(' {" -o ".join(f"-path {folder}" for folder in ELSEWHERE)} ')' -prune -o -print \
  | grep -v __pycache__
getent passwd
getent group
apt-mark showmanual | sed 's/^/package /'
true
"""
"""Every file, user, group and package that was asked for."""
OF_PACKAGES = "cat /var/lib/dpkg/info/*.list; sed 's,^/,/usr/,' /var/lib/dpkg/info/*.list"
"""Their files; /lib and /bin are links to those of /usr."""
STAYS = re.compile(
    # Others may use them by now, as the role's README says.
    r"package (iptables|openssl|python3-requests)"
    # Which program a name means, copies that useradd makes, keys of the first boot, and what
    # `apt purge` would take.
    r"|/etc/alternatives/.*|/usr/sbin/(ip6?|eb|arp)tables.*|/etc/ssh/ssh_host_.*"
    r"|/etc/(passwd|shadow|group|gshadow|subuid|subgid)-"
    r"|/etc/docker/key\.json|/etc/cni(/.*)?|/etc/networks|/etc/rc.\.d/...docker|docker:x:\d+:"
    r"|/etc/systemd/system/(multi-user|sockets)\.target\.wants(/(docker|containerd)\..*)?"
)


@pytest.fixture(scope="module", autouse=True)
def layers(vm: VM) -> None:
    """Keep images and what they were built in under other names: the next build takes minutes less.

    What is older than a day goes, or the volume would grow for ever: each build has its 4 GB.
    """
    vm.run("docker image prune --all --force --filter until=24h")
    for image in vm.run("docker images --format '{{.Repository}}:{{.Tag}}' mlaas4hep/*").split():
        vm.run(f"docker tag {image} {KEEP}/{image.partition('/')[2]}")
    for image in vm.run("docker images --quiet --filter dangling=true").split():
        vm.run(f"docker tag {image} {KEEP}/stage:{image}")


def test_data_settings_and_secrets_stay(vm: VM, tmp_path: Path) -> None:
    """What users and the site can't make again; containers, networks, images and commands go."""
    vm.run("docker run -d --name bystander --entrypoint sleep"
           f" $(docker images -q {KEEP}/service | head -n 1) infinity")  # fmt: skip
    before = vm.run(DATA)
    assert "jobs 0" not in before
    brought = vm.run(f"cut -d ' ' -f 2 {BROUGHT}").split()
    assert len(brought) > 2
    assert play(tmp_path, playbook=UNINSTALL).ok
    assert vm.run(DATA) == before
    assert vm.run("docker ps -a --format '{{.Names}}'") == "bystander"
    assert set(vm.run("docker network ls --format '{{.Name}}'").split()) == {
        "bridge", "host", "none",
    }  # fmt: skip
    assert vm.run("find /usr/local/bin /usr/local/sbin -type f") == ""
    assert "mlaas4hep/" not in vm.run("docker images --format '{{.Repository}}'")
    for image in brought:
        assert vm.ended(f"docker image inspect {image}").returncode != 0, image


def test_without_data_the_machine_is_bare_again(vm: VM, tmp_path: Path) -> None:
    """As one on which nothing was ever deployed; a second time there is nothing to do.

    Its client at the issuer is gone, too.
    """
    client = json.loads(vm.run("cat /etc/mlaas4hep/oauth2-proxy/client.json"))["client_id"]
    assert client in clients(vm)
    play(tmp_path, playbook=UNINSTALL, mlaas4hep_remove_data=True)
    assert vm.run("docker ps -a --format '{{.Names}}'") == "bystander"  # another's, left alone
    vm.run("docker rm -f bystander")
    assert vm.run("docker volume ls -q") == ""
    assert client not in clients(vm)
    assert "mlaas-egress" not in vm.run("iptables-save")
    assert play(tmp_path, playbook=UNINSTALL, mlaas4hep_remove_data=True).changed == []
    everything = {"mlaas4hep_remove_data": True, "container_engine_remove": True}
    play(tmp_path, playbook=UNINSTALL, **everything)
    assert play(tmp_path, playbook=UNINSTALL, **everything).changed == []
    bare = docker("run", "--rm", "mlaas4hep-test/vm", "sh", "-c", FOUND).splitlines()
    left = set(vm.run(FOUND).splitlines()) - {*bare, *vm.run(OF_PACKAGES).splitlines()}
    assert {line for line in left if not STAYS.fullmatch(line)} == set()
    assert vm.ended("command -v docker").returncode != 0


THEIRS = {"data-root": "/srv/theirs", "storage-driver": "vfs", "max-concurrent-downloads": 2}
"""Settings of an engine that was there before; overlays can't be stacked on the machine's disk."""
SLEEP = "usr/bin/sleep lib/x86_64-linux-gnu/libc.so.6 lib64/ld-linux-x86-64.so.2"


def test_an_engine_that_is_there_already_keeps_its_settings_and_containers(
    vm: VM, tmp_path: Path
) -> None:
    """Another's container, without any restart policy, is the same process through it all."""
    daemon = "/etc/docker/daemon.json"
    vm.run("mkdir -p /etc/docker")
    vm.run(f"cat >{daemon}", input=json.dumps(THEIRS))
    install = "apt-get install -qq -y --no-install-recommends docker.io iptables"
    vm.run(f"DEBIAN_FRONTEND=noninteractive {install}", timeout=1200)
    vm.run(f"tar -ch -C / {SLEEP} | docker import - theirs")
    vm.run("docker run -d --name theirs theirs /usr/bin/sleep infinity")
    process = "docker inspect --format '{{.State.Pid}} {{.State.StartedAt}}' theirs"
    before = vm.run(process)

    options = ("--tags", "container_engine")
    refused = play(tmp_path, *options, expected=False,
                   container_engine_options={"data-root": "/srv/ours"})  # fmt: skip
    assert refused.changed == []
    assert f'{daemon} sets data-root to "/srv/theirs" already' in "\n".join(refused.messages)

    assert "Restart the engine" in play(tmp_path, *options).changed
    written = json.loads(vm.run(f"cat {daemon}"))
    assert THEIRS.items() < written.items()
    assert written["live-restore"] is True
    assert vm.run("docker info --format '{{.DockerRootDir}}'") == "/srv/theirs"
    assert vm.run(process) == before
    assert play(tmp_path, *options).changed == []

    log = {"container_engine_options": {"debug": True, "shutdown-timeout": 20}}
    assert "Restart the engine" in play(tmp_path, *options, **log).changed
    assert vm.run(process) == before

    assert play(tmp_path, playbook=UNINSTALL).ok
    assert json.loads(vm.run(f"cat {daemon}")) == THEIRS
    assert vm.run("ls /etc/docker/*.json") == f"{daemon}\n/etc/docker/key.json"
    assert "mlaas-egress" not in vm.run("iptables-save")
    assert vm.run(process) == before
