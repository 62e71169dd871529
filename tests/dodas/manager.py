"""The Infrastructure Manager (IM), unmodified, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import IM

from support.ports import free_port, listens
from support.waiting import until

# Where the IM looks for its settings, beside /etc, which is not the tests'.
SETTINGS = Path(IM.__file__).parents[1] / "im.cfg"
ISSUER = "https://iam.test/realms/mlaas4hep"
KEYCLOAK = "10.213.0.3"


@contextmanager
def manager(folder: Path) -> Iterator[str]:
    """The address of an IM that runs while this lasts; its log and its data are in the folder."""
    port = free_port()
    SETTINGS.write_text(
        "[im]\n"
        f"REST_ADDRESS = 127.0.0.1\nREST_PORT = {port}\n"
        f"DATA_DB = sqlite://{folder}/im.sqlite\nLOG_FILE = {folder}/im.log\nLOG_LEVEL = DEBUG\n"
        f"OIDC_ISSUERS = {ISSUER}\n"
        # It tries once, and looks often.
        "MAX_VM_FAILS = 1\nPLAYBOOK_RETRIES = 1\nVM_INFO_UPDATE_FREQUENCY = 2\n"
        "CHECK_CTXT_PROCESS_INTERVAL = 2\nUPDATE_CTXT_LOG_INTERVAL = 2\n"
        "CONFMAMAGER_CHECK_STATE_INTERVAL = 1\nDELAY_BETWEEN_VM_RETRIES = 1\n"
    )
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{KEYCLOAK} iam.test\n")
    # The issuer's name is known to this process alone.
    words = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts]
    program = Path(sys.executable).with_name("im_service")
    environment = os.environ | {
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "HOME": str(folder),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "NO_PROXY": "*",
    }
    with (folder / "im.out").open("w") as out:
        process = subprocess.Popen(
            [*words, program], env=environment, cwd=folder, stdout=out, stderr=out
        )
    try:
        until("the IM listens", lambda: process.poll() is not None or listens(port), 60)
        assert process.poll() is None, (folder / "im.out").read_text()
        yield f"http://127.0.0.1:{port}/infrastructures"
    finally:
        process.terminate()
        process.wait(60)
        SETTINGS.unlink()
