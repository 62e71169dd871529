"""The steps of a diagnosis, and its first ones: the name of the server, and a connection to it."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from mlaas4hep.core.secrets import without_secrets

PATIENCE = 4.0
"""Seconds that a server has for each answer."""

_OF_FILE = ("address", "access", "file", "ROOT")
"""Steps whose failure says nothing of other files of the server."""
_SKEW = 60
"""Seconds by which clocks may differ before credentials are refused."""


class State(StrEnum):
    """What a step came to; a warning is what may be the reason if a later step fails."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass
class Step:
    """One thing that was looked at: what was found, and what to do unless it is fine.

    ``details`` are for programs: names and times (seconds since 1970), never a secret.
    """

    what: str
    state: State
    found: str
    remedy: str = ""
    details: dict[str, Any] = field(default_factory=dict)


class BrokenError(Exception):
    """A step failed: those after it make no sense."""


class Diagnosis:
    """Why a file can be read, or can't: steps in the order in which they were taken.

    ``name`` is the file's, to be shown: without credentials that an address may have.
    """

    def __init__(self, name: str) -> None:
        self.name = without_secrets(name)
        self.steps: list[Step] = []
        self._start = time.monotonic()
        self.seconds = 0.0

    def so_far(self) -> Diagnosis:
        """A copy, for when this one is still being made."""
        copy = Diagnosis(self.name)
        copy.steps, copy._start = list(self.steps), self._start
        return copy

    def end(self) -> None:
        """Note how long it took."""
        self.seconds = round(time.monotonic() - self._start, 2)

    @property
    def failed(self) -> Step | None:
        """The step that is the reason; None where the file can be read."""
        return next((step for step in self.steps if step.state == State.FAILED), None)

    @property
    def problem(self) -> str:
        """In one line why the file can't be read; "" where it can."""
        return self.failed.found if self.failed else ""

    @property
    def remedy(self) -> str:
        """In one line what to do about it."""
        return self.failed.remedy if self.failed else ""

    @property
    def of_server(self) -> bool:
        """Whether the reason holds for every file of that server, not for this one alone."""
        return self.failed is not None and self.failed.what not in _OF_FILE

    @property
    def is_silent(self) -> bool:
        """Whether the server that the address names gives no answer, to whatever is asked."""
        if not self.failed or self.state("redirected") is not None:
            return False
        return self.failed.what in ("name", "connection") or bool(self.failed.details.get("silent"))

    def document(self) -> dict[str, Any]:
        """What ``mlaas4hep doctor --json`` prints."""
        return {
            "file": self.name,
            "ok": not self.failed,
            "problem": self.problem,
            "remedy": self.remedy,
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
        }

    def ok(self, what: str, found: str, **details: Any) -> None:
        """Add a step that is fine."""
        self._add(Step(what, State.OK, found, "", details))

    def warn(self, what: str, found: str, remedy: str, **details: Any) -> None:
        """Add what is wrong by itself, and may be the reason of a failure that follows."""
        self._add(Step(what, State.WARNING, found, remedy, details))

    def _add(self, step: Step) -> None:
        """Once: on the way to a second server, what is here is looked at again."""
        if not any((each.what, each.found) == (step.what, step.found) for each in self.steps):
            self.steps.append(step)

    def fail(self, what: str, found: str, remedy: str, **details: Any) -> NoReturn:
        """Add the reason, the last step."""
        self.steps.append(Step(what, State.FAILED, found, remedy, details))
        raise BrokenError

    def blame(self, *whats: str) -> None:
        """If a step of these kinds was a warning, it is the reason: the first kind first."""
        for what in whats:
            for step in self.steps:
                if step.what == what and step.state == State.WARNING:
                    step.state = State.FAILED
                    raise BrokenError

    def blame_all(self, *whats: str) -> None:
        """If steps of these kinds were warnings, they are the reason together: any would do."""
        found = [s for s in self.steps if s.what in whats and s.state == State.WARNING]
        if len(found) > 1:
            both = "; ".join(step.found for step in found)
            self.fail("credentials", both, " Or: ".join(step.remedy for step in found))
        self.blame(*whats)

    def state(self, what: str) -> State | None:
        """What a step came to; None if it wasn't taken."""
        return next((step.state for step in self.steps if step.what == what), None)

    def detail(self, what: str, key: str) -> Any:
        """A detail of a step; None if there is none."""
        return self.details(what).get(key)

    def details(self, what: str) -> dict[str, Any]:
        """All details of a step; none if it wasn't taken."""
        return next((step.details for step in self.steps if step.what == what), {})


def moment(seconds: float) -> str:
    """A time as people of all time zones read it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def span(seconds: float) -> str:
    """How long, in the greatest unit that has at least two of it: ``36 hours``, ``90 s``."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def look_at_clock(diagnosis: Diagnosis, host: str, theirs: float) -> None:
    """Step ``clock``: how far this machine's clock is from a server's."""
    ahead = time.time() - theirs
    if abs(ahead) > _SKEW:
        diagnosis.warn(
            "clock",
            f"this machine's clock is {span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
            f" that of {host}",
            "Set it right: timedatectl shows whether it is synchronised.",
            ahead_s=round(ahead),
        )
        return
    diagnosis.ok("clock", f"as that of {host}, to {_SKEW} s", ahead_s=round(ahead))


def connect(diagnosis: Diagnosis, host: str, port: int) -> socket.socket:
    """Steps ``name`` and ``connection``: a socket that is connected to the server."""
    addresses = _resolve(diagnosis, host, port)
    refusals = []
    for address in addresses[:2]:
        start = time.monotonic()
        try:
            found = socket.create_connection((address, port), PATIENCE)
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            refusals.append(f"{address}: {why.lower()}")
            continue
        diagnosis.ok("connection", f"{address}, port {port}",
                     address=address, port=port, ms=_ms(start))  # fmt: skip
        return found
    return diagnosis.fail(
        "connection",
        f"no connection to {host}, port {port}: {'; '.join(refusals)}",
        "Refused: no server runs there, or it has another port. No answer: it is down, or a"
        " firewall drops the packets. Ask the site, or name another replica.",
        port=port,
    )


def _resolve(diagnosis: Diagnosis, host: str, port: int) -> list[str]:
    try:
        socket.socket(socket.AF_INET).close()
    except OSError as error:
        diagnosis.fail("network", f"this process may not use the network ({error.strerror})",
                       "A training of a service has a network for remote data if the operator sets"
                       " MLAAS4HEP_JOB_NETWORK (and not MLAAS4HEP_JOB_OFFLINE).")  # fmt: skip
    start = time.monotonic()
    pool = ThreadPoolExecutor(1)
    try:
        asked = pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(each[4][0]) for each in asked.result(PATIENCE + 1)))
    except (OSError, UnicodeError, Late) as error:
        why = "the name server doesn't answer" if isinstance(error, Late) else str(error)
        if isinstance(error, socket.gaierror):
            why = error.strerror.lower() if error.strerror else str(error)
        diagnosis.fail(
            "name",
            f"the host name {host} can't be resolved: {why}",
            "Correct the host in the address; if it is right, look at this machine's DNS"
            f" (getent hosts {host}).",
        )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if found != [host]:
        diagnosis.ok("name", f"{host} is {', '.join(found)}", addresses=found, ms=_ms(start))
    return found


def _ms(start: float) -> int:
    return round((time.monotonic() - start) * 1000)
