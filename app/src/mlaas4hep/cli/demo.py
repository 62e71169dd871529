"""``mlaas4hep demo``: the whole main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.core.errors import UsageError


def demo(
    files: Annotated[
        str,
        typer.Option(help="Your ROOT files, of this machine, as for train; none: simulated."),
    ] = "",
    labels: Annotated[
        str, typer.Option(help="As for train; the datasets of a fileset are labels.")
    ] = "",
    branch: Annotated[str, typer.Option(help="The tree in your files.")] = "events",
    model: Annotated[Path | None, typer.Option(help="Your model file.")] = None,
    params: Annotated[Path | None, typer.Option(help="Your params.json.")] = None,
    folder: Annotated[Path, typer.Option(help="Where files, logs and models go.")] = Path("demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the pages open at the end, until Ctrl-C.")
    ] = False,
) -> None:
    """From ROOT files to a served prediction: server, runner and TFaaS on free loopback ports.

    Simulates signal and background, uploads them, trains the example model, publishes it, sends
    events of a third file to TFaaS, and prints how well the answers separate the two.
    """
    from mlaas4hep.demo.run import EXAMPLE, Inputs, run
    from mlaas4hep.sources.names import local
    from mlaas4hep.training.inputs import read_files_option, read_labels_option
    from mlaas4hep.training.labels import by_dataset, by_pattern

    own = None
    if files:
        listed = read_files_option(files, Path.cwd())
        given = by_pattern(read_labels_option(labels, Path.cwd()), listed) or by_dataset(listed)
        if not given:
            raise UsageError("--files without --labels", "Give a label per file: LABELS=1,0")
        own = Inputs(
            [Path(local(name)) for name in listed.names],
            given,
            branch,
            model or EXAMPLE / "model.py",
            params or EXAMPLE / "params.json",
        )
    run(folder.absolute(), own, keep)
