"""The role machine on a machine: volume, accounts, guard of ssh; again, drifted, uninstalled."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import ADDRESS, IMAGE, Prepared
from support.machine import NETWORK, docker
from support.playbook import OLDEST, Played
from support.waiting import until

TOKEN = "eyJhbGciOiJub25lIn0.caller"
VOLUME = "/var/lib/mlaas4hep"


@pytest.fixture(scope="module")
def options(machine: Prepared) -> dict[str, Any]:
    """Two users, of whom one is an administrator, and a volume."""
    for user in ("alice", "bob"):
        machine.run(f"ssh-keygen -q -t ed25519 -N '' -C '' -f /root/{user}")
    users = {user: machine.run(f"cat /root/{user}.pub") for user in ("alice", "bob")}
    return {"machine_volume": True, "machine_users": users, "machine_admins": ["alice"]}


@pytest.fixture(scope="module")
def played(machine: Prepared, options: dict[str, Any]) -> Played:
    """The role as the IM's Ansible plays it, after the IM has left its caller's token."""
    machine.run(f"echo BEARER_TOKEN={TOKEN} >> /etc/environment")
    ended = machine.play("-v", "--diff", ansible=OLDEST, **options)
    assert ended.ok, ended.messages or ended.text
    machine.run(f"touch {VOLUME}/kept")
    return ended


@pytest.mark.usefixtures("played")
class TestConverged:
    def test_again_changes_nothing(self, machine: Prepared, options: dict[str, Any]) -> None:
        again = machine.play(**options)
        assert (again.ok, again.changed) == (True, []), again.messages or again.text

    def test_the_empty_disk_is_the_volume(self, machine: Prepared) -> None:
        found = machine.run(f"findmnt -no SOURCE,FSTYPE,OPTIONS {VOLUME}")
        assert found.split()[:2] == ["/dev/vdb", "ext4"]
        assert {"nodev", "nosuid"} <= set(found.split()[2].split(","))
        assert "RequiresMountsFor=/var/lib/mlaas4hep" in machine.run(
            "cat /etc/systemd/system/docker*.d/*"
        )

    def test_somebodys_disk_is_as_it_was(self, machine: Prepared) -> None:
        assert "somebodys" in machine.run("blkid -p /dev/vdc")

    def test_users_log_in_and_administrators_become_root(self, machine: Prepared) -> None:
        assert machine.login("alice", "sudo -n id -u") == "0"
        assert machine.login("bob", "id -un") == "bob"
        assert "password is required" in machine.login("bob", "sudo -n id -u")

    def test_the_callers_token_is_gone_and_was_not_logged(
        self, machine: Prepared, played: Played
    ) -> None:
        assert TOKEN not in machine.run("cat /etc/environment")
        assert TOKEN not in played.text

    def test_who_guesses_is_banned(self, machine: Prepared) -> None:
        guess = (
            f"for i in 1 2 3 4 5 6; do timeout 10 ssh -o BatchMode=yes -o ConnectTimeout=4 "
            f"-o StrictHostKeyChecking=no admin@{ADDRESS} 2>/dev/null; done; hostname -I"
        )
        seen = docker("run", "--rm", "--network", NETWORK, IMAGE, "bash", "-c", guess)
        address = seen.split()[-1]
        status = "fail2ban-client status sshd"
        try:
            until("it is banned", lambda: address in machine.run(status), 30)
        except AssertionError as error:
            log = machine.run(
                f"{status}; tail -n 30 /var/log/fail2ban.log; journalctl -n 30 -u fail2ban",
                check=False,
            )
            raise AssertionError(f"{address} is not banned:\n{log}") from error

    def test_whoever_plays_and_administrators_are_never_banned(
        self, machine: Prepared, options: dict[str, Any]
    ) -> None:
        admins = {"machine_admins_cidr": "198.51.100.0/24"}
        assert machine.play(session="192.0.2.9", **options, **admins).ok
        ignored = machine.run("fail2ban-client get sshd ignoreip")
        assert {"192.0.2.9", "198.51.100.0/24", "127.0.0.0/8"} <= set(ignored.split())
        assert machine.play(**options).ok
        ignored = machine.run("fail2ban-client get sshd ignoreip")
        assert not {"192.0.2.9", "198.51.100.0/24", "0.0.0.0/0"} & set(ignored.split())

    def test_dodas_logs_in_from_the_administrators_addresses_only(
        self, machine: Prepared, options: dict[str, Any]
    ) -> None:
        """dodas signs with SHA-1, which is ssh-rsa; nobody else may."""
        machine.run("ssh-keygen -q -t rsa -N '' -f /root/rsa")
        for user in ("cloudadm", "somebody"):
            machine.run(
                f"id {user} || useradd -m -p '*' {user}; install -d -o {user} ~{user}/.ssh && "
                f"install -o {user} /root/rsa.pub ~{user}/.ssh/authorized_keys"
            )
        assert (machine.signs("rsa-sha2-256"), machine.signs("ssh-rsa")) == (0, 255)
        wanted = options | {"machine_dodas_login": True, "machine_admins_cidr": f"{ADDRESS}/32"}
        played = machine.play(**wanted)
        assert played.ok, played.messages or played.text
        assert {"Accept dodas' SHA-1 signatures", "Reload sshd"} <= set(played.changed)
        assert (machine.signs("rsa-sha2-256"), machine.signs("ssh-rsa")) == (0, 0)
        assert machine.signs("ssh-rsa", user="somebody") == 255
        assert machine.signs("ssh-rsa", to="127.0.0.1") == 255
        assert machine.play(**wanted).changed == []
        assert machine.play(**options).ok
        assert (machine.signs("rsa-sha2-256"), machine.signs("ssh-rsa")) == (0, 255)

    def test_check_mode_names_what_drifted(
        self, machine: Prepared, options: dict[str, Any]
    ) -> None:
        machine.run("echo 'bob ALL=(ALL) NOPASSWD: ALL' >> /etc/sudoers.d/mlaas4hep-admins")
        machine.run("sed -i s/maxretry.*/maxretry=1000/ /etc/fail2ban/jail.d/mlaas4hep.local")
        machine.run("cat /root/alice.pub >> /home/bob/.ssh/authorized_keys")
        drift = machine.play("--check", **options)
        assert drift.ok, drift.messages or drift.text
        assert set(drift.changed) == {
            "Set the authorized keys of the accounts: bob",
            "Write the administrators' sudo rule",
            "Configure fail2ban",
            "Restart fail2ban",
        }
        assert machine.play(**options).ok
        assert "password is required" in machine.login("bob", "sudo -n id -u")

    def test_who_is_taken_out_is_locked_out(
        self, machine: Prepared, options: dict[str, Any]
    ) -> None:
        alone = options | {"machine_users": {"alice": options["machine_users"]["alice"]}}
        assert machine.play(**alone).changed == ["Lock accounts that are no longer listed: bob"]
        assert machine.login("bob", "id -un") == ""
        assert machine.play(**options).changed == ["Create the accounts: bob"]
        assert machine.login("bob", "id -un") == "bob"

    def test_uninstall_leaves_the_data_and_no_rights(self, machine: Prepared) -> None:
        assert machine.play(part="uninstall").ok
        assert machine.play(part="uninstall").changed == []
        assert machine.run(f"ls {VOLUME}/kept")
        assert "password" in machine.login("alice", "sudo -n id -u")
        assert machine.run("ls /usr/bin/fail2ban-client", check=False).endswith(
            "No such file or directory"
        )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"machine_volume_device": "/dev/vdz"}, "/dev/vdb (ext4), /dev/vdc (ext4)"),
        ({"machine_volume_encrypted": True}, "was made without encryption"),
        ({"machine_users": {"root": "ssh-ed25519 AAAA"}}, "none of root"),
        ({"machine_users": {"eve": "-----BEGIN OPENSSH PRIVATE KEY-----"}}, "a public key such as"),
        ({"machine_admins": ["mallory"]}, "admins must be users"),
        ({"machine_gpus": 1}, "machine_gpus (the driver)"),
        ({"machine_dodas_login": True}, "SHA-1 must not be accepted from everywhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@pytest.mark.usefixtures("played")
def test_preflight_says_what_is_wrong(
    machine: Prepared, options: dict[str, Any], wrong: dict[str, Any], says: str
) -> None:
    ended = machine.play(part="preflight", **(options | wrong))
    assert not ended.ok
    assert says in "\n".join(ended.messages)
    assert ended.changed == []
