import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mlaas4hep.core.errors import ConflictError, MlaasError, UsageError
from mlaas4hep.jobs.database import SCHEMA, Base, Counter, Database, Folder, Job


def test_a_newer_schema_is_refused_naming_both_versions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db.sqlite"
    Database(url).close()
    with create_engine(url).begin() as connection:
        connection.execute(text(f"UPDATE schema_version SET version = {SCHEMA + 1}"))
    with pytest.raises(ConflictError, match=f"schema {SCHEMA + 1}.*knows {SCHEMA}"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is not a database URL"),
        ("dbase://x/y", "dbase is not supported"),
        ("postgresql+psycopg://user:secret@host/name", "PostgreSQL is not supported"),
        ("postgresql://user:secret@host/name", "PostgreSQL is not supported"),
        ("mysql://user:secret@host/name", "MySQL is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_of_anything_but_a_file_of_sqlite_is_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"MLAAS4HEP_DATABASE.*{said}") as caught:
        Database(url)
    assert "sqlite:////FOLDER/FILE" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_readers_never_wait_for_a_connection(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with ExitStack() as held:
        for _ in range(40):
            held.enter_context(database.read()).get(Counter, "a")


def test_a_database_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"no database, " * 100)
    with pytest.raises(MlaasError, match=r"can't open the database sqlite:.*db\.sqlite"):
        Database(f"sqlite:///{tmp_path}/db.sqlite")


def test_processes_that_start_at_once_share_one_new_database(tmp_path: Path) -> None:
    code = "import sys; from mlaas4hep.jobs.database import Database; Database(sys.argv[1]).check()"
    url = f"sqlite:///{tmp_path}/db.sqlite"
    started = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [process.wait(240) for process in started] == [0] * 4


def test_writers_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with database.write() as session:
        session.add(Counter(name="a", last=0))

    def count() -> None:
        for _ in range(20):
            with database.write() as session:
                session.get_one(Counter, "a").last += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(Counter, "a").last == 80


def test_a_copy_is_whole_while_others_write(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with database.write() as session:
        session.add_all([Counter(name="a", last=0), Counter(name="b", last=0)])
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            with database.write() as session:
                session.get_one(Counter, "a").last += 1
                session.get_one(Counter, "b").last += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for number in range(10):
            database.backup(tmp_path / f"{number}.sqlite")
    finally:
        done.set()
        thread.join()
    for number in range(10):
        copy = tmp_path / f"{number}.sqlite"
        assert copy.stat().st_mode & 0o777 == 0o600
        with Database(f"sqlite:///{copy}").read() as session:
            assert session.get_one(Counter, "a").last == session.get_one(Counter, "b").last
    assert not list(tmp_path.glob(".*"))


def test_a_copy_replaces_no_file_and_names_what_is_wrong(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with pytest.raises(ConflictError, match=r"db\.sqlite exists already"):
        database.backup(tmp_path / "db.sqlite")
    with pytest.raises(MlaasError, match=r"can't be copied to .*/copy\.sqlite: .*No such file"):
        database.backup(tmp_path / "absent/copy.sqlite")


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")

    def fail() -> None:
        with database.write() as session:
            session.add(Counter(name="a", last=0))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert session.get(Counter, "a") is None


def test_sqlite_writes_ahead_so_that_readers_never_wait(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with database.write() as session:
        session.add(Counter(name="a", last=0))
        session.flush()
        with database.read() as reader:
            assert reader.get(Counter, "a") is None


FIRST = """
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE folders (name VARCHAR(100) NOT NULL, version VARCHAR(128) NOT NULL,
  files INTEGER NOT NULL, size BIGINT NOT NULL, uploaded DOUBLE NOT NULL, PRIMARY KEY (name));
CREATE TABLE counters (name VARCHAR(100) NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (name));
CREATE TABLE jobs (id INTEGER NOT NULL, process_name VARCHAR(128) NOT NULL,
  name VARCHAR(100) NOT NULL, version VARCHAR(128) NOT NULL, files TEXT NOT NULL,
  labels TEXT NOT NULL, model TEXT NOT NULL, params TEXT NOT NULL, cpus DOUBLE NOT NULL,
  memory BIGINT NOT NULL, state VARCHAR(16) NOT NULL, created DOUBLE NOT NULL, started DOUBLE,
  finished DOUBLE, progress JSON NOT NULL, stop TEXT NOT NULL, exit_code INTEGER,
  reason TEXT NOT NULL, remedy TEXT NOT NULL, metrics JSON NOT NULL, servable BOOLEAN NOT NULL,
  why_not TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (process_name));
CREATE INDEX ix_jobs_name ON jobs (name);
CREATE INDEX ix_jobs_state ON jobs (state);
INSERT INTO schema_version VALUES (1);
INSERT INTO folders VALUES ('luca', 'luca.abc', 5, 1000, 1.5);
INSERT INTO counters VALUES ('luca', 1);
INSERT INTO jobs VALUES (1, 'luca_1', 'luca', 'luca.abc', 'files.txt', 'labels.txt', 'model.py',
  'params.json', 2.0, 1024, 'succeeded', 1.0, 2.0, 3.0, '{}', '', 0, '', '', '{"auc": 0.9}', 1, '');
"""
"""A database as the first version wrote it."""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST)
    return path


def layout(path: Path) -> set[tuple[str, ...]]:
    """Name, type, not null and default of every column, and every index."""
    with sqlite3.connect(path) as connection:
        found = set()
        for table in Base.metadata.tables:
            for row in connection.execute(f"PRAGMA table_info({table})"):
                kind = row[2].removesuffix(" PRECISION")  # DOUBLE is SQLite's word, and only its
                found.add((table, row[1], kind, str(row[3])))
            for row in connection.execute(f"PRAGMA index_list({table})"):
                found.add((table, row[1], str(row[2])))
    return found


def test_a_database_of_the_first_version_is_brought_up_to_date(first: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time there is nothing to do
        database = Database(f"sqlite:///{first}")
        with database.read() as session:
            folder = session.get_one(Folder, "luca")
            job = session.get_one(Job, 1)
        assert (folder.version, folder.size, folder.owner) == ("luca.abc", 1000, "")
        assert (job.process_name, job.metrics, job.owner) == ("luca_1", {"auc": 0.9}, "")
        assert (job.environment, job.device, job.expired) == ("default", "cpu", None)
        assert job.warnings == []
        database.close()
    Database(f"sqlite:///{tmp_path}/new.sqlite").close()
    assert layout(first) == layout(tmp_path / "new.sqlite")


def test_processes_that_start_at_once_bring_it_up_to_date_once(first: Path) -> None:
    code = "import sys; from mlaas4hep.jobs.database import Database; Database(sys.argv[1]).check()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, f"sqlite:///{first}"]) for _ in range(4)
    ]
    assert [process.wait(240) for process in started] == [0] * 4
    with sqlite3.connect(first) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA,)]


def test_a_migration_that_fails_changes_nothing(first: Path) -> None:
    with sqlite3.connect(first) as connection:
        connection.execute("CREATE INDEX ix_jobs_owner ON jobs (name)")
    before = layout(first)
    with pytest.raises(MlaasError, match="can't open the database"):
        Database(f"sqlite:///{first}")
    assert layout(first) == before


def test_the_database_from_before_a_migration_is_kept(first: Path, tmp_path: Path) -> None:
    def dump(path: Path) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return list(connection.iterdump())

    before = dump(first)
    Database(f"sqlite:///{first}").close()
    assert dump(first.with_name(f"{first.stem}.schema1{first.suffix}")) == before
    assert dump(first) != before


def test_an_older_program_names_the_copy_that_it_can_read(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    Database(f"sqlite:///{path}").backup(tmp_path / f"db.schema{SCHEMA}.sqlite")
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text(f"UPDATE schema_version SET version = {SCHEMA + 1}"))
    with pytest.raises(ConflictError) as caught:
        Database(f"sqlite:///{path}")
    assert f"go back to {tmp_path}/db.schema{SCHEMA}.sqlite" in caught.value.remedy
