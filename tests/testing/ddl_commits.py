"""SQLite as if its DDL committed by itself, as that of MySQL, MariaDB and Oracle does: before a DDL statement it
commits what is open, and after it the statement. A sink that keeps to the order of ``dpone.sql`` over it, and one that
does not.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.testing.faulty import fails, honest

from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.errors import SinkError
from dpone.model.schema import Name
from dpone.sql.writer import SqlWriter

DDL = re.compile(r"\s*(CREATE|DROP|ALTER|TRUNCATE|RENAME)\b", re.IGNORECASE)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class CopyingDialect(SqliteDialect):
    """It widens a column by a new one, in four statements."""

    ddl_commits = True


class CommittingDialect(CopyingDialect):
    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        """At one stroke, as an ALTER COLUMN."""
        return [";".join(statements)] if (statements := super().widen_column(table, before, after)) else []


class CommittingDatabase(SqliteDatabase):
    """The lock of a transaction is one of the session: a file beside the database, which DDL does not let go of."""

    def __init__(self, path: Path, timeout: float, nan_to_null: bool = False) -> None:
        super().__init__(path, timeout, nan_to_null)
        self.dialect = CommittingDialect()
        self._lock: int | None = None

    def begin(self, lock: str) -> None:
        self.connection()
        held, end = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR), time.monotonic() + self._timeout
        try:
            while not _locked(held):
                if time.monotonic() > end:
                    raise SinkError("begin", "another transaction holds the lock", "run again")
                time.sleep(0.005)
            super().begin(lock)
        except BaseException:
            os.close(held)
            raise
        self._lock = held

    def commit(self) -> None:
        super().commit()
        self._release()

    def rollback(self) -> None:
        super().rollback()
        self._release()

    def close(self) -> None:
        super().close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        db = self.connection()
        if not (DDL.match(sql) and db.in_transaction):
            return super().execute(sql, parameters)
        db.execute("COMMIT")
        try:
            if ";" in sql:
                db.executescript(f"BEGIN;{sql};COMMIT")
                return 0
            return super().execute(sql, parameters)
        finally:
            db.execute("BEGIN IMMEDIATE")
            db.execute("PRAGMA defer_foreign_keys=ON")

    def take_out(self, table: Name, column: str = "") -> str:
        """Without a savepoint, which DDL would commit."""
        if attached := self._attached(table):
            return f"there is {', '.join(attached)}"
        try:
            self.execute(self.dialect.drop_column(table, column) if column else self.dialect.drop_table(table))
        except SinkError as error:
            return str(error.__cause__)
        return ""


@honest
class CommittingSink(SqliteSink):
    """The honest one."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db = CommittingDatabase(self._db.path, self._db._timeout, self._db._nan_to_null)


@fails(a_widening_cut_off_between_two_statements_keeps_its_column="of a widening")
class WidensByAnotherColumn(CommittingSink):
    """As is right where DDL has transactions."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db.dialect = CopyingDialect()


class _DropsFirst(SqlWriter):
    def _commit(self, *args: Any) -> Any:
        staging = self._staging

        def drop(key: str, *tables: Name) -> None:
            for table in tables:
                staging._drop(table)
                staging.forget(table)

        staging.spend = drop  # type: ignore[method-assign]
        return super()._commit(*args)


@fails(
    a_commit_cut_off_between_two_statements_is_made_good="missing rows: 0, extra rows: 2",
    also=("where_one_table_fails_all_do",),
)
class DropsBeforeItJournals(CommittingSink):
    """The order that is right where DDL has transactions: rows, DROP of the staging, journal."""

    def open(self, load: Any) -> Any:
        writer = super().open(load)
        writer.__class__ = _DropsFirst
        return writer
