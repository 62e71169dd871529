"""Sign-in is switched off and on again: nothing of what was stays open, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

from scenario import play
from vm import DATA_PROXY, DOORS, SERVICES, VM

from support.waiting import until

STATUS = "curl -sk -o /dev/null -w '%{http_code}'"
LOOPBACK = "http://127.0.0.1:8080/jobs"


def test_sign_in_ends_only_with_consent(vm: VM, tmp_path: Path) -> None:
    containers = sorted(vm.containers())
    played = play(tmp_path, expected=False, mlaas4hep_issuer="")
    assert "mlaas4hep_drop_sign_in" in "\n".join(played.messages)
    assert played.changed == []
    assert sorted(vm.containers()) == containers


def test_what_is_switched_off_is_gone_after_that_run_and_comes_back(vm: VM, tmp_path: Path) -> None:
    """The doors close, before the server opens to this host; users' data and secrets stay.

    So does the way to remote data.
    """
    kept = "find /etc/mlaas4hep /var/lib/mlaas4hep/store/models -type f -exec sha256sum {} + | sort"
    before = vm.run(kept)
    off = {"mlaas4hep_issuer": "", "mlaas4hep_drop_sign_in": True, "mlaas4hep_data_hosts": []}
    try:
        first = play(tmp_path, **off).changed
        closed = [
            f"Uninstall gateway and oauth2-proxy after sign-in was removed: {door}"
            for door in DOORS
        ]
        assert first[:2] == closed
        assert set(vm.containers()) == set(SERVICES)
        assert "mlaas4hep-data" not in vm.run("docker network ls --format '{{.Name}}'").split()
        assert vm.ended("ls /var/lib/mlaas4hep/data-proxy").returncode != 0
        listening = vm.run("ss -ltnH")
        assert not [port for port in (80, 443, 4433, 8081) if f":{port} " in listening]
        assert isinstance(json.loads(vm.run(f"curl -sSf {LOOPBACK}")), list)
        assert play(tmp_path, **off).changed == []
    finally:
        play(tmp_path)
    until("all are healthy", lambda: vm.healthy(*SERVICES, DATA_PROXY, *DOORS))
    assert vm.run(f"{STATUS} https://mlaas4hep.test/jobs") == "401"
    assert vm.ended(f"curl -s {LOOPBACK}").returncode == 7  # no connection
    assert vm.run(kept) == before
