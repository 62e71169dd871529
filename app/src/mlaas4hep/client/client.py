"""The service from a script: upload, submit, follow, fetch, predict.

with Client("http://127.0.0.1:8080", "http://127.0.0.1:8083") as client:
    client.upload(Path("my_folder"), "luca")
    job = client.submit("luca")
    client.wait(job)
    client.predict_events(job, events)
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import MlaasError, NotFoundError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data.events import Branch, Events, Jagged
from mlaas4hep.data.limits import LARGE_SHARE

PATIENCE_SECONDS = 30.0
"""How long ``wait`` asks again when the server is away, as while it restarts."""

VALUES_AT_ONCE = 100_000
"""Values of a request for predictions: some 2 MB; more go as more requests."""


class Client:
    """Both HTTP services behind one object; an error of theirs becomes an MlaasError."""

    def __init__(
        self,
        server_url: str,
        tfaas_url: str = "",
        token: str | Callable[[], str] | None = None,
        timeout: float = 60,
    ) -> None:
        """``token`` is sent as bearer token; ``timeout`` in seconds is for connecting and reading.

        A function as ``token`` is asked before every request, as tokens expire while trainings go
        on: ``client.sign_in.SignIn(ISSUER).token`` is one.
        Proxies of the environment are not used for addresses on this machine.
        """
        self._server = server_url.rstrip("/")
        self._tfaas = tfaas_url.rstrip("/")
        self._token = token
        local = {f"http://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
        self._http = httpx.Client(
            auth=self._signed if token else None,
            mounts=local,
            timeout=httpx.Timeout(timeout, write=None),
        )

    def _signed(self, request: httpx.Request) -> httpx.Request:
        token = self._token() if callable(self._token) else self._token
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def upload(self, path: Path, name: str | None = None) -> str:
        """Upload a folder, or an archive of one (tar, tar.gz); it replaces one of the same name.

        ``name`` is by default the folder's. Links in it are followed.
        """
        path = Path(path)
        name = name or path.resolve().name.split(".")[0]
        with _archive(path) as stream:
            self._ask(
                "POST",
                f"{self._server}/upload",
                params={"name": name},
                files={"file": (f"{name}.tar.gz", stream)},
            )
        return name

    def submit(
        self,
        name: str,
        *,
        files: str = "files.txt",
        labels: str = "labels.txt",
        model: str = "model.py",
        params: str = "params.json",
        memory: str = "3gb",
        cpus: str | float = 2,
        device: str = "cpu",
        environment: str = "",
    ) -> str:
        """Put a training of the folder ``name`` in line; returns its process_name, NAME_k.

        ``labels`` are "" for a regression.
        """
        body = {
            "name": name,
            "device": device,
            "memory": memory,
            "cpus": str(cpus),
            "files": files,
            "labels": labels,
            "model": model,
            "params": params,
        } | ({"environment": environment} if environment else {})
        answer = self._ask("POST", f"{self._server}/submit", json=body).json()
        return str(answer["process_name"])

    def wait(
        self, process_name: str, progress: Progress = silent, interval: float = 0.3
    ) -> dict[str, Any]:
        """Wait until the job has ended, and return it; MlaasError with its reason if it failed.

        When this returns, TFaaS has the model (if it can be served). Asks every ``interval``
        seconds.
        """
        away_since = 0.0
        while True:
            try:
                job = self.job(process_name)
                away_since = 0.0
            except _ServiceAwayError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise
                time.sleep(interval)
                continue
            seen = job["progress"]
            if seen["phase"]:
                progress(seen["phase"], seen["done"], seen["total"], **seen["figures"])
            if job["state"] == "succeeded":
                return job
            if job["state"] == "failed":
                remedy = job["remedy"] or f"The log: {self._server}/logs?process_name="
                remedy += "" if job["remedy"] else process_name
                raise MlaasError(f"the job {process_name} failed: {job['reason']}", remedy)
            time.sleep(interval)

    def job(self, process_name: str) -> dict[str, Any]:
        """State, progress, metrics of a job, as ``GET /jobs/NAME_k`` gives them."""
        found: dict[str, Any] = self._ask("GET", f"{self._server}/jobs/{process_name}").json()
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, newest first."""
        found: list[dict[str, Any]] = self._ask("GET", f"{self._server}/jobs").json()
        return found

    def cancel(self, process_name: str) -> None:
        """Cancel a job that waits or runs."""
        self._ask("DELETE", f"{self._server}/jobs/{process_name}")

    def logs(self, process_name: str) -> str:
        """What the training has printed so far."""
        return self._ask("GET", f"{self._server}/logs?process_name={process_name}").text

    def model(self, process_name: str, path: Path) -> Path:
        """Fetch the bundle as tar.gz to ``path``: a file, or a folder for NAME_k.tar.gz."""
        path = Path(path)
        target = path / f"{process_name}.tar.gz" if path.is_dir() else path
        url = f"{self._server}/model?process_name={process_name}"
        partial = target.with_name(f".{target.name}.part")
        try:
            with _explained(url), self._http.stream("GET", url) as answer:
                _check(answer)
                with partial.open("wb") as stream:
                    for piece in answer.iter_bytes(1 << 20):
                        stream.write(piece)
            return partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def folders(self) -> list[dict[str, Any]]:
        """All uploaded folders."""
        found: list[dict[str, Any]] = self._ask("GET", f"{self._server}/folders").json()
        return found

    def delete_folder(self, name: str) -> None:
        """Remove an uploaded folder; its jobs and models stay."""
        self._ask("DELETE", f"{self._server}/folders/{name}")

    def delete_specs(self, name: str) -> None:
        """Remove the specs files of an uploaded folder."""
        self._ask("DELETE", f"{self._server}/folders/{name}/specs")

    def models(self) -> list[dict[str, Any]]:
        """The model cards of TFaaS."""
        found: list[dict[str, Any]] | None = self._ask("GET", f"{self._tfaas}/models").json()
        return found or []

    def delete_model(self, model: str) -> None:
        """Remove a model from TFaaS."""
        self._ask("DELETE", f"{self._tfaas}/delete/{model}")

    def predict_events(self, model: str, events: Events) -> NDArray[np.float32]:
        """The model's answers to events as they are in the tree: float32 of shape (events, k).

        k is 1 for two classes (the probability of class 1) and for a regression (the value), else
        the number of classes. The model's specs do the padding and normalising. A UserWarning says
        how many values were dropped, beyond the longest lists of the training, and how many lie
        outside its range; events that the training's selection drops count, too.
        """
        count = max(map(len, events.values()), default=0)
        values = sum(_size(branch) for branch in events.values())
        step = max(1, VALUES_AT_ONCE * count // max(values, 1))
        found = []
        dropped = outside = 0
        for start in range(0, max(count, 1), step):
            part = {name: _lists(events[name][start : start + step]) for name in events}
            body = {"model": model, "events": part}
            answer = self._ask("POST", f"{self._tfaas}/predict/events", json=body).json()
            found += answer["predictions"]
            dropped += answer["truncated"]
            outside += answer["outside"]
        if dropped or outside > LARGE_SHARE * values:
            warnings.warn(
                f"{model}: of {values} values {dropped} were dropped, and {outside} lie outside the"
                " range of the training. Are the events in the same units?",
                stacklevel=2,
            )
        return np.array(found, np.float32).reshape(len(found), -1)

    def _ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        with _explained(url):
            answer = self._http.request(method, url, **options)
            _check(answer)
        return answer


class _ServiceAwayError(MlaasError):
    """The service can't be reached, now."""


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        where = url.split("?")[0]
        raise _ServiceAwayError(
            f"can't reach {where}: {error or type(error).__name__}",
            "Is the service running, and is this its address?",
        ) from error


def _check(answer: httpx.Response) -> None:
    """MlaasError with the service's own words and remedy, if the answer is an error."""
    if answer.is_success:
        return
    answer.read()
    message, remedy = answer.text.strip()[:1000], ""
    try:
        said = json.loads(answer.text)
        message = str(said.get("title") or said.get("error") or message)
        remedy = str(said.get("detail", ""))
    except (ValueError, AttributeError):
        pass  # not one of our services: its text as it is
    message = message or answer.reason_phrase
    if answer.status_code == 404:
        raise NotFoundError(message, remedy)
    raise MlaasError(f"{message} (HTTP {answer.status_code})", remedy)


@contextmanager
def _archive(path: Path) -> Iterator[IO[bytes]]:
    """The archive ``path``, or the folder ``path`` packed into a temporary one."""
    if path.is_file():
        with path.open("rb") as stream:
            yield stream
    elif path.is_dir():
        with tempfile.TemporaryFile() as packed:
            # ROOT files are compressed already: gzip would only take time.
            with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
                tar.add(path.resolve(), arcname=path.resolve().name)
            packed.seek(0)
            yield packed
    else:
        raise NotFoundError(f"no such folder or archive: {path}")


def _size(branch: Branch) -> int:
    return int(branch.counts.sum()) if isinstance(branch, Jagged) else len(branch)


def _lists(branch: Branch) -> list[Any]:
    """A branch as JSON takes it: None for what is not finite."""
    if isinstance(branch, Jagged):
        offsets = branch.offsets - branch.offsets[0]
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        content = _finite(branch.content[branch.offsets[0] : branch.offsets[-1]])
        return [content[start:stop] for start, stop in bounds]
    return _finite(branch)


def _finite(values: NDArray[np.generic]) -> list[Any]:
    found: list[Any] = values.tolist()
    if values.dtype.kind == "f" and not np.isfinite(values.astype(np.float64)).all():
        return [value if np.isfinite(value) else None for value in found]
    return found
