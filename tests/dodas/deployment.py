"""An operator's deployment: a release's template with its inputs, and what becomes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cloud import IMAGE

from dodas import Dodas
from support.machine import ROOT, docker
from support.waiting import until

KEYSTONE = "127.0.0.1"
REGISTRY = "10.213.0.2:443"  # as the engine of the tests reaches it


def release(version: str, url: str) -> Path:
    """The folder of this version's files, which say that they are at URL/VERSION."""
    # This Python has markdown-it by chance only; the stack's has what release.py needs by its lock.
    program = [ROOT / ".venv-stack/bin/python", ROOT / "tosca/release.py"]
    asked = ["--version", version, "--release-url", f"{url}/{version}"]
    # Without the images as archives: here they are pulled from a registry.
    environment = os.environ | {"DOCKER": "no-engine"}
    subprocess.run([*program, *asked], check=True, env=environment, cwd=ROOT, timeout=300)
    return ROOT / "build/release" / version


def template(folder: Path, name: str = "mlaas4hep", **inputs: Any) -> str:
    """The template of a release with these defaults of its inputs, as an operator edits it."""
    found = yaml.safe_load((folder / f"{name}.yaml").read_text())
    for key, value in inputs.items():
        found["topology_template"]["inputs"][key]["default"] = value
    return yaml.safe_dump(found, sort_keys=False)


def usual(**more: Any) -> dict[str, Any]:
    """What is of the tests' network: image of the machine, issuer, authority, registry, images."""
    digests = json.loads(Path(os.environ["MLAAS4HEP_TEST_DIGESTS"]).read_text())
    return {
        "image": f"ost://{KEYSTONE}/{IMAGE}",
        "issuer": "https://iam.test/realms/mlaas4hep",
        "allowed_groups": "physicists",
        "audience": "mlaas4hep",
        "certificate": "internal",
        "ca_bundle": Path(os.environ["MLAAS4HEP_TEST_CA"]).read_text(),
        "registry_mirrors": "https://mirror.test",
        "images": "pull",
        "gateway_image": digests["caddy"],
        "oauth2_proxy_image": digests["oauth2-proxy"],
        "service_image": digests["service"],
        "tfaas_image": digests["tfaas"],
        "job_image": digests["job"],
        **more,
    }


def another(inputs: dict[str, Any], version: str) -> dict[str, Any]:
    """The same inputs with the images of another version: the same layers under other digests."""
    return inputs | {
        f"{name}_image": push(inputs[f"{name}_image"], version) for name in ("service", "tfaas")
    }


def push(image: str, version: str) -> str:
    """The digest under which the registry has this image with the label of the version."""
    name = image.partition("@")[0].rpartition(":")[0]
    tag = f"{REGISTRY}/{name.partition('/')[2]}:{version}"
    content = f"FROM {REGISTRY}/{image.partition('/')[2]}\nLABEL org.mlaas4hep.test={version}\n"
    docker("build", "--tag", tag, "-", input=content, env=os.environ | {"DOCKER_BUILDKIT": "0"})
    digest = re.search(r"sha256:\w+", docker("push", tag))[0]
    return f"{name}:{version}@{digest}"


@dataclass(frozen=True)
class Deployment:
    """One infrastructure of the operator."""

    dodas: Dodas
    id: str
    folder: Path

    def state(self) -> str:
        """The machine's, as `dodas get vm` prints it."""
        return re.findall(r"\bstate = '(\w+)'", self.dodas.vm(self.id))[0]

    def ended(self) -> str:
        """The state in which the IM has nothing more to do."""
        time.sleep(2)  # the IM takes a moment to begin
        busy = ("pending", "running", "unknown")
        until("the IM is done", lambda: self.state() not in busy, 900)
        with (self.folder / f"{self.id}.log").open("a") as log:
            log.write(self.dodas.status(self.id))
        return self.state()

    def configured(self) -> None:
        """Wait for it; what went wrong is shown."""
        assert self.ended() == "configured", self.dodas.status(self.id)[-6000:]

    def changes(self) -> list[str]:
        """The tasks of the latest run of the start playbook that changed something."""
        run = self.dodas.status(self.id).rpartition("Launch task: stack_server_conf_server")[2]
        task, found = "", []
        for line in run.splitlines():
            if named := re.match(r"TASK \[(.*)\] \**$", line):
                task = named[1]
            elif line.startswith("changed:"):
                found.append(task)
        return list(dict.fromkeys(found))

    @property
    def outputs(self) -> dict[str, str]:
        return self.dodas.output(self.id)

    @property
    def address(self) -> str:
        return self.outputs["public_address"]

    def put(self, folder: Path, to: str) -> None:
        """Copy a folder into one of the administrator's."""
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            self.ssh(f"mkdir {to} && tar -C {to} -x", stdin=packed.stdout)

    def ssh(self, command: str, **options: Any) -> str:
        """What a shell command of the administrator prints there; the key is the outputs'."""
        key = self.folder / f"{self.id}.key"
        key.unlink(missing_ok=True)
        key.touch(0o600)
        key.write_text(self.outputs["ssh_key"])
        settings = ["-i", key, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
                   "-o", f"UserKnownHostsFile={key}.hosts", "-o", "LogLevel=ERROR",
                   "-o", "ConnectTimeout=60"]  # fmt: skip
        where = f"{self.outputs['ssh_user']}@{self.address}"
        words = ["ssh", *settings, where, command]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=600, **options)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout.strip()
