"""Trainings on the deployed stack, as alice asks for them on the machine itself."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from vm import VM

from support.waiting import until

STORE = "/var/lib/mlaas4hep/store"
TOKENS = "https://iam.test/realms/mlaas4hep/protocol/openid-connect/token"
FORM = "grant_type=password&client_id=test-password&username=alice&password=alice-pw"

# Says that it waits, until the uploaded folder has a file `go`.
WAITS = """
import time
from pathlib import Path
from sklearn.ensemble import HistGradientBoostingClassifier


def model(idim):
    print("waits", flush=True)
    while not Path("go").exists():
        time.sleep(0.2)
    return HistGradientBoostingClassifier(max_iter=20)
"""


class Trainings:
    """Uploads, submits and follows; `example` is a folder with all that a training needs."""

    def __init__(self, vm: VM, example: Path) -> None:
        self.vm = vm
        self._example = example
        self._signed_in = "mlaas4hep-gateway" in vm.containers()
        self.url = "https://mlaas4hep.test" if self._signed_in else "http://127.0.0.1:8080"

    def ask(self, path: str, *options: str) -> str:
        """The answer of the server; one that is no success fails."""
        words = [*self._token(), *options, f"{self.url}{path}"]
        return self.vm.run(f"curl -ksS --fail-with-body {shlex.join(words)}")

    def _token(self) -> list[str]:
        if not self._signed_in:
            return []
        said = json.loads(self.vm.run(f"curl -ksSf -d {shlex.quote(FORM)} {TOKENS}"))
        return ["-H", f"Authorization: Bearer {said['access_token']}"]

    def upload(self, name: str, model: str, **files: str) -> None:
        """Upload the example with this model file, and with these files beside it."""
        folder = self._example.parent / name
        shutil.copytree(self._example, folder, dirs_exist_ok=True)
        (folder / "model.py").write_text(model)
        for file, text in files.items():
            (folder / file).write_text(text)
        self.vm.put(folder, f"/tmp/trainings/{name}")
        self.vm.run(f"tar -C /tmp/trainings/{name} -czf /tmp/trainings/{name}.tar.gz .")
        self.ask(f"/upload?name={name}", "-F", f"file=@/tmp/trainings/{name}.tar.gz")

    def submit(self, name: str, **asked: str) -> str:
        """Put a training of the folder in line, with these words of the order; its name."""
        order = {
            "name": name, "device": "cpu", "memory": "2gb", "cpus": "1", "files": "files.txt",
            "labels": "labels.txt", "model": "model.py", "params": "params.json",
        } | asked  # fmt: skip
        said = self.ask("/submit", "-H", "Content-Type: application/json", "-d", json.dumps(order))
        return str(json.loads(said)["process_name"])

    def begin(self, name: str) -> str:
        """Submit a training that waits in its model file, and see it there."""
        job = self.submit(name)
        until(f"{job} waits", lambda: "waits" in self.log(job))
        return job

    def release(self, name: str) -> None:
        """Let the trainings of a folder go on."""
        self.vm.run(f"for folder in {STORE}/uploads/{name}.*/files; do touch $folder/go; done")

    def log(self, job: str) -> str:
        """What a training has printed so far."""
        return self.vm.run(f"cat {STORE}/jobs/{job}/log.txt", check=False)

    def row(self, job: str) -> dict[str, Any]:
        """What the server says of a training."""
        said: dict[str, Any] = json.loads(self.ask(f"/jobs/{job}"))
        return said

    def ended(self, job: str) -> dict[str, Any]:
        """The row of a training that has ended."""
        until(f"{job} ends", lambda: self.row(job)["state"] in ("succeeded", "failed"))
        return self.row(job)
