"""``mlaas4hep server``, ``runner``, ``tfaas``, ...: the processes of the service."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from mlaas4hep.core.errors import UsageError, did_you_mean
from mlaas4hep.core.log import setup_logging
from mlaas4hep.core.settings import Settings

log = logging.getLogger(__name__)

PREFIX = "MLAAS4HEP_"
NO_SETTINGS = ("MLAAS4HEP_TEST_", "MLAAS4HEP_CLIENT_SECRET", "MLAAS4HEP_ADMIN")
"""Variables of the same prefix that other things read."""

Store = Annotated[
    Path | None,
    typer.Option(
        help="Folder of uploads, jobs and models, shared by all three services"
        " (default: MLAAS4HEP_STORE, else `~/.local/share/mlaas4hep`)."
    ),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address to listen on (default: MLAAS4HEP_HOST, else 127.0.0.1)."),
]
_PORT = "Port to listen on; 0 takes a free one (default:"
ServerPort = Annotated[int | None, typer.Option(help=f"{_PORT} MLAAS4HEP_SERVER_PORT, else 8080).")]
TfaasPort = Annotated[int | None, typer.Option(help=f"{_PORT} MLAAS4HEP_TFAAS_PORT, else 8083).")]


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with those given on the command line instead.

    UsageError names all that are wrong. A variable that is no setting is warned of.
    """
    settings = _settings(given)
    setup_logging(settings.log_level)
    for problem in unknown_variables():
        log.warning(problem)
    return settings


def settings(store: Store = None) -> None:
    """Check the settings of the environment, and show them.

    A variable `MLAAS4HEP_<SETTING>` that has a wrong value, or that is not a setting, is an error;
    all are listed at once.
    """
    found, problems = None, unknown_variables()
    try:
        found = _settings({"store": store})
        if found.issuer:
            from mlaas4hep.access.rules import Rules

            Rules(found)
    except UsageError as error:
        problems.append(f"{error.message.rstrip('.')}. {error.remedy}".strip())
    if problems or found is None:
        raise UsageError("\n".join(problems))
    for name, value in found.model_dump(mode="json").items():
        mark = "" if name in found.model_fields_set else "  (default)"
        typer.echo(f"MLAAS4HEP_{name.upper()}={json.dumps(value)}{mark}")


def unknown_variables() -> list[str]:
    """A line for each environment variable that looks like a setting but is not one."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        f"{name} is not a setting. {did_you_mean(name, sorted(known))}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(NO_SETTINGS)
    ]


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        wrong = {str(each["loc"][0]): each for each in reversed(error.errors())}
        raise UsageError(
            "; ".join(
                f"{PREFIX}{name.upper()} is {each['input']!r}: {_expected(each['msg'])}"
                for name, each in wrong.items()
            ),
            " ".join(str(Settings.model_fields[name].description) for name in wrong),
        ) from None
    except SettingsError as error:  # a value that should be JSON
        raise UsageError(
            f"{error}: its variable {PREFIX}<SETTING> is not valid JSON",
            "See docs/reference/settings.md.",
        ) from None


def _expected(message: str) -> str:
    """What pydantic says of a wrong value, in our words."""
    return message.partition(", unable")[0].replace("Input should be", "it should be")


def server(store: Store = None, host: Host = None, port: ServerPort = None) -> None:
    """Serve the training API: upload folders, submit trainings, follow them, fetch models.

    Every setting is an environment variable `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.web.server import serve

    serve(settings_with(store=store, host=host, server_port=port))


def tfaas(store: Store = None, host: Host = None, port: TfaasPort = None) -> None:
    """Serve predictions of the models in the store over HTTP: JSON, protobuf, events as in a tree.

    Every setting is an environment variable `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.web.tfaas import serve

    serve(settings_with(store=store, host=host, tfaas_port=port))


def runner(
    store: Store = None,
    stop_jobs: Annotated[
        bool,
        typer.Option(
            "--stop-jobs",
            help="When the runner stops, stop its trainings too; by default the next runner"
            " adopts them.",
        ),
    ] = False,
) -> None:
    """Run the trainings that the server has queued, and publish their models to TFaaS.

    Every setting is an environment variable `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.jobs.runner import run

    run(settings_with(store=store), stop_jobs=stop_jobs)


def data_proxy() -> None:
    """Let trainings in containers read from the hosts in MLAAS4HEP_DATA_HOSTS, and no others.

    Every setting is an environment variable `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.web.data_proxy import serve

    serve(settings_with())


def x509_renewer() -> None:
    """Keep a proxy certificate with the attributes of your VO fresh, or a token, and the CRLs.

    Waits until `mlaas4hep admin certificate` has given it a certificate. Every setting is an
    environment variable `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.grid.renewer import serve

    serve(settings_with())


def xrootd_cache() -> None:
    """Read files of grid servers once, and keep them on a disk: a proxy cache of XRootD.

    It has the proxy certificate or token that `mlaas4hep x509-renewer` keeps fresh. Needs Debian's
    packages xrootd-server and xrootd-client. Every setting is an environment variable
    `MLAAS4HEP_<SETTING>`; see docs/reference/settings.md.
    """
    from mlaas4hep.grid.cache import serve

    serve(settings_with())
