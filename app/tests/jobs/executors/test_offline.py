"""A command without a way to a network: what is refused to it, and that all else works.

What is refused is also tried without the filter, where it works.
"""

from __future__ import annotations

import errno
import json
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.jobs.database import Job
from mlaas4hep.jobs.executors import executor_of
from mlaas4hep.jobs.executors import offline as module
from mlaas4hep.jobs.executors.offline import offline, program
from mlaas4hep.jobs.runner import Runner
from support.service import Service, real_files

OFFLINE = offline(sys.executable)
ON_LOOPBACK = offline(sys.executable, loopback=True)
OTHER_FAMILIES = sorted(set(range(46)) - {socket.AF_UNIX})


def run(code: str, before: list[str] = OFFLINE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )


def said(code: str, before: list[str] = OFFLINE) -> Any:
    """What the code printed, JSON."""
    done = run(code, before)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ERRORS = """
import json, socket, threading
def error(make, *words):
    try:
        make(*words)
        return 0
    except OSError as refused:
        return refused.errno
def errors():
    return [error(socket.socket, f, t) for f in FAMILIES for t in (1, 2, 3)]
""".replace("FAMILIES", repr(OTHER_FAMILIES))

HERE = ERRORS + "print(json.dumps(errors()))"
IN_A_THREAD = """
found = []
thread = threading.Thread(target=lambda: found.extend(errors()))
thread.start()
thread.join()
print(json.dumps(found))
"""
IN_A_CHILD = f"""
import os, subprocess, sys
if os.fork():
    os.wait()
else:
    os.setsid()
    subprocess.run([sys.executable, "-c", {HERE!r}], check=True)
"""


@pytest.mark.parametrize("code", [HERE, ERRORS + IN_A_THREAD, IN_A_CHILD])
def test_sockets_of_all_families_but_one_are_refused(code: str) -> None:
    assert set(said(code)) == {errno.EAFNOSUPPORT}


def test_on_loopback_there_is_tcp_and_nothing_else() -> None:
    """As files of remote servers are read through the relay at 127.0.0.1."""
    found = said(HERE, before=ON_LOOPBACK)
    number = 3 * OTHER_FAMILIES.index(socket.AF_INET)
    assert found.pop(number) == 0
    assert set(found) == {errno.EAFNOSUPPORT}
    talk = """
import json, socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
        one.sendall(b"[1]")
        print(other.recv(9).decode())
"""
    assert said(talk, before=ON_LOOPBACK) == [1]


def test_without_the_filter_there_are_sockets() -> None:
    found = said(HERE, before=[])
    number = 3 * OTHER_FAMILIES.index(socket.AF_INET)
    assert found[number : number + 2] == [0, 0]
    assert found[3 * OTHER_FAMILIES.index(socket.AF_NETLINK) + 1] == 0


RING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
made = libc.syscall(425, 1, ctypes.create_string_buffer(120))
print(ctypes.get_errno() if made < 0 else 0)
"""


def test_rings_are_refused() -> None:
    assert said(RING) == errno.ENOSYS
    assert said(RING, before=[]) != errno.ENOSYS


def test_a_call_of_32_bits_kills() -> None:
    """The 32-bit getpid, int 0x80 with 20 in eax: without the filter, it answers."""
    assert platform.machine() == "x86_64"
    code = """
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000 cd80 c3"))
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(int(call() == os.getpid()))
"""
    assert said(code, before=[]) == 1
    assert run(code).returncode == -signal.SIGSYS


def test_it_can_not_be_taken_off() -> None:
    """A second filter that allows everything changes nothing."""
    loosen = (
        ERRORS
        + """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
assert libc.prctl(22, 2, struct.pack("HP", 1, ctypes.addressof(allow)), 0, 0) == 0
assert libc.prctl(22, 0, 0, 0, 0) != 0
print(json.dumps(errors()))
"""
    )
    assert set(said(loosen)) == {errno.EAFNOSUPPORT}


# What the filter answers, by an interpreter of its few instructions: for machines not at hand.

ALLOW, KILL = 0x7FFF0000, 0x80000000
UNSUPPORTED, NO_SUCH_CALL = 0x50000 | errno.EAFNOSUPPORT, 0x50000 | errno.ENOSYS
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028


def answer(call: int, abi: int, *arguments: int, loopback: bool = False) -> int:
    data = struct.pack("<iIQ6Q", call, abi, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("HBBI", program(loopback)))
    value = at = 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            [value] = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            value &= k
        else:
            at += yes if {0x15: value == k, 0x35: value >= k}[code] else no


@pytest.mark.parametrize(
    ("machine", "abi", "make", "pair", "read", "others"),
    [
        ("x86_64", X86_64, 41, 53, 0, (I386, AARCH64)),
        ("aarch64", AARCH64, 198, 199, 63, (ARM, X86_64)),
    ],
)
def test_answers(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    abi: int,
    make: int,
    pair: int,
    read: int,
    others: tuple[int, ...],
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    numbers: dict[str, Any] = {"__name__": "offline"}
    exec(Path(module.__file__).read_text(), numbers)
    for name in ("ABI", "SOCKET", "SOCKETPAIR"):
        monkeypatch.setattr(module, name, numbers[name])
    for call in (make, pair):
        assert answer(call, abi, socket.AF_UNIX) == ALLOW
        assert answer(call, abi, socket.AF_UNIX | 1 << 32) == ALLOW  # the kernel reads 32 bits
        assert answer(call, abi, socket.AF_UNIX, 2, 0, loopback=True) == ALLOW
        for family in (*OTHER_FAMILIES, -1 & 0xFFFFFFFF):
            assert answer(call, abi, family) == UNSUPPORTED
            for kind in (*range(12), 1 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
                for protocol in (0, 1, 6, 17, 33, 132, 262):
                    tcp = family == socket.AF_INET and kind & 0xF == 1 and protocol in (0, 6)
                    found = answer(call, abi, family, kind, protocol, loopback=True)
                    assert found == (ALLOW if tcp else UNSUPPORTED)
    for loopback in (False, True):
        assert answer(read, abi, loopback=loopback) == ALLOW
        assert answer(425, abi, loopback=loopback) == NO_SUCH_CALL
        x32 = answer(0x40000000 + make, abi, socket.AF_UNIX, loopback=loopback)
        assert x32 == NO_SUCH_CALL
        for other in others:
            assert answer(read, other, loopback=loopback) == KILL


# Where it can't be put on


def test_a_machine_without_a_filter_starts_nothing() -> None:
    *before, text = OFFLINE
    strange = f"import platform\nplatform.machine = lambda: 'riscv64'\n{text}"
    done = subprocess.run(
        [*before, strange, "echo", "started"], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"not started: .*seccomp.*no filter for riscv64", done.stderr)


def test_a_kernel_that_refuses_the_filter_starts_nothing() -> None:
    """It takes 32,768 steps of filters in all."""
    fill = f"""
import os
from mlaas4hep.jobs.executors.offline import go_offline
try:
    while True: go_offline()
except OSError: pass
os.execv({OFFLINE[0]!r}, {[*OFFLINE, "echo", "started"]!r})
"""
    done = run(fill, before=[])
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"not started: .*seccomp.*Cannot allocate memory", done.stderr)


def test_a_command_that_is_not_there_is_named() -> None:
    done = subprocess.run([*OFFLINE, "/no/such"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr == "can't start /no/such: No such file or directory\n"


# What works


def test_unix_sockets_pools_and_event_loops_work(tmp_path: Path) -> None:
    file = tmp_path / "pools.py"
    file.write_text(f"""
import asyncio, multiprocessing, socket
from concurrent.futures import ProcessPoolExecutor

def square(x): return x * x

async def later():
    return await asyncio.to_thread(square, 3)

if __name__ == "__main__":
    near, far = socket.socketpair()
    near.send(b"4")
    server = socket.socket(socket.AF_UNIX)
    server.bind({str(tmp_path / "s")!r})
    with multiprocessing.Pool(2) as pool, ProcessPoolExecutor(1) as other, \\
            multiprocessing.Manager() as manager:
        shared = manager.list(pool.map(square, [1, 2]))
        five = other.submit(square, 5).result()
        print([*shared, asyncio.run(later()), int(far.recv(1)) ** 2, five])
""")
    done = subprocess.run(
        [*OFFLINE, sys.executable, file], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[1, 4, 9, 16, 25]\n", done.stderr


def trained(service: Service, files: dict[str, bytes], offline: bool = True) -> Job:
    """The job of a real training, ended."""
    executor = executor_of(service.settings.model_copy(update={"job_offline": offline}))
    service.runner = Runner(service.settings, executor)
    service.upload("luca", files)
    [job] = service.run(service.submit("luca"))
    return job


PARALLEL = """
import socket
from sklearn.ensemble import RandomForestClassifier

def model(idim):
    try:
        socket.socket(socket.AF_INET)
    except OSError as refused:
        print("refused:", refused)
    return RandomForestClassifier(5, max_depth=3, random_state=1, n_jobs=2)
"""
KERAS = """
import keras

def model(idim):
    network = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1, activation="sigmoid")])
    network.compile(optimizer="adam", loss="binary_crossentropy")
    return network
"""


@pytest.mark.parametrize("model", [PARALLEL, KERAS], ids=["scikit-learn", "TensorFlow"])
def test_trainings_work(service: Service, tmp_path: Path, model: str) -> None:
    job = trained(service, real_files(tmp_path) | {"model.py": model.encode()})
    log = (service.home(job) / "log.txt").read_text()
    assert (job.state, job.reason) == ("succeeded", ""), log
    assert job.servable, job.why_not
    assert ("refused: [Errno 97]" in log) == (model == PARALLEL)


def test_a_process_may_open_sockets_by_default(service: Service, tmp_path: Path) -> None:
    job = trained(service, real_files(tmp_path) | {"model.py": PARALLEL.encode()}, offline=False)
    assert job.state == "succeeded"
    assert "refused" not in (service.home(job) / "log.txt").read_text()
