"""The certificate authority of the tests, and certificates of it."""

from __future__ import annotations

from pathlib import Path

from shell import CACHE, new_folder, run

FOLDER = CACHE / "pki"
CA = FOLDER / "ca/certificate.pem"
MACHINE = Path("/etc/ssl/certs/ca-certificates.crt")
BUNDLE = (
    FOLDER / "bundle.pem"
)  # what the machine trusts, and the tests' authority: a site's CA bundle


def authority() -> None:
    if not (FOLDER / "ca").exists():
        with new_folder(FOLDER / "ca") as folder:
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
                "-subj", "/CN=Test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout", folder / "key.pem", "-out", folder / "certificate.pem")  # fmt: skip
    trusted = (MACHINE.read_text() if MACHINE.exists() else "") + CA.read_text()
    if not BUNDLE.exists() or BUNDLE.read_text() != trusted:
        BUNDLE.write_text(trusted)


def certificate(name: str, *names: str) -> Path:
    """The folder of a key and a certificate for these host names."""
    authority()
    made = FOLDER / name
    if made.exists():
        return made
    with new_folder(made) as folder:
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={names[0]}",
            "-keyout", folder / "key.pem", "-out", folder / "request.pem")  # fmt: skip
        alternative = ",".join(
            ("IP:" if n.replace(".", "").isdigit() else "DNS:") + n for n in names
        )
        (folder / "extensions").write_text(
            f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"
        )
        run("openssl", "x509", "-req", "-days", "3650", "-in", folder / "request.pem", "-CA", CA,
            "-CAkey", CA.with_name("key.pem"), "-extfile", folder / "extensions",
            "-out", folder / "certificate.pem")  # fmt: skip
        (folder / "key.pem").chmod(0o644)  # read in a container by a user who is not root
    return made
