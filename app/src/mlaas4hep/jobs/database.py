"""Folders and jobs as rows of an SQLite database, by default in the store."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    String,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mlaas4hep.core.errors import ConflictError, MlaasError, UsageError
from mlaas4hep.core.files import sync

log = logging.getLogger(__name__)

SCHEMA = 4
"""Version of the tables below; a database with a newer one is refused."""

MIGRATIONS = {
    2: (
        "ALTER TABLE folders ADD COLUMN owner VARCHAR(255) DEFAULT '' NOT NULL",
        "CREATE INDEX ix_folders_owner ON folders (owner)",
        "ALTER TABLE jobs ADD COLUMN owner VARCHAR(255) DEFAULT '' NOT NULL",
        "CREATE INDEX ix_jobs_owner ON jobs (owner)",
        "ALTER TABLE jobs ADD COLUMN environment VARCHAR(64) DEFAULT 'default' NOT NULL",
        "ALTER TABLE jobs ADD COLUMN device VARCHAR(8) DEFAULT 'cpu' NOT NULL",
        "ALTER TABLE jobs ADD COLUMN expired DOUBLE PRECISION",
    ),
    3: ("ALTER TABLE jobs ADD COLUMN warnings JSON DEFAULT '[]' NOT NULL",),
    4: ("ALTER TABLE jobs ADD COLUMN groups JSON DEFAULT '[]' NOT NULL",),
}
"""What makes a database of the version before one of this version."""


_HOW_TO_NAME_IT = "Write sqlite:////FOLDER/FILE.sqlite, or leave it empty: a file in the store."


class State(StrEnum):
    """The state of a job; the last two are final."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self in (State.SUCCEEDED, State.FAILED)


ACTIVE = (State.WAITING, State.RUNNING)


class Base(DeclarativeBase):
    """The tables. Times are seconds since 1970 (UTC), sizes are bytes."""

    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own form)
        float: Double,
        dict[str, Any]: JSON,
        list[str]: JSON,
        State: String(16),
    }


class SchemaVersion(Base):
    """One row: the version of the tables."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Folder(Base):
    """An uploaded folder; ``version`` names the directory that holds its present content."""

    __tablename__ = "folders"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[str] = mapped_column(String(128))
    files: Mapped[int]
    size: Mapped[int] = mapped_column(BigInteger)
    uploaded: Mapped[float]
    owner: Mapped[str] = mapped_column(String(255), default="", index=True)
    """Whose it is (``access.caller``); "" without sign-in."""


class Counter(Base):
    """The last k given to a job NAME_k; it stays when folder and jobs are gone."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    last: Mapped[int]


class Job(Base):
    """One training: what was asked for, how far it is, how it ended."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    process_name: Mapped[str] = mapped_column(String(128), unique=True)
    name: Mapped[str] = mapped_column(String(100), index=True)
    version: Mapped[str] = mapped_column(String(128))
    files: Mapped[str] = mapped_column(Text)
    labels: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    params: Mapped[str] = mapped_column(Text)
    cpus: Mapped[float]
    memory: Mapped[int] = mapped_column(BigInteger)

    state: Mapped[State] = mapped_column(String(16), index=True)
    created: Mapped[float]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    stop: Mapped[str] = mapped_column(Text, default="")
    """Why a running job is to be killed; empty lets it go on."""
    exit_code: Mapped[int | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    remedy: Mapped[str] = mapped_column(Text, default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    warnings: Mapped[list[str]] = mapped_column(default=list)
    """What the training warned of."""
    servable: Mapped[bool] = mapped_column(default=False)
    why_not: Mapped[str] = mapped_column(Text, default="")
    owner: Mapped[str] = mapped_column(String(255), default="", index=True)
    groups: Mapped[list[str]] = mapped_column(default=list)
    """Those of whoever submitted it, as they were then."""
    environment: Mapped[str] = mapped_column(String(64), default="default")
    device: Mapped[str] = mapped_column(String(8), default="cpu")
    expired: Mapped[float | None]
    """When its files were deleted, see expiry.py."""

    def end(self, state: State, reason: str = "", remedy: str = "") -> None:
        """Note that the job has ended, now."""
        self.state, self.reason, self.remedy = state, reason, remedy
        self.finished = time.time()


class Database:
    """Short transactions; a reader never waits for a writer, writers take turns."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self._engine = _engine(self._url)
        # A writer takes SQLite's lock at its beginning: one that read first could not upgrade.
        self._writer = self._engine.execution_options(mlaas4hep_begin="BEGIN IMMEDIATE")
        try:
            _retried(self._prepare)
        except DBAPIError as error:
            raise MlaasError(
                f"can't open the database {self._url.render_as_string()}: {error.orig}",
                "Check MLAAS4HEP_DATABASE, and that its folder can be written.",
            ) from error

    def _prepare(self) -> None:
        with self._writer.begin() as connection:
            found = None
            if inspect(connection).has_table(SchemaVersion.__tablename__):
                found = connection.scalar(select(SchemaVersion.version))
            if found is not None and found < SCHEMA:
                copy = self._copy_of(found)
                self.backup(copy, replace=True)
                log.info("kept the database of schema %s as %s", found, copy)
            for version in range((found or SCHEMA) + 1, SCHEMA + 1):
                for statement in MIGRATIONS[version]:
                    connection.execute(text(statement))
                connection.execute(update(SchemaVersion).values(version=version))
                found = version
            if found is None:
                Base.metadata.create_all(connection)
                connection.execute(insert(SchemaVersion).values(version=SCHEMA))
            elif found != SCHEMA:
                copy = self._copy_of(SCHEMA)
                kept = f"go back to {copy}, which lacks what came after it, or " * copy.exists()
                raise ConflictError(
                    f"the database {self._url.render_as_string()} has schema {found}, "
                    f"this version of mlaas4hep knows {SCHEMA}",
                    f"Run the version of mlaas4hep that wrote it, {kept or 'or '}"
                    "give it an empty database.",
                )

    def _copy_of(self, schema: int) -> Path:
        """Where the copy from before a migration is."""
        path = Path(self._url.database or "")
        return path.with_name(f"{path.stem}.schema{schema}{path.suffix}")

    def backup(self, target: Path, replace: bool = False) -> None:
        """Copy the database, as it is at one moment, to the file ``target`` of mode 0600.

        Readers and writers go on. ConflictError when there is such a file, unless ``replace``;
        MlaasError when it can't be written, then nothing is left of it.
        """
        if target.exists() and not replace:
            raise ConflictError(f"{target} exists already", "Name a new file.")
        written = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            written.touch(0o600, exist_ok=False)
            with (
                closing(sqlite3.connect(self._url.database or "", timeout=30)) as source,
                closing(sqlite3.connect(written)) as copy,
            ):
                source.backup(copy)
            sync(written)
            written.rename(target)
            sync(target.parent)
        except (OSError, sqlite3.Error) as error:
            raise MlaasError(
                f"the database can't be copied to {target}: {error}",
                "Name a file in a folder that can be written, on a disk with room.",
            ) from error
        finally:
            written.unlink(missing_ok=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed at the end, all or none."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Raise unless the database answers."""
        with self._engine.connect() as connection:
            connection.execute(select(SchemaVersion.version))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def is_full(error: DBAPIError) -> bool:
    """Whether a change failed for want of room on the disk, where the journal grows first."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError(
            f"MLAAS4HEP_DATABASE is not a database URL: {error}", _HOW_TO_NAME_IT
        ) from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        name = {"postgresql": "PostgreSQL", "mysql": "MySQL"}.get(
            kind := parsed.get_backend_name(), kind
        )
        raise UsageError(f"MLAAS4HEP_DATABASE: {name} is not supported", _HOW_TO_NAME_IT)
    if parsed.database in (None, "", ":memory:"):
        raise UsageError(
            "MLAAS4HEP_DATABASE names no file, but server and runner share one", _HOW_TO_NAME_IT
        )
    return parsed


def _engine(url: URL) -> Engine:
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    # Readers never wait for a connection: those who write may all be waiting for each other.
    engine = create_engine(url, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `began` does
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("mlaas4hep_begin", "BEGIN"))

    return engine


def _retried(prepare: Any) -> None:
    """Server and runner may make the tables at the same moment: the second finds them."""
    for pause in (0.1, 0.3, 1.0):
        try:
            return prepare()  # type: ignore[no-any-return]
        except DBAPIError:
            time.sleep(pause)
    return prepare()  # type: ignore[no-any-return]
