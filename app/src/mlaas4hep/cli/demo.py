"""``mlaas4hep demo``: the whole main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.core.errors import UsageError


def demo(
    files: Annotated[
        str,
        typer.Option(help="Your ROOT files, joined by commas; none: simulated events."),
    ] = "",
    labels: Annotated[
        str, typer.Option(help="A label per file, joined by commas, or a label branch.")
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

    own = None
    if files:
        if not labels:
            raise UsageError("--files without --labels", "Give a label per file: LABELS=1,0")
        own = Inputs(
            [Path(name) for name in files.split(",")],
            labels.split(","),
            branch,
            model or EXAMPLE / "model.py",
            params or EXAMPLE / "params.json",
        )
    run(folder.absolute(), own, keep)
