"""Trainings in containers of a real engine: how they live and end, and what they can't do.

Each attack is shown twice: refused, and successful where the one protection against it is off.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
from docker.errors import DockerException
from docker.types import Mount

from jobs.engine import BASE, IMAGE, USER, ContainerService, engine_address, make_image
from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.jobs.database import Job, State
from mlaas4hep.jobs.executors.base import ExecutorAwayError, Life
from mlaas4hep.jobs.executors.containers import ContainerExecutor
from mlaas4hep.jobs.orders import order_of
from mlaas4hep.models.repository import Repository
from support.remote_data import data_proxy, file_server
from support.service import PATIENCE

pytestmark = pytest.mark.engine

HANG = "import time\ntime.sleep(600)\n"
MB = 1024**2


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(engine_address(), timeout=300)
    make_image(client)
    yield client
    client.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that is not below /tmp, as a store is."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="mlaas4hep-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def service(client: docker.DockerClient, place: Path) -> Iterator[ContainerService]:
    service = ContainerService(place / "store", engine_address())
    yield service
    service.kill_all()
    assert service.containers(client) == []


def limited(service: ContainerService, **settings: object) -> ContainerService:
    """The same service with other limits."""
    service.settings = service.settings.model_copy(update=settings)
    service.restart_runner()
    return service


# How trainings live and end


def test_a_job_succeeds_and_its_container_is_gone(
    service: ContainerService, client: docker.DockerClient
) -> None:
    job = service.run_code("note(here=sorted(p.name for p in home.iterdir()))")
    assert (job.state, job.reason, job.servable, job.exit_code) == ("succeeded", "", True, 0)
    assert job.progress["done"] == 3
    assert Repository(service.settings.models).names() == ["luca_1"]
    assert (service.home(job) / "log.txt").read_text() == "training of luca_1\n"
    assert service.containers(client) == []


def test_a_container_may_be_removed_by_several_at_once(service: ContainerService) -> None:
    """The engine answers 409 to all but one, which was taken for an engine that is away."""
    home = service.home(service.running_code(HANG))
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(service.executor.forget, home) for _ in range(6)]:
            done.result()
    assert service.executor.look(home).state is Life.ENDED


def test_a_new_runner_adopts_what_runs(service: ContainerService) -> None:
    job = service.running_code(HANG)
    service.restart_runner()
    service.runner.step()
    assert service.queue.get("luca_1").state == "running"
    service.queue.cancel("luca_1")
    [job] = service.run(job)
    assert (job.state, job.reason) == ("failed", "cancelled by its user")


def test_a_new_runner_publishes_what_ended_meanwhile(service: ContainerService) -> None:
    job = service.running_code("import time\ntime.sleep(1)")
    while service.life(job) is Life.ALIVE:
        time.sleep(0.05)
    service.restart_runner()
    [job] = service.run(job)
    assert job.state == "succeeded"


def claimed(service: ContainerService, job: Job) -> None:
    """What a claim writes."""
    with service.database.write() as session:
        row = session.get_one(Job, job.id)
        row.state, row.started = State.RUNNING, time.time()


@pytest.mark.parametrize("created", [False, True])
def test_a_job_whose_runner_died_before_it_could_start_it_runs_once(
    service: ContainerService, client: docker.DockerClient, created: bool
) -> None:
    job = service.start_code("")
    claimed(service, job)
    if created:
        order = order_of(job, service.settings)
        service.executor._prepare(order.home)  # type: ignore[attr-defined]
        client.containers.create(IMAGE, **service.executor._options(order))  # type: ignore[attr-defined]
    [job] = service.run(job)
    assert job.state == "succeeded"
    assert (service.home(job) / "log.txt").read_text().count("training of luca_1") == 1


def test_a_container_of_a_lost_database_is_replaced(
    service: ContainerService, client: docker.DockerClient
) -> None:
    job = service.start_code("")
    labels = {"mlaas4hep.store": str(service.settings.store)}
    client.containers.run(
        IMAGE, ["-c", "exit 7"], entrypoint="/bin/sh", name="mlaas4hep-job-luca_1",
        labels=labels, network_mode="none", detach=True,
    ).wait()  # fmt: skip
    [job] = service.run(job)
    assert (job.state, job.exit_code) == ("succeeded", 0)


def test_a_container_of_somebody_else_is_left_alone(
    service: ContainerService, client: docker.DockerClient
) -> None:
    other = client.containers.create(IMAGE, name="mlaas4hep-job-luca_1")
    try:
        job = service.run_code("")
        assert job.state == "failed"
        assert "mlaas4hep-job-luca_1" in job.reason
        assert "already in use" in job.reason
        other.reload()
        assert other.status == "created"
    finally:
        other.remove(force=True)


def test_containers_of_ended_jobs_are_swept(
    service: ContainerService, client: docker.DockerClient
) -> None:
    first = service.running_code(HANG)
    labels = {"mlaas4hep.store": str(service.settings.store)}
    client.containers.create(IMAGE, name="mlaas4hep-job-old_1", labels=labels)
    assert len(service.containers(client)) == 2
    service.restart_runner()
    service.runner.step()
    assert service.containers(client) == [f"mlaas4hep-job-{first.process_name}"]


def test_a_container_that_was_removed_by_hand(
    service: ContainerService, client: docker.DockerClient
) -> None:
    job = service.running_code(HANG)
    client.containers.get("mlaas4hep-job-luca_1").remove(force=True)
    [job] = service.run(job)
    assert job.state == "failed"
    assert "container is gone without a result" in job.reason


def test_a_container_that_was_killed_from_outside(
    service: ContainerService, client: docker.DockerClient
) -> None:
    job = service.running_code(HANG)
    client.containers.get("mlaas4hep-job-luca_1").kill()
    [job] = service.run(job)
    assert "killed from outside: the container engine or the machine was restarted" in job.reason


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (
            "no/such-image:1",
            "the image no/such-image:1 of the environment 'default' is not on this machine",
        ),
        (
            BASE,
            "exit code 127, without a result; last output line: sh: 4: exec: python3: not found",
        ),
        ({"image": IMAGE, "gpus": 1}, "device driver"),
    ],
)
def test_an_environment_that_is_not_as_it_should_be(
    service: ContainerService, environment: Any, reason: str
) -> None:
    gpu = isinstance(environment, dict)
    settings = Settings(
        **(service.settings.model_dump() | {"environments": {"default": environment}})
    )
    service = limited(service, environments=settings.environments)
    service.queue._settings = service.settings
    job = service.run_code("", device="gpu" if gpu else "cpu")
    assert job.state == "failed"
    assert reason in job.reason


def test_the_time_limit(service: ContainerService) -> None:
    job = limited(service, max_job_seconds=1).run_code(HANG)
    assert "killed: ran longer than 1 seconds" in job.reason


def test_a_training_that_ignores_signals_is_killed(service: ContainerService) -> None:
    deaf = "import signal\nfor number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
    job = service.running_code(deaf + HANG)
    service.queue.cancel("luca_1")
    [job] = service.run(job)
    assert job.reason == "cancelled by its user"


def test_a_crash_is_named(service: ContainerService) -> None:
    job = service.run_code("import os\nos.kill(os.getpid(), 11)")
    assert "signal 11 (SIGSEGV)" in job.reason
    assert job.exit_code == -11


# What a training is


def test_the_sandbox(service: ContainerService) -> None:
    job = service.run_code(LOOK, cpus="0.5", memory="200mb")
    seen = service.noted(job)
    mine = os.geteuid() or USER
    assert seen["uid"] == [mine] * 3
    assert seen["groups"] in ([], [seen["gid"]])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen["status"][kind], 16) == 0, kind
    assert seen["status"]["NoNewPrivs"] == "1"
    assert seen["status"]["Seccomp"] == "2"
    assert set(seen["filters"]) == {"2"}  # the engine's and ours, on the first process, too
    assert seen["host"] == "job"
    assert seen["interfaces"] == ["lo"]
    assert seen["environment"].pop("PATH").startswith("/usr/local/sbin:")
    of_shell_and_python = {"PWD", "LC_CTYPE"}
    assert {k: v for k, v in seen["environment"].items() if k not in of_shell_and_python} == {
        "HOME": "/tmp", "TMPDIR": "/tmp", "HOSTNAME": "job", "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1",
        "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
    }  # fmt: skip
    options = {where: how.split(",") for where, how in seen["mounts"].items()}
    assert options["/"][0] == "ro"
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(options["/tmp"])
    version = service.queue.get("luca_1").version
    folders = {str(service.home(job)), str(service.folders.path(version))}
    assert {where for where in options if where.startswith("/var/tmp/")} == folders
    assert seen["writable"] == sorted(folders | {"/tmp", "/dev/shm", "/dev/mqueue"})
    assert seen["core"] == [0, 0]


LOOK = """
import os, resource, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
mounts = dict(line.split()[1:4:2] for line in open("/proc/self/mounts"))
def writable(folder):
    try:
        open(f"{folder}/probe", "w").close()
        os.unlink(f"{folder}/probe")
        return True
    except OSError:
        return False
note(
    uid=os.getresuid(), gid=os.getgid(), groups=os.getgroups(), host=socket.gethostname(),
    status={k: v.strip() for k, v in status.items()}, environment=dict(os.environ),
    interfaces=os.listdir("/sys/class/net"), mounts=mounts,
    writable=sorted(m for m in mounts if os.path.isdir(m) and writable(m)),
    core=resource.getrlimit(resource.RLIMIT_CORE),
    filters=[line.split()[1] for pid in os.listdir("/proc") if pid.isdigit()
             for line in open(f"/proc/{pid}/status") if line.startswith("Seccomp_filters")],
)
"""


# What a training can't do

TRY = """
import errno
def attempt():
{code}
try:
    note(got=attempt())
except OSError as error:
    note(got=errno.errorcode.get(error.errno, str(error)))
"""


def attempted(service: ContainerService, code: str, **submission: str) -> Any:
    """What ``code``, the body of a function, returned, or the name of its OSError."""
    indented = "\n".join(f"    {line}" for line in code.splitlines())
    job = service.run_code(TRY.format(code=indented), **submission)
    assert job.state == "succeeded", job.reason
    return service.noted(job)["got"]


def again(service: ContainerService, filtered: bool = True, **changes: object) -> ContainerService:
    """The same service again, with this protection off."""
    place = service.settings.store.parent / "loosened"
    loose = ContainerService(place / "store", service.settings.engine)
    loose.loosen(filtered, **changes)
    return loose


def mounted(*folders: Path | str) -> list[Mount]:
    return [Mount(str(folder), str(folder), type="bind") for folder in folders]


def test_another_folder_the_database_and_secrets_are_not_there(service: ContainerService) -> None:
    other = service.upload("other", {"secret.txt": b"of another user"})
    secret = service.folders.path(other.version) / "secret.txt"
    database = service.settings.store / "mlaas4hep.sqlite"
    neighbour = service.settings.store / "jobs" / "other_1"
    key = service.settings.store.parent / "key"
    key.write_text("secret")
    targets = [secret, database, key, Path("/etc/hostname.host"), neighbour]
    code = f"import os\nreturn [os.path.lexists(p) for p in {[str(t) for t in targets]}]"
    assert attempted(service, code) == [False] * 5
    for target in (secret, database, key):
        assert (
            attempted_again(service, f"return len(open({str(target)!r}, 'rb').read())") == "ENOENT"
        )
    with_all = again(service, mounts=mounted(service.settings.store.parent))
    try:
        code = f"return open({str(secret)!r}).read()"
        assert attempted(with_all, code) == "of another user"
    finally:
        with_all.kill_all()


def attempted_again(service: ContainerService, code: str) -> Any:
    """Another attempt of the same service: a folder of its own."""
    shutil.rmtree(service.home(service.queue.recent()[0]))
    indented = "\n".join(f"    {line}" for line in code.splitlines())
    number = len(service.queue.recent()) + 1
    service.upload_code(TRY.format(code=indented), number=number)
    [job] = service.run(service.submit("luca"))
    assert job.state == "succeeded", job.reason
    return service.noted(job)["got"]


@pytest.mark.parametrize(
    ("code", "refused", "off", "allowed"),
    [
        ("return open('/etc/shadow').read(4)", "EACCES", {"user": "0:0", "cap_drop": []}, "root"),
        ("open('/var/tmp/x', 'w')\nreturn 'written'", "EROFS", {"read_only": False}, "written"),
        (
            "import os, shutil, subprocess\nshutil.copy('/bin/echo', '/tmp/echo')\n"
            "return subprocess.check_output(['/tmp/echo', 'ran'], text=True)",
            "EACCES",
            {"tmpfs": {"/tmp": "mode=1777,exec"}},
            "ran\n",
        ),
        (
            "import os, signal\nchildren = []\ntry:\n"
            "    for _ in range(200):\n"
            "        if not (child := os.fork()):\n            signal.pause()\n"
            "        children.append(child)\n"
            "finally:\n    for child in children: os.kill(child, 9)\nreturn len(children)",
            "EAGAIN",
            {"pids_limit": 1000},
            200,
        ),
        (
            "for i in range(3):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(40 << 20))\n"
            "return 'filled'",
            "ENOSPC",
            {"tmpfs": {"/tmp": "mode=1777,size=150m"}, "mem_limit": 400 * MB, "memswap_limit": -1},
            "filled",
        ),
        (
            "with open(home / 'x', 'wb') as f:\n    f.truncate(65 << 20)\n"
            "(home / 'x').unlink()\nreturn 'written'",
            "EFBIG",
            {"ulimits": []},
            "written",
        ),
        (
            "import os\nos.chown(home, 1, 1)\nreturn 'given away'",
            "EPERM",
            {"user": "0:0", "cap_drop": []},
            "given away",
        ),
    ],
    ids=["shadow", "root", "noexec", "fork bomb", "tmp", "large file", "capabilities"],
)
def test_what_is_refused(
    service: ContainerService, code: str, refused: str, off: dict[str, object], allowed: object
) -> None:
    service = limited(service, max_job_pids=64, max_job_disk_bytes=64 * MB)
    assert attempted(service, code, memory="200mb") == refused
    loose = again(service, **off)
    try:
        assert attempted(loose, code, memory="200mb") == allowed
    finally:
        loose.kill_all()


def test_no_network(service: ContainerService) -> None:
    """Neither the host, nor a name server: no socket, and without the filter, no way.

    With the host's network, the same code gets through.
    """
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        connect = (
            f"import socket\nsocket.create_connection(({address!r}, {port}), 5)\nreturn 'open'"
        )
        local = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        ask = "import socket\ns = socket.socket(2, 2)\nreturn s.sendto(b'x', ('192.0.2.1', 53))"
        assert attempted(service, connect) == "EAFNOSUPPORT"
        assert attempted_again(service, local) == "EAFNOSUPPORT"
        assert attempted_again(service, ask) == "EAFNOSUPPORT"
        unfiltered = again(service, filtered=False)
        try:
            assert attempted(unfiltered, connect) == "ENETUNREACH"
            assert attempted_again(unfiltered, local) == "ECONNREFUSED"
            assert attempted_again(unfiltered, ask) == "ENETUNREACH"
            unfiltered.loosen(filtered=False, network_mode="host")
            assert attempted_again(unfiltered, connect) == "open"
        finally:
            unfiltered.kill_all()


def test_a_training_with_a_network_may_open_sockets(
    service: ContainerService, client: docker.DockerClient
) -> None:
    network = client.networks.create("mlaas4hep-test-data", internal=True)
    try:
        service = limited(service, job_network=network.name)
        code = "import socket\nsocket.socket(socket.AF_INET)\nreturn 'opened'"
        assert attempted(service, code) == "opened"
        service = limited(service, job_offline=True)
        assert attempted_again(service, code) == "EAFNOSUPPORT"
    finally:
        network.remove()


FETCH = """
import errno, json, os, socket, urllib.request
def tried(do, *words):
    try:
        return do(*words)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def fetched(url):
    return urllib.request.urlopen(url, timeout=20).read(4).decode()
def connected(*address):
    return bool(socket.create_connection(address, 5))
def changed(path):
    os.remove(path)
return {{
    "listed": tried(fetched, {url!r}),
    "other port": tried(fetched, "http://{address}:22/"),
    "other host": tried(fetched, "https://a.org/x"),
    "metadata": tried(fetched, "http://169.254.169.254/latest/meta-data/"),
    "directly": tried(connected, {address!r}, {port}),
    "by udp": tried(socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
    "name server": tried(socket.getaddrinfo, "a.org", 80),
    "key": tried(open, {folder!r} + "/key"),
    "socket": tried(changed, {folder!r} + "/socket/proxy.sock"),
    "interfaces": sorted(os.listdir("/sys/class/net")),
}}
"""


@pytest.mark.hostile
def test_a_training_with_remote_files_reaches_what_is_listed_and_nothing_else(
    service: ContainerService, place: Path
) -> None:
    """By the data proxy. One without remote files has no socket at all, as ever."""
    (folder := place / "proxy").mkdir()
    with file_server(b"root" * 1000) as server, data_proxy(folder, server.target) as proxy:
        service = limited(service, data_proxy=str(folder))
        url = f"http://{server.target}/signal.root"
        address, port = server.server_address[:2]
        code = FETCH.format(url=url, address=address, port=port, folder=str(folder))
        found = attempted(service, code, files=url)
        for name in ("other port", "other host", "metadata"):
            assert "is not among the hosts that trainings may read from" in found.pop(name), name
        assert "name resolution" in found.pop("name server")
        assert found == {
            "listed": "root",
            "directly": "ENETUNREACH",
            "by udp": "EAFNOSUPPORT",
            "key": "ENOENT",
            "socket": "EROFS",
            "interfaces": ["lo"],
        }
        assert {line["job"] for line in proxy.lines()} == {"luca_1"}
        assert {line["host"] for line in proxy.lines()} == {address, "a.org", "169.254.169.254"}
        assert attempted_again(service, "import socket\nsocket.socket(2, 1)") == "EAFNOSUPPORT"
        there = f"import os\nreturn os.path.exists({str(folder)!r})"
        assert attempted_again(service, there) is False


def test_a_training_with_remote_files_needs_the_data_proxy(
    service: ContainerService, place: Path
) -> None:
    """Where there should be one, a training that could not reach it is not started."""
    job = limited(service, data_proxy=str(place)).run_code("", files="https://a.org/a.root")
    assert job.state == "failed"
    assert "data proxy's key" in job.reason


def test_orphans_that_ended_count_for_nothing(service: ContainerService) -> None:
    """The first process buries them: they don't fill up the number of processes."""
    code = (
        "import os\nfor _ in range(200):\n    if not (child := os.fork()):\n"
        "        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.waitpid(child, 0)\n"
        "return 'ended'"
    )
    assert attempted(limited(service, max_job_pids=64), code) == "ended"


def test_the_engine_is_out_of_reach(service: ContainerService) -> None:
    path = engine_address().removeprefix("unix://")
    code = f"import socket\ns = socket.socket(1, 1)\ns.connect({path!r})\nreturn 'root'"
    assert attempted(service, code) == "ENOENT"
    usual = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
    there = f"import os\nreturn [os.path.lexists(path) for path in {usual}]"
    assert attempted_again(service, there) == [False, False, False]
    store = service.settings.store.parent / "loosened"
    loose = again(service, user="0:0", cap_drop=[], mounts=mounted(path, store))
    try:
        assert attempted(loose, code) == "root"
    finally:
        loose.kill_all()


def test_too_much_memory_is_the_reason(service: ContainerService) -> None:
    job = service.run_code("x = bytearray(300 << 20)\n" + HANG, memory="100mb")
    assert (job.state, job.reason) == ("failed", "killed: used more than the 100 MB asked for")
    assert job.exit_code == -9
    assert "chunk_size" in job.remedy


@pytest.mark.parametrize(
    "code",
    [
        "for i in range(10_000): (home / str(i)).write_bytes(bytes(1 << 20))",
        "for i in range(10_000): open(str(i), 'wb').write(bytes(1 << 20))",
        "while True: print('x' * 1000)",
        "for i in range(6_000): (home / str(i)).touch()\n" + HANG,
    ],
    ids=["its folder", "the uploaded folder", "its log", "empty files"],
)
def test_too_much_written_is_the_reason(service: ContainerService, code: str) -> None:
    job = limited(service, max_job_disk_bytes=16 * MB).run_code(code)
    assert job.state == "failed"
    assert "killed: wrote more than 16 MB (max_job_disk_bytes)" in job.reason
    assert "max_job_disk_bytes" in job.reason


def test_folders_that_hide_what_they_hold_end_the_job(service: ContainerService) -> None:
    deep = "import os\nos.chdir(home)\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\n"
    job = service.run_code(deep + HANG)
    assert "killed: its files can't be checked: folders are nested deeper than 200" in job.reason
    subprocess.run(["rm", "-rf", service.home(job)], check=True, timeout=240)


def test_nothing_is_left_behind(service: ContainerService) -> None:
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
        "    os.execvp('sleep', ['sleep', '98765'])\ntime.sleep(1)\n"
    )
    job = service.running_code(daemon)
    while not (left := sleepers()) and service.life(job) is Life.ALIVE:
        time.sleep(0.02)
    assert left
    [job] = service.run(job)
    assert job.state == "succeeded"
    deadline = time.monotonic() + PATIENCE
    while sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleepers() == []


def sleepers() -> list[int]:
    return [
        p.info["pid"]
        for p in psutil.process_iter(["pid", "cmdline"])
        if p.info["cmdline"] == ["sleep", "98765"]
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("(home / 'result.json').symlink_to(SECRET)\nos._exit(0)", "exit code 0, without a result"),
        ("os.mkfifo(home / 'result.json')\nos._exit(0)", "exit code 0, without a result"),
        (
            "(home / 'log.txt').unlink()\n(home / 'log.txt').symlink_to(SECRET)\nos._exit(3)",
            "exit code 3, without a result; last output line: (none)",
        ),
        ("(home / 'luca_1').symlink_to(SECRET)\nSUCCEED", "the bundle is a link: luca_1"),
        ("(home / 'luca_1').mkdir()\n(home / 'luca_1/x').symlink_to(SECRET)\nSUCCEED", "link: x"),
        ("(home / 'luca_1').mkdir()\nos.mkfifo(home / 'luca_1/x')\nSUCCEED", "not a file: x"),
        ("(home / 'luca_1').mkdir()\nSUCCEED", "luca_1 is not a bundle"),
    ],
)
def test_links_that_lead_elsewhere(service: ContainerService, code: str, reason: str) -> None:
    secret = service.settings.store / "secret.json"
    secret.write_text('{"state": "succeeded"}')
    secret.chmod(0o644)
    end = "(home / 'result.json').write_text('{\"state\": \"succeeded\"}')\nos._exit(0)"
    code = code.replace("SECRET", repr(str(secret))).replace("SUCCEED", end)
    job = service.run_code("import os\n" + code)
    assert job.state == "failed"
    assert reason in job.reason
    assert Repository(service.settings.models).names() == []


# When the engine is away


def test_an_engine_that_is_away_fails_no_job(place: Path, client: docker.DockerClient) -> None:
    """The engine behind a socket that this test can take away, with it what the runner sees."""
    real = engine_address().removeprefix("unix://")
    near = place / "engine.sock"
    service = ContainerService(place / "store", f"unix://{near}")
    waiting = service.start_code(HANG)
    with pytest.raises(ExecutorAwayError, match="doesn't answer"):
        service.runner.step()
    assert service.queue.get("luca_1").state == "running"  # claimed, not started
    near.symlink_to(real)
    [job] = service.until(waiting, condition=lambda job: job.progress)
    near.unlink()
    service.queue.cancel("luca_1")
    for _ in range(2):
        service.runner.safe_step()
    assert service.queue.get("luca_1").state == "running"
    assert service.containers(client) == ["mlaas4hep-job-luca_1"]
    near.symlink_to(real)
    [job] = service.run(job)
    assert (job.state, job.reason) == ("failed", "cancelled by its user")
    assert service.containers(client) == []


class OwnEngine:
    """An engine that the test may kill: Debian's dockerd with its own socket and folders."""

    def __init__(self, place: Path) -> None:
        self.address = f"unix://{place}/docker.sock"
        self._place = place
        self.start()

    def start(self) -> None:
        place = self._place
        with (place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "--data-root", place / "data", "--exec-root", place / "run",
                 "--pidfile", place / "pid", "--host", self.address, "--bridge", "none",
                 "--iptables=false"],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(DockerException, OSError):
                self.client = docker.DockerClient(self.address, timeout=300)
                return
            time.sleep(0.2)
        raise AssertionError((place / "log").read_text()[-3000:])

    def kill(self) -> None:
        """As when it crashes, or the kernel takes its memory."""
        self.client.close()
        self._process.kill()
        self._process.wait(240)
        # Its own containerd died with it; where nobody reaps the dead, the number seems alive.
        for file in ("pid", "run/containerd/containerd.pid"):
            (self._place / file).unlink(missing_ok=True)

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait(PATIENCE)

    def clean(self) -> None:
        """Leave no process and no mount, whatever the test came to."""
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._place) in word for word in process.info["cmdline"] or []):
                process.kill()
                process.wait(PATIENCE)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(str(self._place))), reverse=True):
            subprocess.run(["umount", mount], check=True, timeout=240)


@pytest.fixture
def own_engine(client: docker.DockerClient) -> Iterator[OwnEngine]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="mlaas4hep-engine-") as place:
        engine = OwnEngine(Path(place))
        try:
            engine.client.images.load(b"".join(client.images.get(IMAGE).save(named=True)))
            yield engine
            engine.stop()
        finally:
            engine.clean()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_engine_that_is_restarted_ends_its_trainings(
    own_engine: OwnEngine, place: Path, how: str
) -> None:
    service = ContainerService(place / "store", own_engine.address, max_jobs=1)
    first = service.running_code(HANG)
    service.upload_code("", number=2)
    second = service.submit("luca")
    getattr(own_engine, how)()
    with pytest.raises(ExecutorAwayError, match="doesn't answer"):
        service.runner.step()
    assert service.queue.get("luca_1").state == "running"
    own_engine.start()
    first, second = service.run(first, second)
    assert first.state == "failed"
    assert "the container engine or the machine was restarted" in first.reason
    assert second.state == "succeeded"
    assert service.containers(own_engine.client) == []


# Who may start it


def test_trainings_as_root_and_in_others_networks_are_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(UsageError, match="belongs to root, so trainings would run as root"):
            ContainerExecutor(Settings(store=tmp_path))
        os.chown(tmp_path, USER, USER)
    for network in ("host", "container:mlaas4hep-server"):
        with pytest.raises(UsageError, match="share a network with others"):
            ContainerExecutor(Settings(store=tmp_path, job_network=network))
