"""Whatever is killed comes back, and every training ends and says how."""

from __future__ import annotations

import json

import pytest
from trainings import WAITS, Trainings
from vm import VM, inside, reached

from support.user import Files
from support.waiting import until


@pytest.fixture(scope="module")
def trainings(vm: VM, files: Files) -> Trainings:
    trainings = Trainings(vm, files.upload)
    trainings.upload("waits", WAITS)
    trainings.upload("goes", WAITS, go="")
    return trainings


def started(vm: VM) -> dict[str, str]:
    """When each container of the stack was started."""
    names = [name for name in vm.containers() if "-job-" not in name]
    return {name: vm.inspect(name)["State"]["StartedAt"] for name in names}


def test_each_container_that_dies_comes_back_and_the_training_goes_on(
    vm: VM, trainings: Trainings
) -> None:
    """Killed as by a crash or a lack of memory: `docker kill` would mean that a person stops it."""
    job = trainings.begin("waits")
    before = started(vm)
    for name in before:
        vm.run(f"kill -9 {vm.inspect(name)['State']['Pid']}")
    until("all are healthy", lambda: vm.healthy(*before))
    after = started(vm)
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    trainings.release("waits")
    assert trainings.ended(job)["state"] == "succeeded"


def test_the_engine_that_dies_comes_back_under_running_containers(
    vm: VM, trainings: Trainings
) -> None:
    """The training and the services run on; the runner finds the engine again."""
    trainings.upload("waits", WAITS)
    job, next_one = trainings.begin("waits"), trainings.submit("goes")
    before = started(vm)
    engine = vm.run("systemctl show --property MainPID --value docker")
    vm.run(f"kill -9 {engine}")
    until("the engine answers", lambda: vm.ended("docker version").returncode == 0)
    assert vm.run("systemctl show --property MainPID --value docker") != engine
    until("all are healthy", lambda: vm.healthy(*before))
    assert started(vm) == before
    trainings.release("waits")
    assert trainings.ended(job)["state"] == "succeeded"
    assert trainings.ended(next_one)["state"] == "succeeded"


def test_after_a_reboot_all_is_back_and_all_trainings_end(vm: VM, trainings: Trainings) -> None:
    """The one that ran fails and says why, the one in line runs, what was there is there."""
    done = trainings.submit("goes")
    assert trainings.ended(done)["state"] == "succeeded"
    trainings.upload("waits", WAITS)
    running, in_line = trainings.begin("waits"), trainings.submit("goes")
    before, folders = started(vm), trainings.ask("/folders")

    vm.reboot()

    until("all are healthy", lambda: vm.healthy(*before))
    assert reached(inside(vm)) == []  # what keeps neighbours out is there again as well
    ended = trainings.ended(running)
    assert ended["state"] == "failed"
    assert "killed" in ended["reason"], ended
    assert "Submit it again" in ended["remedy"], ended
    assert trainings.ended(in_line)["state"] == "succeeded"
    assert not [name for name in vm.containers() if "-job-" in name]
    assert trainings.ask("/folders") == folders
    assert trainings.row(done)["state"] == "succeeded"
    tfaas = "/tfaas" if "mlaas4hep-gateway" in before else ""
    if not tfaas:
        trainings.url = trainings.url.replace("8080", "8083")
    models = json.loads(trainings.ask(f"{tfaas}/models"))
    assert {done, in_line} <= {model["name"] for model in models}
