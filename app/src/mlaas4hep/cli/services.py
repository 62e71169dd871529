"""``mlaas4hep server``, ``runner`` and ``tfaas``: the three processes of the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.log import setup_logging
from mlaas4hep.core.settings import Settings

Store = Annotated[
    Path | None,
    typer.Option(help="Folder of uploads, jobs and models, shared by all three services."),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with those given on the command line instead."""
    try:
        settings = Settings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise UsageError(
            f"MLAAS4HEP_{name.upper()} is {wrong['input']!r}: {wrong['msg']}",
            str(Settings.model_fields[name].description),
        ) from None
    setup_logging(settings.log_level)
    return settings


def server(store: Store = None, host: Host = None, port: Port = None) -> None:
    """Serve the training API: upload folders, submit trainings, follow them, fetch models.

    Every setting is an environment variable MLAAS4HEP_<SETTING>; see docs/reference/settings.md.
    """
    from mlaas4hep.web.server import serve

    serve(settings_with(store=store, host=host, server_port=port))


def tfaas(store: Store = None, host: Host = None, port: Port = None) -> None:
    """Serve predictions of the models in the store over HTTP: JSON, protobuf, events as in a tree.

    Every setting is an environment variable MLAAS4HEP_<SETTING>; see docs/reference/settings.md.
    """
    from mlaas4hep.web.tfaas import serve

    serve(settings_with(store=store, host=host, tfaas_port=port))


def runner(
    store: Store = None,
    stop_jobs: Annotated[
        bool,
        typer.Option(
            "--stop-jobs",
            help="When the runner is stopped, stop its trainings too; else the next one adopts"
            " them.",
        ),
    ] = False,
) -> None:
    """Run the trainings that the server has queued, and publish their models to TFaaS.

    Every setting is an environment variable MLAAS4HEP_<SETTING>; see docs/reference/settings.md.
    """
    from mlaas4hep.jobs.runner import run

    run(settings_with(store=store), stop_jobs=stop_jobs)
