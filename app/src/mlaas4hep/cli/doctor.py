"""``mlaas4hep doctor``: why a file can't be read."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlaas4hep.cli.errors import show
from mlaas4hep.core.errors import DataError

_STYLES = {"ok": "green", "warning": "bold yellow", "failed": "bold red"}


def doctor(
    file: Annotated[str, typer.Argument(help="A ROOT file: a path or a URL; or FILE:TREE.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, for programs.")
    ] = False,
) -> None:
    """Say why a file can't be read: each hop to it, the credentials, and what to do.

    It looks at the name, the connection, certificates, proxy or token, the server's answer and the
    file itself, with the environment that a training would have. It takes a second or two, half a
    minute where a server hangs, changes nothing, and never shows a token or a secret.

    For example:

        mlaas4hep doctor root://xrootd-cms.infn.it//store/mc/a.root
    """
    from mlaas4hep.sources.doctor import diagnose

    diagnosis = diagnose(file)
    if as_json:
        typer.echo(json.dumps(diagnosis.document(), indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        table = Table(title=diagnosis.name, title_justify="left")
        for heading in ("step", "", "found"):
            table.add_column(heading, overflow="fold")
        for step in diagnosis.steps:
            found = Text(step.found)
            if step.state == "warning":
                found.append(f"\n{step.remedy}", "dim")
            table.add_row(step.what, Text(step.state, _STYLES[step.state]), found)
        console.print(table)
        if diagnosis.failed:
            show(DataError(diagnosis.problem, diagnosis.remedy))
        else:
            typer.echo(f"{diagnosis.name} can be read")
    if diagnosis.failed:
        raise typer.Exit(1)
