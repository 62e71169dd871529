"""``mlaas4hep export``: what a model sees, as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.cli.errors import warn
from mlaas4hep.cli.train import Files, Params
from mlaas4hep.core.progress import Bars


def export(
    files: Files,
    out: Annotated[Path, typer.Option(help="File to write: NAME.npz or NAME.parquet.")],
    labels: Annotated[str, typer.Option(help="As for train.")] = "",
    params: Params = Path("params.json"),
    specs: Annotated[
        Path | None, typer.Option(help="Specs from an earlier run, to skip the scan.")
    ] = None,
) -> None:
    """Write what a model sees: columns, padded and normalised, and the class of each event.

    Events are in the order of the files. NPZ has the arrays x, mask (1 where a value is missing or
    padding), y, w, part (0 trains, 1 validates, 2 tests), file, entry, and the texts columns,
    classes, files. Of a regression y are the targets as a model is trained on them: the values of
    target are y x target_std + target_mean. Parquet has a column for each of the model's, null
    where a value is missing or padding, and \\_y, \\_w, \\_part, \\_file, \\_entry.

    For example:

        mlaas4hep export --files files.txt --labels labels.txt --out events.npz
    """
    from mlaas4hep.training.export import check
    from mlaas4hep.training.export import export as write
    from mlaas4hep.training.inputs import read_files_option, read_labels_option, refuse_input
    from mlaas4hep.training.library import open_data

    listed = read_files_option(files, Path.cwd())
    refuse_input("--out", out, listed.names)
    check(out)
    of_files = read_labels_option(labels, Path.cwd())
    with Bars() as bars, open_data(listed, of_files, params, bars, specs) as data:
        for warning in data.warnings:
            warn(warning)
        events = write(data, out, bars)
        typer.echo(f"{out}: {events} events, {len(data.columns)} columns")
