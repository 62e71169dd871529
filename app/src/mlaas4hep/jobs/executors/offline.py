"""Become COMMAND without a way to a network: Unix sockets only, for it and all its children.

    python3 -c THIS_TEXT [--loopback] COMMAND...

With --loopback, TCP over IPv4 is allowed, too: for a container whose only address is 127.0.0.1.

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
LOAD, AND, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
CALL, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT, THIRD_ARGUMENT = 0, 4, 16, 24, 32
ALLOW, FAIL, KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOOPBACK = "--loopback"
TYPE_MASK = 0xF
"""The bits of a socket's type that are no flags."""


def program(loopback: bool = False) -> bytes:
    """The filter, for the kernel. A test jumps over as many steps as it says: yes, no."""
    unix = [(IF_EQUAL, 0, 1, socket.AF_UNIX)]
    unix_and_tcp = [  # of AF_INET nothing else: the kernel has old protocols there
        (IF_EQUAL, 7, 0, socket.AF_UNIX),
        (IF_EQUAL, 0, 7, socket.AF_INET),
        (LOAD, 0, 0, SECOND_ARGUMENT),
        (AND, 0, 0, TYPE_MASK),
        (IF_EQUAL, 0, 4, socket.SOCK_STREAM),
        (LOAD, 0, 0, THIRD_ARGUMENT),
        (IF_EQUAL, 1, 0, 0),
        (IF_EQUAL, 0, 1, socket.IPPROTO_TCP),
    ]
    families = unix_and_tcp if loopback else unix
    more = len(families) - 1
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, ABI),
        (RETURN, 0, 0, KILL),  # 32-bit programs number their calls otherwise
        (LOAD, 0, 0, CALL),
        (IF_AT_LEAST, 7 + more, 0, X32),
        (IF_EQUAL, 6 + more, 0, IO_URING_SETUP),  # a ring makes sockets, too
        (IF_EQUAL, 1, 0, SOCKET),
        (IF_EQUAL, 0, 2 + more, SOCKETPAIR),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *families,
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def go_offline(loopback: bool = False) -> None:
    """Put the filter on this thread, for good. OSError or RuntimeError where that can't be."""
    if not ABI:
        raise RuntimeError(f"there is no filter for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program(loopback))
    header = struct.pack("HP", len(program(loopback)) // 8, ctypes.addressof(steps))
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def offline(python: str, loopback: bool = False) -> list[str]:
    """The words before a command that is to run so, with this Python."""
    words = [LOOPBACK] if loopback else []
    return [python, "-I", "-S", "-c", Path(__file__).read_text(), *words]


def main() -> None:
    """Put on the filter, then exec the words."""
    loopback = sys.argv[1] == LOOPBACK
    command = sys.argv[1 + loopback :]
    try:
        go_offline(loopback)
    except (OSError, RuntimeError) as error:
        sys.exit(f"not started: sockets can't be refused to the training (seccomp): {error}")
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
