"""The demo: from ROOT files to a served prediction, through the real parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlaas4hep.client.client import Client
from mlaas4hep.core.errors import DataError, MlaasError, UsageError
from mlaas4hep.core.progress import Bars
from mlaas4hep.core.units import size
from mlaas4hep.data import (
    TEST,
    Branch,
    Events,
    EventsToUse,
    Jagged,
    Split,
)
from mlaas4hep.demo.services import Services
from mlaas4hep.demo.simulate import write_files
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import prepare

EXAMPLE = Path(__file__).parent / "example"
NAME = "demo"
MOST_PREDICTED = 10_000
SLICE = 1_000
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Inputs:
    """What to train on; ``predict`` is a file with the branch ``truth`` to predict for.

    Without ``predict`` the predictions are for the events of ``files`` that training held out.
    """

    files: list[Path]
    labels: list[str]
    tree: str = "events"
    model: Path = EXAMPLE / "model.py"
    params: Path = EXAMPLE / "params.json"
    predict: Path | None = None


class Steps:
    """Numbered steps with their time and the most memory that all processes had together."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.done: list[tuple[str, float, float]] = []
        self._peak = 0.0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.2):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self._peak = max(self._peak, total)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and note what it took."""
        self.console.print(f"\n[bold cyan]{len(self.done) + 1}. {title}[/]")
        self._peak, start = 0.0, time.monotonic()
        yield
        self.done.append((title, time.monotonic() - start, self._peak))

    def table(self) -> Table:
        """What each step took."""
        self._stop.set()
        table = Table(box=None, padding=(0, 2), caption="peak: resident memory of all processes")
        for heading in ("step", "seconds", "peak"):
            table.add_column(
                heading, justify="left" if heading == "step" else "right", no_wrap=True
            )
        for title, seconds, peak in self.done:
            table.add_row(title, f"{seconds:.1f}", size(peak) if peak else "-")
        return table


def run(folder: Path, own: Inputs | None = None, keep: bool = False) -> float:
    """Run the whole main job below ``folder`` and return the AUC of the served predictions.

    ``own`` are the user's files; without them the events are simulated, with predictions for a
    third file that another seed made. ``keep`` leaves the services up until Ctrl-C.
    """
    for number in STOPPING:
        signal.signal(number, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    steps = Steps(console)
    folder.mkdir(parents=True, exist_ok=True)

    with steps.step("Your files" if own else "Simulate a resonance over a falling spectrum"):
        inputs = own or simulated(folder)
        written = five_files(folder / NAME, inputs)
        console.print(f"   {folder / NAME}: {', '.join(sorted(f.name for f in written))}")

    with steps.step("Start server, runner and TFaaS on this machine"):
        services = Services(folder / "store", folder / "logs").start()
        console.print(f"   server {services.server_url}   TFaaS {services.tfaas_url}")

    with services, Client(services.server_url, services.tfaas_url) as client:
        # Only these files, whatever else lies in their folder.
        with steps.step("Upload the folder"), TemporaryDirectory(dir=folder) as place:
            for file in written:
                (Path(place) / file.name).symlink_to(file.absolute())
            client.upload(Path(place), NAME)

        with steps.step("Train: specs, chunks, epochs, test, publish"), Bars() as bars:
            job = client.submit(
                NAME, files="files.txt", labels="labels.txt", model="model.py", params="params.json"
            )
            try:
                ended = client.wait(job, bars)
            except MlaasError as error:
                raise of_example(error, inputs.model) from None
            for warning in ended.get("warnings", []):
                console.print(Text("   warning: ", style="bold yellow") + Text(warning))

        with steps.step("The model in TFaaS"):
            card = next(model for model in client.models() if model["name"] == job)
            console.print(f"   {card['name']}: {card['description']}")

        bundle = Bundle.open(folder / "store" / "models" / job)
        with steps.step("Send events as they are in the tree, get predictions"):
            events, truth = with_truth(inputs, bundle, folder / NAME)
            slices = [slice(i, i + SLICE) for i in range(0, len(truth), SLICE)]
            answers = [
                client.predict_events(job, {name: events[name][part] for name in events})
                for part in slices
            ]
            auc = area_under_curve(truth, np.concatenate(answers))
            of = "of another seed" if inputs.predict else "that the training held out"
            console.print(
                f"   {len(truth)} events {of}: AUC [bold]{auc:.3f}[/], computed from the answers"
            )

        console.print("\n", steps.table())
        console.print(closing(bundle.path, services if keep else None))
        if keep:
            console.print("The pages stay open until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                signal.pause()
    return auc


def _interrupt(*_: object) -> None:
    """Stop, once: a second Ctrl-C must not keep the services from being stopped."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def simulated(folder: Path) -> Inputs:
    """Simulated events: two files to train on, and a third of another seed to predict for."""
    signal_file, background, mixture = write_files(folder)
    return Inputs([signal_file, background], ["1", "0"], predict=mixture)


def five_files(folder: Path, inputs: Inputs) -> list[Path]:
    """Write what to upload: the ROOT files and the four files that describe the training.

    Whatever else is in the folder stays: somebody may work there.
    """
    folder.mkdir(exist_ok=True)
    names = [file.name for file in inputs.files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two files are named {twice}", "The demo puts them into one folder.")
    for file in inputs.files:
        if not file.is_file():
            raise DataError(f"no such file: {file}", "Give FILES= as paths joined by commas.")
        copy = folder / file.name
        if copy.exists() and copy.samefile(file):
            continue
        copy.unlink(missing_ok=True)
        try:
            os.link(file, copy)
        except OSError:
            shutil.copyfile(file, copy)
    params = json.loads(inputs.params.read_text()) | {"branch": inputs.tree}
    if inputs.params == EXAMPLE / "params.json" and not inputs.predict:
        del params["identifier"]  # those of the simulated files
    if Split.parse(params.get("split")).folds:
        raise UsageError(
            "the demo can't test a training with folds: TFaaS answers with the mean of all models,"
            " and most of them have seen the event",
            "Leave split.folds out of PARAMS, or use mlaas4hep train: its report has the AUC of"
            " the folds.",
        )
    texts = {
        "files.txt": "".join(f"{name}\n" for name in names),
        "labels.txt": "".join(f"{label}\n" for label in inputs.labels),
        "model.py": inputs.model.read_text(),
        "params.json": json.dumps(params, indent=4) + "\n",
    }
    for name, text in texts.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name in dict.fromkeys([*names, *texts])]


def of_example(error: MlaasError, model: Path) -> MlaasError:
    """The error; where the example model, which nobody chose, is for fewer classes, with why."""
    if model != EXAMPLE / "model.py" or "classes" not in error.message:
        return error
    return MlaasError(
        error.message, "The demo's example model is for two classes. Give your own: MODEL=my.py"
    )


def with_truth(inputs: Inputs, bundle: Bundle, folder: Path) -> tuple[Events, NDArray[np.int64]]:
    """Events with the branches that the model wants, and the index of each one's class.

    Of the files that were trained on, those of ``folder``, the events that the training held out.
    """
    branches = [name for names in bundle.specs.inputs for name in names]
    if inputs.predict:
        with RootFile(str(inputs.predict), inputs.tree) as file:
            events = dict(file.read([*branches, "truth"]))
        return events, np.asarray(events.pop("truth"), np.int64)

    params, _ = Params.load(folder / "params.json")
    parts, truth = [], []
    with ExitStack() as stack:
        names, specs = [file.name for file in inputs.files], bundle.path / "specs.json"
        task = prepare(names, inputs.labels, params, folder, stack, specs, keep_specs=False)
        step = 5 * MOST_PREDICTED
        nevts = min(step, params.nevts) if params.nevts > 0 else step
        use = EventsToUse.of([file.entries for file in task.files], nevts, task.use.passing)
        for index, (file, ranges) in enumerate(zip(task.files, use.ranges, strict=True)):
            passing = use.passing[index]
            for start, stop, read in file.blocks(task.branches, ranges, step, passing):
                kept = task.parts(index, start, stop, read) == TEST
                parts.append({name: taken(read[name], kept) for name in branches})
                classes = task.labels.of_events(read, index)
                truth.append(np.broadcast_to(classes, len(kept))[kept])
    events = {name: joined([part[name] for part in parts]) for name in branches}
    return events, np.concatenate(truth)


def taken(branch: Branch, mask: NDArray[np.bool_]) -> Branch:
    """The branch's values of the events of the mask only."""
    if not isinstance(branch, Jagged):
        return branch[mask]
    content = branch.content[branch.offsets[0] : branch.offsets[-1]]
    offsets = np.concatenate([[0], np.cumsum(branch.counts[mask])])
    return Jagged(offsets, content[np.repeat(mask, branch.counts)])


def joined(parts: list[Branch]) -> Branch:
    """One branch of several files' events."""
    if not isinstance(parts[0], Jagged):
        return np.concatenate([part for part in parts if not isinstance(part, Jagged)])
    lists = [part for part in parts if isinstance(part, Jagged)]
    counts = np.concatenate([part.counts for part in lists])
    contents = [part.content[part.offsets[0] : part.offsets[-1]] for part in lists]
    return Jagged(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(contents))


def area_under_curve(truth: NDArray[np.generic], scores: NDArray[np.float32]) -> float:
    """Area under the ROC curve; one class against the rest when there are more than two."""
    from sklearn.metrics import roc_auc_score

    if scores.shape[1] == 1:
        return float(roc_auc_score(truth, scores[:, 0]))
    return float(roc_auc_score(truth, scores, multi_class="ovr"))


def closing(bundle: Path, services: Services | None) -> str:
    """Where the results are, the pages of ``services`` if they stay, and what to try next."""
    pages = "make demo KEEP=1 keeps the pages of server and TFaaS open"
    if services:
        pages = f"{services.server_url}/ (jobs)   {services.tfaas_url}/ (models)"
    return f"""
Bundle       {bundle}
ROC curve    {bundle / "roc.png"}
Report page  {bundle / "report.html"}
Pages        {pages}

Try next
  make demo FILES=signal.root,background.root LABELS=1,0 BRANCH=events        your own files
  .venv/bin/mlaas4hep inspect demo/signal.root
  .venv/bin/mlaas4hep --help        docs/tutorial/first-model.md continues from here
"""
