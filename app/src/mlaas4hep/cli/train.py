"""``mlaas4hep train``, also installed as ``workflow.py``."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlaas4hep.cli.errors import EPILOG, run, show, warn
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.files import write_json
from mlaas4hep.core.progress import Bars, ProgressFile
from mlaas4hep.core.secrets import without_secrets

if TYPE_CHECKING:
    from mlaas4hep.training.train import TrainRequest, TrainResult

Files = Annotated[
    str,
    typer.Option(
        help="ROOT files, joined by commas: paths, URLs, wildcards ('data/*.root'), folders, or"
        " lists of them: a text with one name per line, a fileset of coffea, replicas of Rucio."
        " FILE:TREE names a file's tree. docs/how-to/data.md describes each.",
        rich_help_panel="Input",
    ),
]
Params = Annotated[
    Path,
    typer.Option(
        help="Parameters of the training as JSON; docs/reference/params.md lists the keys.",
        rich_help_panel="Input",
    ),
]


def train(
    files: Files,
    model: Annotated[
        Path,
        typer.Option(
            help="Python file with model(idim), which returns the model to train.",
            rich_help_panel="Input",
        ),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="A label per file (numbers or class names: a text file, or joined by commas),"
            " PATTERN=LABEL for files by name, dataset or wildcard"
            " (`*ttbar*=signal,*qcd*=background`),"
            " or the name of the branch that holds the label. Of two classes, the score is the"
            " probability of the second in the order of numbers or names; `signal` in params.json"
            " chooses the other. Without, the datasets of a fileset are the labels. None with"
            " `target` in params.json.",
            rich_help_panel="Input",
        ),
    ] = "",
    params: Params = Path("params.json"),
    specs: Annotated[
        Path | None,
        typer.Option(help="Specs from an earlier run, to skip the scan; refused if they differ."),
    ] = None,
    preproc: Annotated[
        Path | None,
        typer.Option(
            help="Refused: it was for JSON and CSV records. Compute of branches what you need by"
            " new_variables in params.json."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Format of the files; only root works.")] = "root",
    fout: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the bundle, trained_model by default; FOUT.tar.gz beside it. An older"
            " bundle there is replaced."
        ),
    ] = None,
    skip_bad_files: Annotated[
        bool,
        typer.Option(
            "--skip-bad-files",
            help="Leave out files that can't be read, each as a whole; the ledger says what is"
            " lost. By default they are an error. Also a key of params.json.",
            rich_help_panel="Input",
        ),
    ] = False,
    allow_missing: Annotated[
        str,
        typer.Option(
            help="With --skip-bad-files: the share of all events that may be missing, such as 1%.",
            rich_help_panel="Input",
        ),
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the result as JSON: bundle, metrics, warnings, the ledger."
        ),
    ] = False,
    job: Annotated[Path | None, typer.Option(hidden=True)] = None,
    name: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train a model on ROOT files and write its bundle.

    Reads the events in chunks, finds the specs (range and multiplicity of every branch), pads,
    normalises and mixes the files in proportion, trains, tests on events that were held out, and
    writes a bundle that TFaaS serves. The bundle's report.html shows how good the model is.

    For example:

        mlaas4hep train --files signal.root,background.root --labels 1,0 \\
                        --model model.py --params params.json --fout my_model
    """
    from mlaas4hep.training.train import TrainRequest
    from mlaas4hep.training.train import train as run_training

    target = job / (name or "model") if job else fout
    request = TrainRequest(
        files=files,
        labels=labels,
        model=model,
        params=params,
        fout=target,
        specs=specs,
        preproc=preproc,
        dtype=dtype,
        cwd=Path.cwd(),
        name=name,
        skip_bad_files=skip_bad_files,
        allow_missing=allow_missing,
        is_job=job is not None,
    )
    if job:
        _train_as_job(request, job)
        return
    told: list[str] = []
    with Bars() as bars:
        result = run_training(request, bars, _telling(told))
    if as_json:
        paths = {"bundle": str(result.bundle), "archive": str(result.archive)}
        outcome = paths | _outcome(result) | {"ledger": result.ledger.as_dict()}
        typer.echo(json.dumps(outcome, indent=2))
        return
    typer.echo(f"bundle   {result.bundle}")
    typer.echo(f"archive  {result.archive}")
    typer.echo(f"report   {result.bundle / 'report.html'}")
    if result.distributions:
        typer.echo(f"plots    {result.distributions}")
    _show_outcome(result, told)


def _telling(told: list[str]) -> Callable[[str], None]:
    """A function that prints a warning at once, and notes in ``told`` that it did."""

    def tell(warning: str) -> None:
        warn(warning)
        told.append(warning)

    return tell


def _show_outcome(result: TrainResult, told: list[str]) -> None:
    for heading, text in result.summary:
        typer.echo(without_secrets(f"{heading:<8} {text}"))
    for step in result.cut_flow:
        typer.echo(f"{step['events']:>12} events: {step['cut']}")
    for warning in result.warnings:
        if warning not in told:
            warn(warning)
    for key, value in result.metrics.items():
        if isinstance(value, float):
            typer.echo(f"{key:<8} {value:.4f}")
    typer.echo(result.metrics["score"])
    if not result.servable:
        warn(f"this model can't be served by TFaaS: {result.why_not}")


def _outcome(result: TrainResult) -> dict[str, object]:
    """What a program wants to know; of the ledger the sums, the bundle has all."""
    return {
        "metrics": result.metrics,
        "servable": result.servable,
        "why_not": result.why_not,
        "warnings": result.warnings,
        "cut_flow": result.cut_flow,
        "ledger": result.ledger.sums,
    }


def _train_as_job(request: TrainRequest, job: Path) -> None:
    """Train for the server: progress and result go to files, the result as the last thing."""
    from mlaas4hep.training.train import train as run_training

    file, outcome = ProgressFile(job / "progress.json"), dict[str, object]()
    told: list[str] = []
    try:
        with Bars() as log:

            def progress(phase: str, done: int, total: int, **figures: float) -> None:
                file(phase, done, total, **figures)
                log(phase, done, total, **figures)

            result = run_training(request, progress, _telling(told))
        _show_outcome(result, told)
        outcome = {"state": "succeeded"} | _outcome(result)
    except MlaasError as error:
        show(error)
        outcome = _failed(error.message, error.remedy)
    except Exception as error:
        traceback.print_exc()
        outcome = _failed(f"{type(error).__name__}: {error}", "The job's log has the details.")
    write_json(job / "result.json", outcome)
    if outcome["state"] == "failed":
        raise SystemExit(1)


def _failed(message: str, remedy: str) -> dict[str, object]:
    return {"state": "failed", "error": {"message": message, "remedy": remedy}}


def main() -> None:
    """Entry point of ``workflow.py``."""
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command(name="workflow.py", epilog=EPILOG)(train)
    run(app)
