"""The first moments of a job's process: note who it is, take its cores, become the training.

    python launch.py LOCK_FD CORES COMMAND...

Run by its path, with nothing imported but the standard library, so that it takes no time.
"""

import os
import resource
import sys


def main() -> None:
    """Write the process id (also of its group) into the lock file, then exec the command."""
    lock, cores, *command = sys.argv[1:]
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), str(os.getpid()).encode(), 0)
    os.set_inheritable(int(lock), True)
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
