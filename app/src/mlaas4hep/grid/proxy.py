"""A proxy certificate with the attributes of a VO, made by voms-proxy-init."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from mlaas4hep.core.errors import LimitError, MlaasError
from mlaas4hep.core.files import is_full, sync, temporary_folder
from mlaas4hep.core.settings import GridSettings
from mlaas4hep.grid.certificate import Certificate, anchors, own_file
from mlaas4hep.grid.programs import in_a_line, run
from mlaas4hep.sources.x509 import Voms, is_proxy, private_key, read_certificates, validity, voms_of

PROGRAM = "voms-proxy-init"
SECONDS = 120
"""For the program, with all VOMS servers that it tries."""
_EACH_SECONDS = 20
"""For each VOMS server to be reached, and to answer."""
_ROOM_BYTES = 64 << 10
"""More than a proxy needs."""


@dataclass(frozen=True)
class Proxy:
    """A proxy: of which certificate, with which attributes, from when to when.

    ``start`` and ``end``, in seconds since 1970, count the attributes, too.
    """

    owner: x509.Certificate
    voms: Voms | None
    start: float
    end: float

    def fits(self, certificate: Certificate, voms: str) -> bool:
        """Whether it is of this certificate, with the attributes that are wanted."""
        vo, _, role = voms.partition(":")
        if self.owner != certificate.own or (self.voms.vo if self.voms else "") != vo:
            return False
        return not role or bool(self.voms and role in self.voms.fqans)


def proxy_file(settings: GridSettings) -> Path:
    """Where the proxy is."""
    return settings.x509_folder / "shared/proxy.pem"


def read(path: Path) -> Proxy | None:
    """The proxy in a file; None where there is none that can be used, whatever the reason."""
    try:
        content = path.read_bytes()
        chain = read_certificates(content)
    except (OSError, ValueError):
        return None
    key = private_key(content)
    owner = next((each for each in chain if not is_proxy(each)), None)
    if key is None or owner is None or chain[0].public_key() != key.public_key():
        return None
    voms = voms_of(chain)
    start, end = validity(chain)
    start = chain[0].not_valid_before_utc.timestamp()
    return Proxy(owner, voms, start, min(end, voms.end) if voms else end)


def make(settings: GridSettings, certificate: Certificate) -> Proxy:
    """Make a proxy, and put it in the place of the one before at once.

    MlaasError where that fails or it is not what was asked for; the one before stays.
    """
    path = proxy_file(settings)
    try:
        with temporary_folder(path.parent, ".proxy.") as folder:
            new = folder / "proxy.pem"
            try:
                made = _make(settings, certificate, folder, new)
            except MlaasError:
                # The program doesn't notice that it can't write: a full disk says so here.
                (folder / "room").write_bytes(bytes(_ROOM_BYTES))
                sync(folder / "room")
                raise
            new.chmod(0o600)
            sync(new)
            new.replace(path)
            sync(path.parent)
            return made
    except OSError as error:
        kind = LimitError if is_full(error) else MlaasError
        about = f"{path} can't be written: {error.strerror or error}"
        raise kind(about, f"Make room in {path.parent}; look at its owner and mode.") from error


def _make(settings: GridSettings, certificate: Certificate, folder: Path, new: Path) -> Proxy:
    """Let the program make the file ``new``, and check it."""
    said = _run(settings, certificate, folder, new)
    made = read(new)
    if made is None:
        raise MlaasError(f"{PROGRAM} made no proxy: {in_a_line(said)}", _ASK_VO)
    if not made.fits(certificate, settings.voms):
        given = ", ".join(made.voms.fqans) if made.voms else "no attributes"
        raise MlaasError(f"the VO gave {given}, not {settings.voms}", _ASK_VO)
    if made.end < time.time():
        raise MlaasError(
            "the new proxy has expired already", "Set this machine's clock right (timedatectl)."
        )
    return made


def _run(settings: GridSettings, certificate: Certificate, folder: Path, new: Path) -> str:
    """Run the program; what it said."""
    own, trusted = own_file(settings), anchors(settings)
    command: list[str | Path] = [PROGRAM, "-rfc", "-bits", "2048", "-cert", own, "-key", own]
    # It takes one that would outlive the certificate for a failure.
    left = int(certificate.end - time.time()) // 60 - 1
    hours, minutes = divmod(max(1, min(60 * settings.proxy_hours, left)), 60)
    command += ["-certdir", trusted, "-valid", f"{hours}:{minutes:02}", "-out", new]
    env: dict[str, str | Path] = {"HOME": folder, "X509_CERT_DIR": trusted}
    if settings.voms:
        vomses, vomsdir = _servers(settings, folder)
        command += ["-voms", settings.voms, "-vomses", vomses, "-timeout", str(_EACH_SECONDS)]
        # Asks with the certificate itself: else it leaves a proxy in /tmp when it is killed.
        command.append("-noregen")
        env["X509_VOMS_DIR"] = vomsdir
    return run(command, seconds=SECONDS, package="voms-clients", remedy=_ASK_VO, env=env)


_ASK_VO = (
    "Check that the certificate is registered with the VO, that MLAAS4HEP_VOMSES names its servers,"
    " and that this machine reaches them."
)


def _servers(settings: GridSettings, folder: Path) -> tuple[Path, Path]:
    """What names the VO's servers, and who signs its attributes."""
    beside = anchors(settings).parent
    vomses, vomsdir = beside / "vomses", beside / "vomsdir"
    if settings.vomses:
        vomses = folder / "vomses"
        vomses.write_text(settings.vomses + "\n")
    if settings.voms_lsc:
        vomsdir = folder / "vomsdir"
        own = vomsdir / settings.voms.partition(":")[0]
        own.mkdir(parents=True)
        for host, names in settings.voms_lsc.items():
            (own / f"{host}.lsc").write_text("".join(f"{name}\n" for name in names))
    for path, setting in ((vomses, "MLAAS4HEP_VOMSES"), (vomsdir, "MLAAS4HEP_VOMS_LSC")):
        if not path.exists():
            raise MlaasError(
                f"the servers of the VO {settings.voms} are not known: there is no {path}",
                f"Set {setting} as the VO's page states it.",
            )
    return vomses, vomsdir
