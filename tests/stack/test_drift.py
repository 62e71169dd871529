"""What a run says of a machine that a person changed by hand, and of one that nobody changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenario import play
from vm import DOORS, SERVICES, VM

from support.playbook import OLDEST
from support.waiting import until

# One of each kind: the command by which a person changes it, and the task that puts it right.
BY_HAND = {
    "echo '# by hand' >>/etc/mlaas4hep/gateway/Caddyfile": "Write the gateway's settings",
    "echo '# by hand' >>/etc/mlaas4hep/oauth2-proxy/oauth2-proxy.cfg": (
        "Write oauth2-proxy's settings"
    ),
    "echo '# by hand' >>/usr/local/bin/workflow.py": (
        "Write the commands that run in the image of trainings: workflow.py"
    ),
    "sed -i '/live-restore/s/true/false/' /etc/docker/daemon.json": "Write the engine's settings",
    "chmod 0644 /etc/mlaas4hep/oauth2-proxy/cookie-secret": (
        "Restrict secrets to their reader: cookie-secret"
    ),
    "docker update --memory 600m --memory-swap 600m mlaas4hep-tfaas": "Run mlaas4hep-tfaas",
    "docker stop mlaas4hep-server": "Run mlaas4hep-server",
    "docker update --memory 300m --memory-swap 300m mlaas4hep-data-proxy": (
        "Run mlaas4hep-data-proxy"
    ),
}
# What has read the files that were put right is restarted.
FOLLOWS = [
    "Reload engine settings",
    "Restart the engine",
    "Run mlaas4hep-gateway",
    "Run mlaas4hep-oauth2-proxy",
]
FILES = (
    "find /etc/mlaas4hep /etc/docker/daemon.json /usr/local/bin -type f -exec sha256sum {} + | sort"
)


@contextmanager
def another_image(vm: VM) -> Iterator[str]:
    """For a while, the image of trainings is one that was built of something else."""
    name = vm.run("docker images mlaas4hep/job --format '{{.Repository}}:{{.Tag}}'")
    own = vm.run(f"docker image inspect --format '{{{{.Id}}}}' {name}")
    vm.run(f"docker tag debian:bookworm-slim {name}")
    try:
        yield name
    finally:
        vm.run(f"docker tag {own} {name}")


def test_check_mode_names_exactly_what_was_changed_by_hand(vm: VM, tmp_path: Path) -> None:
    """Then a run puts just that right, and check mode has nothing more to name."""
    before = vm.run(FILES)
    try:
        for command in BY_HAND:
            vm.run(command)
        by_hand = vm.run(FILES)
        assert by_hand != before

        with another_image(vm) as replaced:
            # The image that was built has no name meanwhile.
            older = "Remove images that are older than the version before"
            would = [*BY_HAND.values(), f"The image would be built: {replaced}", older]
            assert sorted(play(tmp_path, "--check").changed) == sorted(would)
        assert vm.run(FILES) == by_hand
    finally:
        changed = play(tmp_path).changed
    assert sorted(changed) == sorted([*BY_HAND.values(), *FOLLOWS])
    assert vm.run(FILES) == before
    until("all are healthy", lambda: vm.healthy(*SERVICES, *DOORS))

    assert play(tmp_path, "--check").changed == []


def test_the_oldest_ansible_that_is_supported_changes_nothing(tmp_path: Path) -> None:
    """core 2.16, with the modules of its time, makes what the newest makes."""
    assert play(tmp_path, ansible=OLDEST).changed == []
