"""Without an issuer the stack serves this host alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from timings import deployments, memory, note
from vm import SERVICES, VM

from support.user import Files, Session, area_under_curve

SERVER, TFAAS = "http://127.0.0.1:8080", "http://127.0.0.1:8083"


@pytest.fixture(scope="module")
def session(vm: VM, files: Files) -> Session:
    """What a user's script did on the host; its folder and model stay."""
    return Session.on(vm, files, SERVER=SERVER, TFAAS=TFAAS, KEEP="1")


def test_the_machine_itself_is_well(vm: VM) -> None:
    assert vm.run("systemctl is-system-running") == "running"
    assert vm.run("systemctl is-enabled docker") == "enabled"


def test_there_are_server_runner_and_tfaas_and_no_door(vm: VM) -> None:
    assert set(vm.containers()) == set(SERVICES)


def test_a_users_script_trains_and_predicts(session: Session, files: Files) -> None:
    assert session.job.startswith("higgs_")
    assert session.state["state"] == "succeeded"
    assert len(session.predictions) == len(files.truth)
    assert area_under_curve(files.truth, session.predictions) > 0.7
    assert {"params.json", "model.onnx"} <= {Path(name).name for name in session.bundle}


def test_the_training_ran_in_a_container_of_its_own_that_is_gone(vm: VM, session: Session) -> None:
    assert "training    100 %" in session.log
    assert not [name for name in vm.containers() if name.startswith("mlaas4hep-job-")]


def test_what_it_takes_is_noted(vm: VM, session: Session) -> None:
    """For the documents: from the bare machine to the first prediction, and once more."""
    first, second, *_ = deployments("default")
    to_prediction = first | {
        phase: session.seconds[phase] for phase in ("upload", "train", "predict")
    }
    assert {"container_engine", "images", "mlaas4hep", "tfaas"} <= set(first)
    used = memory(vm)
    assert set(used) == set(SERVICES)
    note(
        seconds_from_bare_machine=to_prediction | {"sum": round(sum(to_prediction.values()), 1)},
        seconds_second_run=round(sum(second.values()), 1),
        mib_loopback=used,
    )
