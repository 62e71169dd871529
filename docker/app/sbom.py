"""The bill of materials of an image as CycloneDX JSON: every Debian and every Python package.

    sbom.py --packages DPKG_FOLDER --python VENV [--python VENV] > sbom.cdx.json

Standard library only: it runs in the image's build.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import quote

NAME = "mlaas4hep"


def debian_packages(admin_folder: Path) -> list[dict[str, object]]:
    """One component for every row of dpkg-query."""
    fields = "${binary:Package}\t${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n"
    command = ["dpkg-query", f"--admindir={admin_folder}", "--show", f"--showformat={fields}"]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    system = platform.freedesktop_os_release()
    distro = f"{system['ID']}-{system.get('VERSION_ID', system.get('VERSION_CODENAME', ''))}"
    found: list[dict[str, object]] = []
    for row in rows:
        binary, name, version, architecture, status = row.split("\t")
        if status[1] == "i":
            found.append(
                {
                    "type": "library",
                    "bom-ref": f"deb:{binary}@{version}",
                    "name": name,
                    "version": version,
                    "purl": f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}"
                    f"?arch={architecture}&distro={quote(distro)}",
                }
            )
    return found


def python_packages(environment: Path) -> list[dict[str, object]]:
    """One component for every row of pip list."""
    folders = [str(folder) for folder in environment.glob("lib/python3*/site-packages")]
    return [python_package(found) for found in distributions(path=folders)]


def python_package(found: Distribution) -> dict[str, object]:
    """One distribution: its name, version and licence as its metadata says them."""
    name, version = found.metadata["Name"], found.version
    canonical = name.lower().replace("_", "-").replace(".", "-")
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": f"pypi:{canonical}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{quote(canonical)}@{quote(version)}",
    }
    if expression := found.metadata["License-Expression"]:
        component["licenses"] = [{"expression": expression}]
    elif kinds := [
        kind.rpartition(" :: ")[2]
        for kind in found.metadata.get_all("Classifier", [])
        if kind.startswith("License :: ") and kind != "License :: OSI Approved"
    ]:
        component["licenses"] = [{"license": {"name": kind}} for kind in kinds]
    return component


def main() -> None:
    """Write the bill of materials of one image to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--python", type=Path, action="append", required=True)
    given = parser.parse_args()
    components = debian_packages(given.packages)
    for environment in given.python:
        components += python_packages(environment)
    components.sort(key=lambda component: str(component["bom-ref"]))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": NAME, "name": NAME}},
        "components": components,
    }
    json.dump(bill, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
