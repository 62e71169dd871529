"""An ordinary user of the host trains in a folder of their own, with the roles' commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from vm import SERVICES, VM

from support.machine import ROOT
from support.user import Files
from support.waiting import until

USER = "physicist"
HOME = f"/home/{USER}"
TRAIN = "--files=files.txt --labels=labels.txt --model=model.py --params=params.json --fout=trained"


@pytest.fixture(scope="module")
def user(vm: VM, files: Files) -> Iterator[str]:
    """Somebody who may call the two commands with sudo, and has files in ~/work."""
    vm.run(f"useradd --create-home --shell /bin/bash {USER}")
    vm.run(f"echo '{USER} ALL=NOPASSWD: /usr/local/bin/workflow.py, /usr/local/bin/mlaas4hep'"
           f" > /etc/sudoers.d/{USER}")  # fmt: skip
    vm.put(files.upload, f"{HOME}/work")
    vm.run(f"chown -R {USER}: {HOME}/work")
    yield USER
    vm.run(f"rm /etc/sudoers.d/{USER} && userdel --remove {USER}")


def test_what_the_commands_write_belongs_to_who_called_them(vm: VM, user: str) -> None:
    """Trained by workflow.py, predicted by mlaas4hep; nothing of it is root's."""
    predict = "predict --model trained --files signal.root --fout scores.root"
    for command in (f"workflow.py {TRAIN}", f"mlaas4hep {predict}"):
        vm.run(f"su - {user} -c 'cd work && sudo {command}'")
    vm.run(f"test -s {HOME}/work/trained/1/model.onnx -a -s {HOME}/work/scores.root")
    assert vm.run(f"find {HOME} -not -user {user} -o -not -group {user}") == ""


def test_an_administrator_sees_who_has_what_and_is_noted(vm: VM) -> None:
    assert " user" in vm.run("mlaas4hep-admin users")
    vm.run("cd / && SUDO_USER=olga mlaas4hep-admin backup /var/lib/mlaas4hep/store/copy.sqlite")
    assert '"by": "olga"' in vm.run("tail -n 1 /var/lib/mlaas4hep/store/audit.jsonl")
    assert vm.run("stat -c %a /var/lib/mlaas4hep/store/copy.sqlite") == "600"
    vm.run("rm /var/lib/mlaas4hep/store/copy.sqlite")


def test_the_documented_backup_is_restored(vm: VM) -> None:
    """As install.md has the commands; what is lost in between is back."""
    page = (ROOT / "docs/how-to/install.md").read_text()
    section = page.partition("## Back up")[2].partition("\n## ")[0]
    backup, enter, stop, *restore = re.findall(r"^    (.*)$", section, re.MULTILINE)
    known = vm.run("mlaas4hep-admin users")
    vm.run("\n".join(["set -e", backup, enter, stop, "truncate -s 0 mlaas4hep.sqlite", *restore]))
    until("the services are well", lambda: vm.healthy(*SERVICES), pause=2)
    assert vm.run("mlaas4hep-admin users") == known
    vm.run("rm /var/lib/mlaas4hep/store/backup.sqlite")


def test_who_may_use_the_commands_is_no_administrator(vm: VM, user: str) -> None:
    ended = vm.ended(f"su - {user} -c 'sudo mlaas4hep admin users'")
    assert (ended.returncode, "administrators have mlaas4hep-admin" in ended.stderr) == (2, True)
    ended = vm.ended(f"su - {user} -c 'sudo -n mlaas4hep-admin users'")
    assert ended.returncode == 1
    assert vm.run("stat -c '%U %a' /usr/local/sbin/mlaas4hep-admin") == "root 750"


def test_who_may_not_use_the_engine_is_told_what_to_do(vm: VM, user: str) -> None:
    ended = vm.ended(f"su - {user} -c 'cd work && workflow.py {TRAIN}'")
    assert ended.returncode == 2
    assert "use sudo workflow.py" in ended.stderr


def test_a_mistake_is_the_commands_own_to_explain(vm: VM, user: str) -> None:
    """Exit status and words come through the container."""
    ended = vm.ended(f"su - {user} -c 'cd work && sudo workflow.py {TRAIN} --model=modle.py'")
    assert ended.returncode not in (0, 125)
    assert "modle.py" in ended.stderr + ended.stdout


def test_the_root_folder_is_not_handed_to_a_container(vm: VM) -> None:
    ended = vm.ended("cd / && mlaas4hep --help")
    assert ended.returncode == 2
    assert "the current folder is /" in ended.stderr
