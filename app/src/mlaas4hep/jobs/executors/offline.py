"""Become COMMAND without a way to a network: Unix sockets only, for it and all its children.

    python3 -c THIS_TEXT COMMAND...

A seccomp filter, which needs no privilege and can't be taken off. Where it can't be put on, COMMAND
isn't started. Nothing but the standard library, as it also runs with the Python of a job's image.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from pathlib import Path

# From linux/audit.h, and the call tables of the kernel.
ABI, SOCKET, SOCKETPAIR = {
    "x86_64": (0xC000003E, 41, 53),
    "aarch64": (0xC00000B7, 198, 199),
}.get(platform.machine(), (0, 0, 0))
IO_URING_SETUP = 425
X32 = 0x4000_0000
"""From here on calls are of x32, a second way into a kernel of x86_64."""

# From linux/bpf_common.h, linux/seccomp.h and linux/prctl.h.
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
CALL, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, FAIL, KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def program() -> bytes:
    """The filter, for the kernel. A test jumps over as many steps as it says: yes, no."""
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, ABI),
        (RETURN, 0, 0, KILL),  # 32-bit programs number their calls otherwise
        (LOAD, 0, 0, CALL),
        (IF_AT_LEAST, 7, 0, X32),
        (IF_EQUAL, 6, 0, IO_URING_SETUP),  # a ring makes sockets, too
        (IF_EQUAL, 1, 0, SOCKET),
        (IF_EQUAL, 0, 2, SOCKETPAIR),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (IF_EQUAL, 0, 1, socket.AF_UNIX),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def go_offline() -> None:
    """Put the filter on this thread, for good. OSError or RuntimeError where that can't be."""
    if not ABI:
        raise RuntimeError(f"there is no filter for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program())
    header = struct.pack("HP", len(program()) // 8, ctypes.addressof(steps))
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def offline(python: str) -> list[str]:
    """The words before a command that is to run so, with this Python."""
    return [python, "-I", "-S", "-c", Path(__file__).read_text()]


def main() -> None:
    """Put on the filter, then exec the words."""
    try:
        go_offline()
    except (OSError, RuntimeError) as error:
        sys.exit(f"not started: sockets can't be refused to the training (seccomp): {error}")
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
