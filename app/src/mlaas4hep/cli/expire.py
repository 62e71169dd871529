"""``mlaas4hep expire``: delete old files, or show them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlaas4hep.cli.services import Store, settings_with
from mlaas4hep.core.errors import UsageError


def expire(
    store: Store = None,
    keep_days: Annotated[
        int | None, typer.Option(help="Days that files are kept, instead of the setting.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be deleted.")
    ] = False,
) -> None:
    """Delete the files of trainings that ended long ago, and folders that nobody used since.

    MLAAS4HEP_KEEP_DAYS sets after how many days; the runner does the same once an hour. Models
    stay, and so does what is known of a training: its state, metrics and times.
    """
    from mlaas4hep.core.units import size
    from mlaas4hep.jobs.database import Database
    from mlaas4hep.jobs.expiry import expire as delete
    from mlaas4hep.jobs.expiry import find_old

    settings = settings_with(store=store, keep_days=keep_days)
    if not settings.keep_days:
        raise UsageError(
            "MLAAS4HEP_KEEP_DAYS is 0: everything is kept for ever",
            "Set it to a number of days, or give --keep-days.",
        )
    database = Database(settings.database_url)
    sizes = {(old.kind, old.name): old.size for old in find_old(settings, database)}
    gone = find_old(settings, database) if dry_run else delete(settings, database)
    total = sum(sizes.get((old.kind, old.name), 0) for old in gone)
    verb = "would be deleted" if dry_run else "deleted"
    table = Table(title=f"{size(total)} {verb}: unused for {settings.keep_days} days")
    for column in ("kind", "name", "owner", "last used"):
        table.add_column(column)
    table.add_column("size", justify="right")
    for old in gone:
        day = datetime.fromtimestamp(old.last_used, UTC).date().isoformat()
        table.add_row(old.kind, old.name, old.owner, day, size(sizes.get((old.kind, old.name), 0)))
    Console().print(table)
    database.close()
