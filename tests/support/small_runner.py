"""The real runner, whose trainings are small_job.py, unless model.py is a real model."""

import sys
from pathlib import Path

from mlaas4hep.core.log import setup_logging
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.executors.base import Order
from mlaas4hep.jobs.executors.process import ProcessExecutor, train_command
from mlaas4hep.jobs.runner import run

SCRIPT = Path(__file__).with_name("small_job.py")


def small_command(order: Order) -> list[str]:
    """The command of a small job; of a real training where the folder holds ROOT files."""
    if list(order.cwd.glob("*.root")):
        return train_command(order)
    return [sys.executable, str(SCRIPT), str(order.home), order.process_name]


if __name__ == "__main__":
    setup_logging("INFO")
    run(
        Settings(),
        stop_jobs="--stop-jobs" in sys.argv,
        executor=ProcessExecutor(small_command),
    )
