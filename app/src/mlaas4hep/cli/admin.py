"""``mlaas4hep admin``: list, delete and reassign what users have here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlaas4hep.cli.services import Store, settings_with
from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.units import many, size

if TYPE_CHECKING:
    from mlaas4hep.jobs.administration import Administration, Thing

app = typer.Typer(
    name="admin",
    no_args_is_help=True,
    help="List users and what they have; delete it, give it away, free names. For operators.",
)

Name = Annotated[str, typer.Argument(help="Name of a folder, with its jobs and models NAME_k.")]
What = Annotated[str, typer.Argument(help="A user as listed (user:SUB, client:ID), or a name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Make the change; without this it is only shown.")]


@contextmanager
def _administration(store: Store) -> Iterator[Administration]:
    from mlaas4hep.jobs.administration import Administration
    from mlaas4hep.jobs.database import Database

    settings = settings_with(store=store)
    database = Database(settings.database_url)
    try:
        yield Administration(settings, database)
    finally:
        database.close()


@app.command()
def users(store: Store = None) -> None:
    """List everybody who has a folder, job or model here, and how much."""
    with _administration(store) as administration:
        found = administration.users()
    table = Table()
    for column in ("user", "last used"):
        table.add_column(column)
    for column in ("folders", "jobs", "models", "size"):
        table.add_column(column, justify="right")
    for user in found:
        counts = (str(user.count(kind)) for kind in ("folder", "job", "model"))
        table.add_row(user.owner or "(none)", _day(user.last_used), *counts, size(user.size))
    Console().print(table)
    typer.echo(f"{many(len(found), 'user')}, {size(sum(user.size for user in found))}")


@app.command()
def usage(what: What, store: Store = None) -> None:
    """List each folder, job and model of a user, or of a name."""
    with _administration(store) as administration:
        _show(administration.things(what), f"of {what}")


@app.command()
def delete(what: What, yes: Yes = False, store: Store = None) -> None:
    """Delete the folders, jobs and models of a user, or of a name. Names stay their owner's."""
    with _administration(store) as administration:
        if yes:
            _show(administration.delete(what), "deleted")
        else:
            _show(administration.things(what), "would be deleted; add --yes to do it")


@app.command()
def give(
    name: Name,
    owner: Annotated[str, typer.Argument(help="New owner: user:SUB or client:ID.")],
    yes: Yes = False,
    store: Store = None,
) -> None:
    """Give a name, with its folder, jobs and models, to another user."""
    with _administration(store) as administration:
        if yes:
            _show(administration.give(name, owner), f"given to {owner}")
        else:
            _show(administration.things(name), f"would be given to {owner}; add --yes to do it")


@app.command()
def free(name: Name, store: Store = None) -> None:
    """Free a name that has nothing left, for anybody to use; before, only its first user may."""
    with _administration(store) as administration:
        before = administration.free(name)
    typer.echo(f"the name {name} is free; it belonged to {before or '(none)'}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file for the copy.")], store: Store = None
) -> None:
    """Copy the whole database of folders and jobs while the services run.

    To restore it, stop server and runner, replace the database with it, and remove the files -wal
    and -shm beside the database.
    """
    with _administration(store) as administration:
        administration.backup(file)


@app.command()
def certificate(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="`usercert.pem userkey.pem`, or one file `.p12`; `-` is standard input."
        ),
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File with the key's passphrase; by default it is asked for."),
    ] = None,
) -> None:
    """Give `mlaas4hep x509-renewer` the certificate of which it makes proxies.

    It is checked first, and kept with its key, without passphrase, in MLAAS4HEP_X509_FOLDER with
    mode 0600. The one before is replaced at once, or, if anything is wrong, not at all.
    """
    from mlaas4hep.grid import certificate as kept

    settings = settings_with()
    given = kept.read([_content(file) for file in files], lambda: _passphrase(passphrase_file))
    kept.keep(settings, given)
    typer.echo(f"{given.subject}, until {_day(given.end)}: kept in {kept.own_file(settings)}")


def _content(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file} can't be read: {error.strerror}", "Check its name and mode."
        ) from None


def _passphrase(file: Path | None) -> bytes:
    if file:
        return _content(file).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise UsageError(
            "the key has a passphrase, and there is no terminal to ask for it",
            "Give --passphrase-file FILE.",
        )
    return getpass("Passphrase of the key: ").encode()


def _show(things: Sequence[Thing], verb: str) -> None:
    total = size(sum(thing.size for thing in things))
    table = Table()
    for column in ("kind", "name", "user", "last used"):
        table.add_column(column)
    table.add_column("size", justify="right")
    for thing in things:
        owner = thing.owner or "(none)"
        table.add_row(thing.kind, thing.name, owner, _day(thing.last_used), size(thing.size))
    Console().print(table)
    typer.echo(f"{len(things)} things, {total}, {verb}")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
