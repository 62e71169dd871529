"""Without an issuer the stack serves this host alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machine import SERVICES, Machine, neighbour, open_ports
from user import Files, Session, area_under_curve, example

SERVER, TFAAS = "http://127.0.0.1:8080", "http://127.0.0.1:8083"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def session(vm: Machine, files: Files) -> Session:
    """What a user's script did on the host; its folder and model stay."""
    return Session.on(vm, files, SERVER=SERVER, TFAAS=TFAAS, KEEP="1")


def test_the_machine_itself_is_well(vm: Machine) -> None:
    assert vm.run("systemctl is-system-running") == "running"
    assert vm.host.service("docker").is_enabled


def test_there_are_server_runner_and_tfaas_and_no_door(vm: Machine) -> None:
    assert set(vm.containers()) == set(SERVICES)


def test_a_users_script_trains_and_predicts(session: Session, files: Files) -> None:
    assert session.job.startswith("higgs_")
    assert session.state["state"] == "succeeded"
    assert len(session.predictions) == len(files.truth)
    assert area_under_curve(files.truth, session.predictions) > 0.8
    assert {"params.json", "model.onnx"} <= {Path(name).name for name in session.bundle}


def test_the_training_ran_in_a_container_of_its_own_that_is_gone(
    vm: Machine, session: Session
) -> None:
    assert session.log
    assert not [name for name in vm.containers() if name.startswith("mlaas4hep-job-")]


def test_the_commands_on_the_host_work_on_the_current_folder(vm: Machine, files: Files) -> None:
    vm.put(files.upload, "/root/interactive")
    vm.run(
        "cd /root/interactive"
        " && workflow.py --files=files.txt --labels=labels.txt --model=model.py"
        " --params=params.json --fout=trained"
        " && mlaas4hep predict --model trained --files signal.root --fout scores.root"
    )
    written = vm.run("stat -c %U /root/interactive/scores.root /root/interactive/trained")
    assert set(written.split()) == {"root"}  # whoever called it
    assert json.loads(vm.run("cat /root/interactive/trained/params.json"))


def test_a_neighbour_reaches_ssh_only(vm: Machine) -> None:
    assert open_ports() == {22}
    # The scan can see an open port: the same with one opened on purpose.
    vm.run("systemd-run --unit=opened --collect python3 -m http.server 8080")
    try:
        with neighbour() as run:
            assert (
                run(
                    "curl -s -o /dev/null --retry 5 --retry-connrefused http://10.213.0.10:8080/"
                ).returncode
                == 0
            )
    finally:
        vm.run("systemctl stop opened")
