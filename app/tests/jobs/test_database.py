import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mlaas4hep.core.errors import ConflictError, MlaasError, UsageError
from mlaas4hep.jobs.database import SCHEMA, Counter, Database


def test_a_newer_schema_is_refused_naming_both_versions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db.sqlite"
    Database(url).close()
    with create_engine(url).begin() as connection:
        connection.execute(text(f"UPDATE schema_version SET version = {SCHEMA + 1}"))
    with pytest.raises(ConflictError, match=f"schema {SCHEMA + 1}.*knows {SCHEMA}"):
        Database(url)


@pytest.mark.parametrize("url", ["nonsense", "dbase://x/y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="MLAAS4HEP_DATABASE"):
        Database(url)


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(UsageError, match="cx_Oracle") as caught:
        Database("oracle+cx_oracle://user:secret@host/name")
    assert "pip install" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_a_database_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"no database, " * 100)
    with pytest.raises(MlaasError, match=r"can't open the database sqlite:.*db\.sqlite"):
        Database(f"sqlite:///{tmp_path}/db.sqlite")


def test_processes_that_start_at_once_share_one_new_database(tmp_path: Path) -> None:
    code = "import sys; from mlaas4hep.jobs.database import Database; Database(sys.argv[1]).check()"
    url = f"sqlite:///{tmp_path}/db.sqlite"
    started = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4


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
