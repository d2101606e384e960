"""``dpone.sql.lock_table``: locks for a server that has none by name, here on one that has, by its own driver."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres.target import Target

from dpone.errors import Category, ErrorCodes, SinkError
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.sql.dialect import Dialect, Reference, transaction
from dpone.sql.lock_table import LockTable
from dpone.sql.system import SqlSystem


class Words(Dialect):
    kept = {"text": "text"}  # noqa: RUF012 - as a connector writes it
    placeholder = "%s"


class System(SqlSystem):
    dialect = Words()
    driver = psycopg
    codes = ErrorCodes(sqlstates={"55P03": Category.TRANSIENT})
    schema = ""

    def __init__(self, connection: Secret | None, base: Path) -> None:
        self.url, self.place = connection.reveal() if connection else "", "here"

    def connect(self, *, source: bool) -> Any:
        options = f"-c lock_timeout=300 -c search_path={self.schema}"
        return psycopg.connect(self.url, autocommit=True, options=options)


class Locking(LockTable):
    system_class = System

    def hold(self, table: Name) -> None:
        self.lock(f"table {table}")

    def references(self, table: Name) -> list[Reference]:
        return []


class ByCalls(Locking):
    """PEP 249 to the letter: the driver begins its transactions by itself."""

    autocommit = False

    def connect(self) -> Any:
        db = super().connect()
        db.autocommit = False
        return db


@pytest.fixture(params=[Locking, ByCalls])
def kind(request: pytest.FixtureRequest) -> type[Locking]:
    found: type[Locking] = request.param
    return found


def made(kind: type[Locking], target: Target) -> Locking:
    system = System(Secret(target.server.url), Path())
    system.schema = target.schema
    return kind(system)


def locked(db: Locking, lock: str) -> bool:
    """Whether another transaction has the lock."""
    try:
        with transaction(db, lock):
            return False
    except SinkError as error:
        return error.category is Category.TRANSIENT


def test_one_transaction_has_a_lock(kind: type[Locking], target: Target) -> None:
    """Another one of the same text waits until the limit; one of another text goes on; the end frees it."""
    with closing(made(kind, target)) as one, closing(made(kind, target)) as two:
        with transaction(one, "a"):
            assert [locked(two, lock) for lock in ("a", "b")] == [True, False]
            one.hold(Name(("t",)))
            assert [locked(two, lock) for lock in ("table t", "a")] == [True, True]
        assert not any(locked(two, lock) for lock in ("a", "table t"))
        with pytest.raises(ZeroDivisionError), transaction(one, "a"):
            raise ZeroDivisionError
        assert not locked(two, "a")


def test_loads_of_one_target_wait_for_each_other(kind: type[Locking], target: Target) -> None:
    """``writes`` takes a lock of the target until the end of the commit, however its name is written."""
    with closing(made(kind, target)) as one, closing(made(kind, target)) as two:
        with transaction(one, "a"):
            one.writes(Name(("t",)))
            one.writes(Name(("t",)))
            for name, waits in ((("Public", "T"), True), (("u",), False)):
                with transaction(two, "b"):
                    if not waits:
                        two.writes(Name(name))
                        continue
                    with pytest.raises(SinkError) as caught:
                        two.writes(Name(name))
                    assert caught.value.category is Category.TRANSIENT
        with transaction(two, "b"):
            two.writes(Name(("t",)))


def test_the_lock_outlives_ddl_that_commits(kind: type[Locking], target: Target) -> None:
    """It is held by a connection of its own, so that a COMMIT in the middle of the transaction does not free it."""
    with closing(made(kind, target)) as one, closing(made(kind, target)) as two:
        with transaction(one, "a"):
            one.execute("CREATE TABLE t (x text)")
            one.connection().execute("COMMIT")
            assert locked(two, "a")
        assert one.rows("SELECT count(*) FROM t") == [(0,)]


def test_a_connection_that_dies_frees_its_lock(kind: type[Locking], target: Target) -> None:
    """The server rolls back what the process had open."""
    with closing(made(kind, target)) as one, closing(made(kind, target)) as two:
        one.begin("a")
        one._other.close()
        one.connection().close()
        assert not locked(two, "a")


def test_the_table_is_made_once(kind: type[Locking], target: Target) -> None:
    """Several processes that begin at the same time each find it, or make it."""

    def work(db: Locking) -> Sequence[Any]:
        with closing(db), transaction(db, f"{id(db)}"):
            return db.rows("SELECT 1")

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(work, [made(kind, target) for _ in range(4)])] == [[(1,)]] * 4


def test_no_line_stays(kind: type[Locking], target: Target) -> None:
    """No lock is ever committed."""
    with closing(made(kind, target)) as db:
        with transaction(db, "a"):
            pass
        assert db.rows('SELECT count(*) FROM "__dpone__lock"') == [(0,)]
