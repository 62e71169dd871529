"""How the command line ends: exit codes and messages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.secrets import without_secrets

EPILOG = (
    "Exit status: 0 done; 1 the work failed, such as reading a ROOT file or training the model;"
    " 2 the command line, params.json or a setting is wrong."
)


def run(app: Callable[..., Any]) -> None:
    """Run a typer application; an expected failure becomes a message, not a traceback."""
    try:
        app()
    except MlaasError as error:
        show(error)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from None


def show(error: MlaasError) -> None:
    """Print what is wrong and what to do about it on stderr."""
    console = Console(file=sys.stderr, soft_wrap=True)
    console.print(Text("error: ", style="bold red") + Text(error.message), highlight=False)
    if error.remedy:
        console.print(Text(f"  {error.remedy}"), highlight=False)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    console = Console(file=sys.stderr, soft_wrap=True)
    console.print(
        Text("warning: ", style="bold yellow") + Text(without_secrets(message)), highlight=False
    )
