"""``mlaas4hep xrootd-cache``: a disk cache before the servers of grid data, with one credential.

Each door (core/origins.py) is an XRootD server (proxy file cache, pfc) with a port and a folder of
its own. With several origins behind one server, XRootD 5.5 keeps their files under the same path,
so that a file of one would be given for that of another. And who may read what is a matter of who
reaches which server: of tokens, its SciTokens compare beginnings only, so that one for /store/a/
opens /store/ab/, and it sends them on to the origin.

pfc never looks whether a file has changed at its origin, so readers ask (``/fresh``, Versions)
when they open one, and when they have read it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlaas4hep.core.errors import MlaasError, UsageError
from mlaas4hep.core.origins import EVERYTHING, Door, lies_in
from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import programs, status
from mlaas4hep.web.problem import problem

log = logging.getLogger(__name__)

BLOCK = "256k"
"""What is fetched at once, for each part of a file that is read."""
LOW, NOMINAL, HIGH = 0.7, 0.8, 0.9
"""Parts of the space for files: above HIGH, old ones are removed until LOW."""
_FREE_LOW, _FREE_HIGH = 0.9, 0.95
"""The same of the whole disk, whoever fills it."""
_PATIENCE = {
    "XRD_CONNECTIONWINDOW": "10",
    "XRD_CONNECTIONRETRY": "2",
    "XRD_REQUESTTIMEOUT": "30",
    "XRD_TIMEOUTRESOLUTION": "1",
    "XRD_STREAMERRORWINDOW": "0",
}
"""Seconds and tries of XRootD's client, whose own are minutes, or half an hour."""
_ASK_SECONDS = 40.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 10.0
_STARTED = re.compile(r"^-+ xrootd cache@\S+ initialization completed", re.MULTILINE)
"""Its parts say the same before, also where it then doesn't start."""
_START_SECONDS = 60.0
_MISSING, _REFUSED = "[3011]", re.compile(r"\[30(?:10|30)\]|Auth failed")


class Instance:
    """The XRootD server of one door."""

    def __init__(self, settings: Settings, door: Door, bytes_: int, monitor: int) -> None:
        self.door, self.port = door, settings.xrootd_cache_port + door.number
        self.name = door.origin.replace(":", "_")
        self.paths = settings.paths
        if door.folder != EVERYTHING:
            self.name += door.folder.rstrip("/").replace("/", ",")
            self.paths = (door.folder,)
        self.data = settings.xrootd_cache_folder / self.name
        # By its number: the paths of Unix sockets are short.
        self.folder = settings.xrootd_cache_folder / f"run/{door.number}"
        self._environment = _environment(settings, self.folder)
        for each in (self.data, self.folder):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._configuration = self.folder / "xrootd.cfg"
        self._configuration.write_text("\n".join(_configuration(self, bytes_, monitor)) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; MlaasError says why it doesn't."""
        self._log = self.folder / "xrootd.log"
        self._log.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the words are ours
                # It ends with this process, however that ends: its port must be free again.
                [  # noqa: S607 - Debian's
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    "xrootd",
                    "-c",
                    str(self._configuration),
                    "-n",
                    "cache",
                ],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        end = time.monotonic() + _START_SECONDS
        while not _STARTED.search(said := self._log.read_text(errors="replace")):
            if not self.is_alive() or time.monotonic() > end:
                self.stop()
                raise MlaasError(
                    f"XRootD for {self.name} did not start: {said.strip()[-1000:]}",
                    "Check the settings of the cache, and whether its ports are free.",
                )
            time.sleep(0.1)

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it; what it has on disk stays, and is whole."""
        if not self._process:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def reads(self, path: str) -> bool:
        """Whether it serves that path at all."""
        return lies_in(path, *self.paths)

    def stat(self, path: str) -> tuple[int, str]:
        """Size and time of modification of a file at the origin itself.

        FileNotFoundError where there is none; MlaasError where the origin is away or refuses.
        """
        try:
            said = programs.run(
                ["xrdfs", f"root://{self.door.origin}", "stat", path],
                seconds=_ASK_SECONDS,
                package="xrootd-client",
                remedy="Look at the network, and at the origin.",
                env=self._environment,
            )
        except MlaasError as error:
            if _MISSING in error.message:
                raise FileNotFoundError(path) from None
            if _REFUSED.search(error.message):
                raise MlaasError(
                    f"{self.door.origin} refuses the cache's credential: {error.message}",
                    "Look at /readyz of the renewer.",
                ) from None
            raise MlaasError(f"{self.door.origin} is away: {error.message}", error.remedy) from None
        found = dict(re.findall(r"^(\w+): +(.+)$", said.replace("\0", ""), re.MULTILINE))
        return int(found["Size"]), found["MTime"]

    def answers(self) -> bool:
        """Whether it speaks XRootD's protocol now."""
        try:
            programs.run(
                ["xrdfs", f"root://localhost:{self.port}", "query", "config", "version"],
                seconds=_ASK_SECONDS,
                package="xrootd-client",
                remedy="",
                env={**_PATIENCE, "XRD_CONNECTIONWINDOW": "3", "XRD_CONNECTIONRETRY": "1"},
            )
        except MlaasError:
            return False
        return True

    def kept(self, path: str) -> Path:
        """Where a file is on the cache's disk, in part or whole."""
        return self.data / path.lstrip("/")

    def evict(self, path: str) -> bool:
        """Remove a file from the disk; whether a reader still has it open, and so its old bytes.

        XRootD gives all who open it meanwhile the same.
        """
        file = self.kept(path)
        for each in (file, file.with_name(f"{file.name}.cinfo")):
            each.unlink(missing_ok=True)
        return f"{file} (deleted)" in self._open_files()

    def _open_files(self) -> set[str]:
        found = set()
        if self._process:
            with suppress(OSError):
                for each in Path(f"/proc/{self._process.pid}/fd").iterdir():
                    with suppress(OSError):
                        found.add(str(each.readlink()))
        return found

    def disk_bytes(self) -> int:
        """What its files take on the disk."""
        total = 0
        for folder, _, names in os.walk(self.data):
            for name in names:
                with suppress(OSError):
                    total += (Path(folder) / name).lstat().st_blocks * 512
        return total


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    shared = settings.x509_folder / "shared"
    proxy, token = shared / "proxy.pem", shared / "token"
    # With TLS, XRootD's client fails where the proxy that is named isn't there.
    x509 = {} if token.exists() and not proxy.exists() else {"X509_USER_PROXY": str(proxy)}
    return (
        _PATIENCE
        | x509
        | {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "X509_CERT_DIR": str(shared / "certificates"),
            "BEARER_TOKEN_FILE": str(token),
        }
    )


def _configuration(instance: Instance, bytes_: int, monitor: int) -> Iterator[str]:
    """The lines of xrootd's configuration."""
    yield f"xrd.port {instance.port}"
    yield "xrd.network nodnr norpipa"
    yield f"all.adminpath {instance.folder}"
    yield f"all.pidpath {instance.folder}"
    yield f"oss.localroot {instance.data}"
    for path in instance.paths:
        # With its slash: XRootD compares beginnings, and /store would open /storey, too.
        yield f"all.export {path} nolock r/o"
    yield "ofs.osslib libXrdPss.so"
    yield "pss.cachelib libXrdPfc.so"
    yield f"pss.origin {instance.door.origin}"
    yield "pfc.ram 1g"  # the least that it takes; it uses what it needs
    yield f"pfc.blocksize {BLOCK}"
    yield "pfc.prefetch 0"
    # With a unit: a number without one is a part of the whole disk.
    files = " ".join(f"{int(bytes_ * part) >> 10}k" for part in (LOW, NOMINAL, HIGH))
    yield f"pfc.diskusage {_FREE_LOW} {_FREE_HIGH} files {files} purgeinterval 60s"
    yield f"xrootd.monitor all flush 5s window 2s dest pfc 127.0.0.1:{monitor}"


class Freshness(StrEnum):
    """What became of a look whether a file is still the one that is cached."""

    SAME = "same"
    """Or none was cached."""
    EVICTED = "evicted"
    """Another one, which is read from now on."""
    IN_USE = "in use"
    """Another one, but readers of the old one make the cache give that."""
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The origin doesn't answer: what is cached may be old."""


class Versions:
    """Size and time of each file as its origin gave them when it was first asked for."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, check_same_thread=False)
        self._lock = Lock()
        self.evicted = self.unknown = 0
        with self._lock, self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS version (cached TEXT PRIMARY KEY, size INT, time TEXT)"
            )

    def look(self, instance: Instance, path: str) -> dict[str, str]:
        """Compare, and evict a file that was replaced.

        ``state``, the ``reason`` where that isn't known, and the ``version`` at the origin.
        """
        try:
            now = instance.stat(path)
        except FileNotFoundError:
            return _look(Freshness.MISSING)
        except MlaasError as error:
            self.unknown += 1
            return _look(Freshness.UNKNOWN, error.message)
        with self._lock, self._database:
            key = str(instance.kept(path))
            known = self._database.execute(
                "SELECT size, time FROM version WHERE cached = ?", (key,)
            ).fetchone()
            if known == now or (not known and not instance.kept(path).exists()):
                found = Freshness.SAME
            else:
                if instance.evict(path):
                    return _look(Freshness.IN_USE)
                self.evicted += 1
                found = Freshness.EVICTED
                log.info("evicted: it was replaced at its origin", extra={"file": path})
            self._database.execute("INSERT OR REPLACE INTO version VALUES (?, ?, ?)", (key, *now))
        return _look(found, version="{} {}".format(*now))


def _look(state: Freshness, reason: str = "", version: str = "") -> dict[str, str]:
    return {"state": state, "reason": reason, "version": version}


_LABELS = ("origin", "folder")


class Traffic(Collector):
    """What XRootD tells of each file that was closed (pfc's g-stream, JSON over UDP)."""

    def __init__(self, instances: Sequence[Instance], versions: Versions) -> None:
        self._instances, self._versions = instances, versions
        self.sockets: list[socket.socket] = []
        self._bytes: Counter[tuple[int, str]] = Counter()
        self._files: Counter[int] = Counter()

    def follow(self, number: int) -> None:
        """Take in what one of the servers tells, for ever."""
        while True:
            self.take(number, self.sockets[number].recv(1 << 16))

    def take(self, number: int, packet: bytes) -> None:
        """Take in a packet: lines of JSON, the first of which is about the packet itself."""
        for line in packet.decode(errors="replace").replace("\0", "").splitlines():
            # The first may follow a head in binary form.
            with suppress(ValueError):
                said = json.loads(line[max(line.find('{"event"'), 0) :])
                if isinstance(said, dict) and said.get("event") == "file_close":
                    self._files[number] += 1
                    for kind in ("hit", "miss", "bypass"):
                        self._bytes[number, kind] += int(said.get(f"b_{kind}", 0))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What is so now."""
        read = CounterMetricFamily(
            "mlaas4hep_xrootd_cache_read_bytes",
            "Bytes that were read: from the disk (hit), from the origin (miss), past the cache.",
            labels=("origin", "folder", "kind"),
        )
        closed = CounterMetricFamily(
            "mlaas4hep_xrootd_cache_files_closed", "Files that were read.", labels=_LABELS
        )
        disk = GaugeMetricFamily(
            "mlaas4hep_xrootd_cache_disk_bytes", "Space that files take.", labels=_LABELS
        )
        up = GaugeMetricFamily(
            "mlaas4hep_xrootd_cache_up", "1 if its XRootD server runs.", labels=_LABELS
        )
        for number, each in enumerate(self._instances):
            door = (each.door.origin, each.door.folder)
            for kind in ("hit", "miss", "bypass"):
                read.add_metric((*door, kind), self._bytes[number, kind])
            closed.add_metric(door, self._files[number])
            disk.add_metric(door, each.disk_bytes())
            up.add_metric(door, each.is_alive())
        yield from (read, closed, disk, up)
        yield CounterMetricFamily(
            "mlaas4hep_xrootd_cache_evicted", "Files replaced at their origin.",
            self._versions.evicted,
        )  # fmt: skip
        yield CounterMetricFamily(
            "mlaas4hep_xrootd_cache_origin_failures", "Looks at an origin that got no answer.",
            self._versions.unknown,
        )  # fmt: skip


def _listener() -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind(("127.0.0.1", 0))
    return found


class Cache:
    """All instances, and what is told of them."""

    def __init__(self, settings: Settings) -> None:
        if not settings.doors:
            raise UsageError(
                "the cache needs origins", "Set MLAAS4HEP_XROOTD_ORIGINS to HOST or HOST:PORT."
            )
        for door in settings.doors:
            if door.folder != EVERYTHING and not lies_in(door.folder, *settings.paths):
                raise UsageError(
                    f"data_paths has {door.folder}, which is below none of xrootd_paths",
                    "Add the folder to MLAAS4HEP_XROOTD_PATHS, or correct it.",
                )
        if os.geteuid() == 0:
            raise UsageError("XRootD doesn't run as root", "Run the cache as a user of its own.")
        settings.xrootd_cache_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self.versions = Versions(settings.xrootd_cache_folder / "versions.sqlite")
        self.instances: list[Instance] = []
        self.traffic = Traffic(self.instances, self.versions)
        share = settings.xrootd_cache_bytes // len(settings.doors)
        for door in settings.doors:
            listener = _listener()
            self.traffic.sockets.append(listener)
            port = listener.getsockname()[1]
            self.instances.append(Instance(settings, door, share, port))
        self._looked: tuple[float, list[MlaasError]] = (0.0, [])

    def start(self) -> None:
        """Start all servers; MlaasError if one can't be, and none stays."""
        try:
            for number, instance in enumerate(self.instances):
                instance.start()
                Thread(target=self.traffic.follow, args=(number,), daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all servers."""
        for instance in self.instances:
            instance.stop()

    def alive(self) -> bool:
        """Whether every server answers."""
        return all(each.is_alive() and each.answers() for each in self.instances)

    def lacks(self) -> list[MlaasError]:
        """Which origins don't let the cache read now, as of the last seconds."""
        when, found = self._looked
        if time.monotonic() > when + _LOOK_SECONDS:
            found = [each for each in map(_lack, self.instances) if each]
            self._looked = time.monotonic(), found
        return found

    def facts(self) -> dict[str, Any]:
        """At which port each door is."""
        return {"doors": [each.door._asdict() | {"port": each.port} for each in self.instances]}

    def fresh(self, request: Request) -> Response:
        """``GET /fresh?door=NUMBER&path=PATH``: whether a cached file is still the one."""
        number, path = (request.query_params.get(name, "") for name in ("door", "path"))
        instance = next((e for e in self.instances if str(e.door.number) == number), None)
        if not instance or not instance.reads(path):
            return problem(404, f"{path} is not read through door {number}")
        return JSONResponse(self.versions.look(instance, path))


def _lack(instance: Instance) -> MlaasError | None:
    """What keeps the cache from reading at an origin: a file is asked for that isn't there."""
    path = f"{instance.paths[0]}mlaas4hep-canary-that-is-not-there"
    try:
        instance.stat(path)
    except FileNotFoundError:
        return None
    except MlaasError as error:
        return error
    return None


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, or until one of the servers ends."""
    os.umask(0o077)
    cache = Cache(settings)
    cache.start()
    Thread(target=_end_with, args=(cache,), daemon=True).start()
    told = status.Status(cache.alive, cache.lacks, cache.facts, (cache.traffic,))
    more = (Route("/fresh", cache.fresh),)
    try:
        status.serve("xrootd-cache", settings.host, settings.grid_status_port, told, more)
    finally:
        cache.stop()


def _end_with(cache: Cache) -> None:
    """End this process when a server has ended: whoever started it starts it again."""
    while all(each.is_alive() for each in cache.instances):
        time.sleep(1)
    log.error("an XRootD server has ended")
    os.kill(os.getpid(), signal.SIGTERM)
