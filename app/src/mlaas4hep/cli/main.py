"""``mlaas4hep``: every command in one place."""

from __future__ import annotations

from typing import Annotated

import typer

from mlaas4hep import __version__
from mlaas4hep.cli import admin, data, demo, doctor, expire, export, predict, services, token, train
from mlaas4hep.cli.errors import EPILOG, run

app = typer.Typer(
    name="mlaas4hep",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Machine learning as a service for high-energy physics: train on ROOT files, predict over"
    " HTTP.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlaas4hep {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for panel, commands in {
    "Try it": (demo.demo,),
    "Look at files": (data.inspect, doctor.doctor, data.specs, export.export),
    "Train and predict": (train.train, predict.predict),
    "Use a service": (token.token,),
    "Run the services": (
        services.server,
        services.runner,
        services.tfaas,
        services.data_proxy,
        services.x509_renewer,
        services.xrootd_cache,
        services.settings,
        expire.expire,
    ),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EPILOG)(command)
app.add_typer(admin.app, rich_help_panel="Run the services")


def main() -> None:
    """Entry point of ``mlaas4hep``."""
    run(app)


if __name__ == "__main__":
    main()
