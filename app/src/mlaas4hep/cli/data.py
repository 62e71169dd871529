"""``mlaas4hep specs`` and ``mlaas4hep inspect``: what is in the files."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlaas4hep.cli.errors import warn
from mlaas4hep.cli.train import Files, Params
from mlaas4hep.core.errors import LimitError, UsageError
from mlaas4hep.core.progress import Bars

if TYPE_CHECKING:
    from mlaas4hep.sources.inspect import TreeReport


def specs(
    files: Files,
    params: Params = Path("params.json"),
    labels: Annotated[
        str,
        typer.Option(
            help="As for train: needed if a branch holds the label, to keep it out of the features."
        ),
    ] = "",
    fout: Annotated[Path, typer.Option(help="File to write.")] = Path("global-specs.json"),
) -> None:
    """Find range and multiplicity of every branch in one pass, and write them as JSON.

    A later `train --specs FILE` skips the scan; it refuses specs that no longer fit the files.

    For example:

        mlaas4hep specs --files signal.root,background.root --params params.json
    """
    from mlaas4hep.training.inputs import read_files_option, read_labels_option
    from mlaas4hep.training.params import Params as TrainingParams
    from mlaas4hep.training.prepare import scan_files

    settings, warnings = TrainingParams.load(params)
    for warning in warnings:
        warn(warning)
    if settings.hist:
        warn(
            f"{params.name}: hist has no effect here: train draws the distributions,"
            " inspect --plot those of a file"
        )
    with Bars() as bars:
        found, told = scan_files(
            read_files_option(files, Path.cwd()),
            read_labels_option(labels, Path.cwd()) if labels else (),
            settings,
            Path.cwd(),
            bars,
        )
    for warning in told:
        warn(warning)
    found.save(fout)
    typer.echo(
        f"{fout}: {found.scanned} events, {len(found.flat)} flat and {len(found.jagged)} jagged"
        f" branches, {len(found.columns)} columns"
    )


def inspect(
    file: Annotated[str, typer.Argument(help="A ROOT file: a path or a URL; or FILE:TREE.")],
    tree: Annotated[str, typer.Option(help="Show this tree only.")] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a picture of each branch's distribution, BRANCH.png, and a ROOT file"
            " with the histograms; of several trees, a folder of each."
        ),
    ] = None,
) -> None:
    """Show the trees of a ROOT file and their branches: type, kind, range, multiplicity."""
    from mlaas4hep.sources.inspect import describe

    if plot:
        from mlaas4hep.report.distributions import make_folder

        if not find_spec("mplhep"):
            raise UsageError("--plot needs mplhep, which isn't installed", "Install it.")
        make_folder(plot, "--plot")
    console = Console(width=None if sys.stdout.isatty() else 200)
    trees = describe(file, tree or None)
    for found in trees:
        table = Table(
            title=f"{found.name}: {found.entries} events, {len(found.branches)} branches",
            title_justify="left",
        )
        table.add_column("branch", overflow="fold")
        for heading in ("kind", "type"):
            table.add_column(heading)
        for heading in ("min", "max", "values per event\nmin / mean / max", "missing"):
            table.add_column(heading, justify="right")
        for branch in found.branches:
            table.add_row(*branch.cells())
        console.print(table)
    if plot:
        _plot(file, trees, plot)


def _plot(file: str, trees: list[TreeReport], folder: Path) -> None:
    from mlaas4hep.report.distributions import file_names, make_folder, write_distributions
    from mlaas4hep.sources.inspect import distributions

    names = file_names(tree.name for tree in trees)
    with Bars() as bars:
        for tree in trees:
            into = folder / names[tree.name] if len(trees) > 1 else folder
            make_folder(into, "--plot")
            try:
                told = write_distributions(distributions(file, tree), into, bars)
            except OSError as error:
                raise LimitError(f"--plot: {into} can't be written: {error.strerror}") from None
            for warning in told:
                warn(f"{tree.name}: {warning}")
            typer.echo(f"plots    {into}")
