"""A model file that looks around finds its own folder, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scenario import SCENARIO
from trainings import STORE, WAITS, Trainings
from vm import VM

from support.user import Files

# What was uploaded before there was sign-in has no owner: each scenario has names of its own.
OTHERS, OWN = f"others_{SCENARIO}", f"hostile_{SCENARIO}"
HOSTILE = (Path(__file__).parent / "hostile.py").read_text()
ISSUER = "10.213.0.3"


@pytest.fixture(scope="module")
def attempts(vm: VM, files: Files) -> list[list[str]]:
    """What a hostile model file would like to do, by names and addresses that are right."""
    Trainings(vm, files.upload).upload(OTHERS, WAITS)
    others = vm.run(f"ls -d {STORE}/uploads/{OTHERS}.*/files").split()[-1]
    secrets = vm.run("find /etc/mlaas4hep -type f").split()
    server = vm.inspect("mlaas4hep-server")["NetworkSettings"]["Networks"].values()
    return [
        ["read", f"{others}/signal.root"],
        ["write", f"{others}/model.py"],
        ["read", f"{STORE}/mlaas4hep.sqlite"],
        ["read", f"{STORE}/models/.owners"],
        ["write", f"{STORE}/models/planted"],
        ["read", "/etc/shadow"],
        ["read", "/proc/1/root/etc/shadow"],
        *[["read", path] for path in secrets],
        ["engine", "/var/run/docker.sock"],
        ["engine", "/run/docker.sock"],
        *[["connect", f"{network['IPAddress']}:8080"] for network in server],
        ["connect", f"{network_gateway(vm)}:22"],
        ["connect", f"{ISSUER}:443"],
        ["resolve", "iam.test"],
        ["processes", "dockerd"],
        ["write", "/usr/bin/planted"],
        ["write", "/opt/planted"],
        ["become", "0"],
    ]


def network_gateway(vm: VM) -> str:
    """The machine's own address, as its containers see it."""
    return vm.run("docker network inspect bridge -f '{{(index .IPAM.Config 0).Gateway}}'")


def looked(log: str) -> list[tuple[str, str, bool, str]]:
    (line,) = [line for line in log.splitlines() if line.startswith("FOUND ")]
    return [tuple(one) for one in json.loads(line.removeprefix("FOUND "))]


def test_each_attempt_of_a_hostile_model_file_fails(
    vm: VM, files: Files, attempts: list[list[str]]
) -> None:
    """But for its own folder, the control that the attempts are real ones."""
    trainings = Trainings(vm, files.upload)
    own = [["read", "signal.root"], ["write", "planted"], ["read", "/etc/passwd"]]
    trainings.upload(OWN, HOSTILE, **{"attempts.json": json.dumps(own + attempts)})
    row = trainings.ended(trainings.submit(OWN))
    assert row["state"] == "succeeded", row
    found = looked(trainings.ask(f"/logs?process_name={row['process_name']}"))
    assert [done for _, _, done, _ in found[: len(own)]] == [True] * len(own), found
    assert not [attempt for attempt in found[len(own) :] if attempt[2]]
    assert len(found) == len(own) + len(attempts)


def test_each_attempt_would_succeed_outside_of_the_training(
    vm: VM, tmp_path: Path, attempts: list[list[str]]
) -> None:
    """By the same file, run by root on the machine: the attempts' names and code are right."""
    (tmp_path / "attempts.json").write_text(json.dumps(attempts))
    (tmp_path / "hostile.py").write_text(HOSTILE)
    vm.put(tmp_path, "/tmp/hostile")
    found = looked(vm.run("cd /tmp/hostile && python3 hostile.py"))
    assert not [attempt for attempt in found if not attempt[2]]
    assert len(found) == len(attempts)


def test_what_one_user_may_take_follows_from_the_machine(vm: VM, files: Files) -> None:
    """A training that would need more than the machine has is refused when it is submitted."""
    large = f"large_{SCENARIO}"
    trainings = Trainings(vm, files.upload)
    trainings.upload(large, WAITS)
    cores = int(vm.run("nproc --all"))
    kib = int(vm.run("awk '/^MemTotal/ {print $2}' /proc/meminfo"))
    disk = int(vm.run(f"df --block-size=1 --output=size {STORE} | tail -n 1"))
    for asked, limit in (
        ({"memory": f"{kib}k"}, "max_job_memory_bytes"),
        ({"cpus": str(cores + 1)}, "max_job_cpus"),
    ):
        with pytest.raises(AssertionError, match=limit):
            trainings.submit(large, **asked)
    given = vm.inspect("mlaas4hep-server")["Config"]["Env"]
    assert f"MLAAS4HEP_MAX_JOB_CPUS={cores}" in given
    assert f"MLAAS4HEP_MAX_USER_FOLDERS_BYTES={disk // 4}" in given
