"""``mlaas4hep x509-renewer``: keeps proxy, token and CRLs fresh for those that read data.

What is due is tried again and again, ever more rarely, and what there was before stays until
something better takes its place. Without a certificate it waits for one.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.settings import Settings
from mlaas4hep.grid import authorities, bearer, certificate, proxy, status
from mlaas4hep.grid.authorities import Ages
from mlaas4hep.grid.certificate import Certificate

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOOK_SECONDS = 60.0
"""Between two looks at the CAs."""
HANG_SECONDS = 1800.0
"""After so long without a tick, it hangs: longer than all that a tick may wait for."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 900.0
"""Seconds between a failure and the next try, doubled by each failure."""
_SPARE_SECONDS = 300.0
"""Less than by so much longer, another proxy isn't worth it."""
_IMPORT = "Import one: mlaas4hep admin certificate usercert.pem userkey.pem"


class Task:
    """One thing that is renewed: when it is due, and how it went."""

    def __init__(self, name: str, make: Callable[[], None]) -> None:
        self.name = name
        self._make = make
        self.done = self.failed = 0
        self.error: MlaasError | None = None
        """Why it failed last; None since it went well."""
        self._pause = FIRST_PAUSE
        self._next = 0.0

    def hurry(self) -> None:
        """Try at once: what it depends on has changed."""
        self._pause, self._next = FIRST_PAUSE, 0.0

    def run(self) -> None:
        """Try it, unless that failed a moment ago."""
        if time.monotonic() < self._next:
            return
        try:
            self._make()
        except MlaasError as error:
            if str(error) != str(self.error):
                extra = {"task": self.name, "remedy": error.remedy}
                log.error("%s: %s", self.name, error.message, extra=extra)
            self.failed, self.error = self.failed + 1, error
            self._next = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        self.done, self.error = self.done + 1, None
        self.hurry()
        log.info("%s: renewed", self.name, extra={"task": self.name})


class Renewer(Collector):
    """Renews what is due at each ``tick`` and ``look``, each of a thread that calls it on and on.

    The rest says how it is, to threads of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._certificate: Certificate | None = None
        self._seen: tuple[int, int] | None = None
        self._unusable: MlaasError | None = None
        """Why the certificate that is kept can't be used."""
        self._untrusted: MlaasError | None = None
        """What is wrong with the CAs."""
        self._ages = Ages(0)
        self._looked = 0.0
        self._fetched = 0.0
        self._ticked = self._watched = time.monotonic()
        self.proxy = Task("proxy", self._renew_proxy)
        self.token = Task("token", self._renew_token)
        self.crl = Task("crl", self._fetch)
        certificate.own_folder(settings.x509_folder)
        for name in ("private", "shared"):
            certificate.own_folder(settings.x509_folder / name)
            _tidy(settings.x509_folder / name)

    def tick(self) -> None:
        """Do what is due."""
        self._find_certificate()
        if self._certificate and self._proxy_due(self._certificate):
            self.proxy.run()
        if self._settings.grid_token_issuer and _due(bearer.read(self._token)):
            self.token.run()
        self._ticked = time.monotonic()

    @property
    def _token(self) -> Path:
        return bearer.token_file(self._settings)

    def _find_certificate(self) -> None:
        """Notice a certificate that was imported."""
        path = certificate.own_file(self._settings)
        try:
            found = path.stat()
            seen = found.st_ino, found.st_mtime_ns
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen, self._unusable = seen, None
        try:
            self._certificate = certificate.load(self._settings)
        except (MlaasError, OSError) as error:
            self._certificate = None
            self._unusable = MlaasError(f"{path} can't be used: {error}", _IMPORT)
            log.error(self._unusable.message)
        if self._certificate:
            log.info("certificate of %s", self._certificate.subject)
        self.proxy.hurry()
        self._looked = 0.0  # the CAs above it are others now

    def _proxy_due(self, own: Certificate) -> bool:
        made = proxy.read(proxy.proxy_file(self._settings))
        if made is None or not made.fits(own, self._settings.voms):
            return True
        # One that ends with the certificate can't get any longer.
        return own.end > made.end + _SPARE_SECONDS and _due((made.start, made.end))

    def _renew_proxy(self) -> None:
        if not (own := self._certificate):
            return
        if own.end < time.time():
            raise MlaasError(f"the certificate of {own.subject} has expired", _IMPORT)
        proxy.make(self._settings, own)

    def _renew_token(self) -> None:
        bearer.get(self._settings)

    def _fetch(self) -> None:
        try:
            authorities.fetch(self._settings)
        except OSError as error:
            raise MlaasError(f"the CRLs can't be written: {error.strerror}") from error
        self._fetched = time.monotonic()

    def look(self) -> None:
        """Show the CAs as they are, with fresh CRLs, and note how old they are.

        In a thread of its own: it takes minutes where servers of CRLs don't answer.
        """
        self._watched = now = time.monotonic()
        if self._looked and now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        try:
            authorities.publish(self._settings)
            self._ages = authorities.look(self._settings, self._certificate)
            stale = now > self._fetched + self._settings.fetch_crl_hours * 3600
            if authorities.fetches(self._settings) and (stale or not self._fetched):
                self.crl.run()
                self._ages = authorities.look(self._settings, self._certificate)
            self._untrusted = None
        except MlaasError as error:
            self._untrusted = error
        except OSError as error:
            self._untrusted = MlaasError(
                f"the CAs in {certificate.anchors(self._settings)} can't be shown to readers of"
                f" data: {error.strerror}",
                "Set MLAAS4HEP_CA_FOLDER to the folder of the grid's CAs.",
            )

    # How it is.

    def alive(self) -> bool:
        """Whether it still ticks and looks."""
        return time.monotonic() < min(self._ticked, self._watched) + HANG_SECONDS

    def seconds_left(self) -> dict[str, float | None]:
        """Of each thing; None of what there is not. Negative since it ended."""
        made = proxy.read(proxy.proxy_file(self._settings))
        token = bearer.read(self._token) if self._settings.grid_token_issuer else None
        own, ages = self._certificate, self._ages
        ends = {
            "proxy": made.end if made else None,
            "certificate": own.end if own else None,
            "token": token[1] if token else None,
            "crl": ages.crl,
            "ca": ages.ca,
        }
        now = time.time()
        return {name: round(end - now, 1) if end else None for name, end in ends.items()}

    def facts(self) -> dict[str, Any]:
        """For /readyz: what is left of each, and what fails although all still works."""
        failing = {task.name: task.error.message for task in self._tasks if task.error}
        return {"seconds_left": self.seconds_left(), "failing": failing}

    def lacks(self) -> list[MlaasError]:
        """What keeps others from reading data."""
        left = self.seconds_left()
        found = [each for each in (self._unusable, self._untrusted) if each]
        token_wanted = bool(self._settings.grid_token_issuer)
        if not self._certificate and not self._unusable and not token_wanted:
            found.append(MlaasError("waiting for a certificate", _IMPORT))
        if self._certificate and not self._has_proxy():
            found.append(self.proxy.error or MlaasError("there is no proxy yet", "Wait a moment."))
        if token_wanted and not _positive(left["token"]):
            found.append(self.token.error or MlaasError("there is no token yet", "Wait a moment."))
        for name in ("certificate", "crl", "ca"):
            if left[name] is not None and not _positive(left[name]):
                found.append(_ENDED[name])
        return found

    def _has_proxy(self) -> bool:
        """Whether there is one with the VO's attributes, be it of another certificate."""
        made = proxy.read(proxy.proxy_file(self._settings))
        if made is None or made.end < time.time():
            return False
        return (made.voms.vo if made.voms else "") == self._settings.voms.partition(":")[0]

    @property
    def _tasks(self) -> tuple[Task, ...]:
        return self.proxy, self.token, self.crl

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What is so now."""
        left = GaugeMetricFamily(
            "mlaas4hep_x509_seconds_left",
            "Seconds until it ends: proxy (with its VO's attributes), certificate, token, and of"
            " those above the certificate the CRL and CA that end first.",
            labels=("of",),
        )
        for name, seconds in self.seconds_left().items():
            if seconds is not None:
                left.add_metric((name,), seconds)
        yield left
        failing = GaugeMetricFamily(
            "mlaas4hep_x509_failing", "1 if it could not be renewed last time.", labels=("of",)
        )
        renewed = CounterMetricFamily(
            "mlaas4hep_x509_renewals", "Times that it was renewed.", labels=("of",)
        )
        failed = CounterMetricFamily(
            "mlaas4hep_x509_failures", "Times that it could not be renewed.", labels=("of",)
        )
        for task in self._tasks:
            failing.add_metric((task.name,), bool(task.error))
            renewed.add_metric((task.name,), task.done)
            failed.add_metric((task.name,), task.failed)
        yield from (failing, renewed, failed)
        ages = self._ages
        yield GaugeMetricFamily("mlaas4hep_x509_authorities", "CAs trusted.", ages.authorities)
        yield GaugeMetricFamily(
            "mlaas4hep_x509_crls_expired", "CAs whose CRL has expired.", len(ages.expired)
        )


_ENDED = {
    "certificate": MlaasError("the certificate has expired", _IMPORT),
    "crl": MlaasError(
        "the CRL of the certificate's CA has expired: servers may refuse the proxy",
        "Let this machine reach the CA by http, or look at CVMFS, which keeps the CRLs.",
    ),
    "ca": MlaasError("a CA above the certificate has expired", "Update the grid's CAs."),
}


def _positive(seconds: float | None) -> bool:
    return seconds is not None and seconds > 0


def _due(times: tuple[float, float] | None) -> bool:
    """Whether half of it is over, or there is none."""
    return times is None or time.time() > (times[0] + times[1]) / 2


def _tidy(folder: Path) -> None:
    """Remove what a renewer left that was killed while it wrote."""
    for path in folder.glob(".*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def serve(settings: Settings) -> None:
    """Renew, and say how it is, until SIGINT or SIGTERM."""
    os.umask(0o077)
    renewer = Renewer(settings)
    if not settings.voms:
        log.warning("MLAAS4HEP_VOMS is empty: the proxy has no attributes of a VO")
    stop = Event()

    def work(step: Callable[[], None]) -> None:
        while not stop.wait(TICK_SECONDS):
            try:
                step()
            except Exception:
                log.exception("a step failed")
                stop.wait(FIRST_PAUSE)

    for step in (renewer.tick, renewer.look):
        Thread(target=work, args=(step,), daemon=True).start()
    told = status.Status(renewer.alive, renewer.lacks, renewer.facts, (renewer,))
    try:
        status.serve("x509-renewer", settings.host, settings.grid_status_port, told)
    finally:
        stop.set()
