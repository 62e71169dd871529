"""The CAs that are trusted and their revocation lists (CRLs), as readers of data are shown them.

``shared/certificates`` is a link to the folder of the CAs where its keeper sees to the CRLs, too,
as CVMFS does; else a copy of it, into which fetch-crl puts the CRLs.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from mlaas4hep.core.files import write_atomic
from mlaas4hep.core.settings import GridSettings
from mlaas4hep.grid.certificate import Certificate, anchors, authorities
from mlaas4hep.grid.programs import run
from mlaas4hep.sources.x509 import Authorities, dn

PROGRAM = "fetch-crl"
SECONDS = 600
"""For all lists: there are about a hundred, and some of their servers don't answer."""
_EACH_SECONDS = 20
_AT_ONCE = 8


def folder(settings: GridSettings) -> Path:
    """What readers of data are given as X509_CERT_DIR."""
    return settings.x509_folder / "shared/certificates"


def fetches(settings: GridSettings) -> bool:
    """Whether the CRLs are fetched here."""
    return settings.fetch_crl_hours > 0 and Path("/cvmfs") not in anchors(settings).parents


def publish(settings: GridSettings) -> None:
    """Show the CAs as they are now: also a CA that is distrusted goes. OSError if that fails."""
    source, shown = anchors(settings), folder(settings)
    if not fetches(settings):
        if shown.is_symlink() and shown.readlink() == source:
            return
        if shown.is_dir() and not shown.is_symlink():
            shutil.rmtree(shown)
        link = shown.with_name(".certificates")
        link.unlink(missing_ok=True)
        link.symlink_to(source)
        link.replace(shown)
        return
    if shown.is_symlink():
        shown.unlink()
    shown.mkdir(exist_ok=True, mode=0o755)
    wanted = {path.name for path in source.iterdir() if path.is_file() and not _is_list(path)}
    for name in wanted:
        content = (source / name).read_bytes()
        if not (shown / name).exists() or (shown / name).read_bytes() != content:
            write_atomic(shown / name, content)
    for path in shown.iterdir():
        if path.name not in wanted and _authority_of(path) not in wanted:
            path.unlink()


def _authority_of(path: Path) -> str:
    """The name of the CA's file, HASH.0, of its list, HASH.r0; "" for what is no list."""
    return f"{path.stem}.{path.suffix[2:]}" if _is_list(path) else ""


def _is_list(path: Path) -> bool:
    return path.suffix[:2] == ".r" and path.suffix[2:].isdigit()


def fetch(settings: GridSettings) -> None:
    """Fetch the CRLs; MlaasError where fetch-crl can't run, or gets some of them not."""
    shown, state = folder(settings), settings.x509_folder / "private/fetch-crl"
    state.mkdir(parents=True, exist_ok=True)
    own = state / "fetch-crl.conf"
    own.touch()  # not the machine's, which may want other folders
    command: list[str | Path] = [PROGRAM, "--config", own, "--statedir", state]
    command += ["--infodir", shown, "--output", shown]
    command += ["--httptimeout", str(_EACH_SECONDS), "--parallelism", str(_AT_ONCE)]
    run(command, seconds=SECONDS, package=PROGRAM, remedy=_REACH, env={"HOME": state})


_REACH = "Let this machine reach the addresses in the files .crl_url and .info of the CAs by http."


@dataclass(frozen=True)
class Ages:
    """How long CAs and CRLs are still good, in seconds since 1970; those of the certificate."""

    authorities: int
    """How many CAs there are."""
    ca: float | None = None
    """The first end of those above the certificate."""
    crl: float | None = None
    """The first end of their lists; None if they have none."""
    expired: list[str] = field(default_factory=list)
    """CAs, of all, whose list has expired."""


def look(settings: GridSettings, certificate: Certificate | None) -> Ages:
    """How old they are now. MlaasError if the certificate's CA is gone."""
    known = Authorities(folder(settings))
    lists = {name: known.list_of(name) for name in known.found}
    ends = {
        name: found.next_update_utc.timestamp()
        for name, found in lists.items()
        if found is not None and found.next_update_utc
    }
    now = time.time()
    expired = sorted(name for name, end in ends.items() if end < now)
    if certificate is None:
        return Ages(len(known.found), expired=expired)
    above = authorities(certificate, known)
    own = [ends[name] for each in above if (name := dn(each.subject)) in ends]
    ca = min(each.not_valid_after_utc.timestamp() for each in above)
    return Ages(len(known.found), ca, min(own, default=None), expired)
