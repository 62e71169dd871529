"""The first moments of a job's process: note who it is, take cores and limits, become the training.

    python launch.py LOCK_FD CORES BIGGEST_FILE COMMAND...

Run by its path, with nothing imported but the standard library, so that it takes no time.
"""

import os
import resource
import sys


def main() -> None:
    """Write the process id (also of its group) into the lock file, then exec the command."""
    lock, cores, biggest, *command = sys.argv[1:]
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), str(os.getpid()).encode(), 0)
    os.set_inheritable(int(lock), True)
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The runner may be away, and between two of its looks a disk can fill.
    most = min(int(biggest), _hard_limit())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


def _hard_limit() -> int:
    """Of a file's bytes: only root may raise it."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


if __name__ == "__main__":
    main()
