import os
import subprocess
import sys

from mlaas4hep.jobs.presence import only_runner
from support.service import Service


def test_a_second_runner_is_refused_naming_the_first(service: Service) -> None:
    with only_runner(service.settings.store):
        refused = subprocess.run(
            [sys.executable, "-c", ONE_MORE, str(service.settings.store)],
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert f"another runner works on {service.settings.store}: process {os.getpid()}" in (
        refused.stdout
    )
    with only_runner(service.settings.store):
        pass


ONE_MORE = """
import sys
from pathlib import Path
from mlaas4hep.core.errors import ConflictError
from mlaas4hep.jobs.presence import only_runner
try:
    with only_runner(Path(sys.argv[1])): pass
except ConflictError as error:
    print(error)
"""
