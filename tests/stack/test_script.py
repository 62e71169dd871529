"""A physicist's script on another machine: device flow, TLS, training and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from timings import deployments, memory, note
from vm import DATA_PROXY, DOORS, SERVICES, VM

from support.user import Files, Session, area_under_curve

SITE = {
    "SERVER": "https://mlaas4hep.test",
    "TFAAS": "https://mlaas4hep.test/tfaas",
    "ISSUER": "https://iam.test/realms/mlaas4hep",
}
OLD_PORTS = SITE | {"SERVER": "https://mlaas4hep.test:4433", "TFAAS": "https://mlaas4hep.test:8081"}


@pytest.mark.parametrize(("name", "site"), [("alice_new", SITE), ("alice_old", OLD_PORTS)])
def test_a_script_signs_in_trains_predicts_and_cleans_up(
    files: Files, name: str, site: dict[str, str]
) -> None:
    session = Session.outside(files, "alice", name, **site)
    assert session.state["state"] == "succeeded", session.log
    assert area_under_curve(files.truth, session.predictions) > 0.7
    assert "model.onnx" in {Path(name).name for name in session.bundle}
    assert set(session.seconds) == {"sign-in", "upload", "train", "fetch", "predict", "delete"}


def test_what_it_takes_is_noted(vm: VM) -> None:
    used = memory(vm)
    assert set(used) == {*SERVICES, DATA_PROXY, *DOORS}
    note(seconds_to_add_sign_in=deployments("full_stack")[0], mib_full_stack=used)
