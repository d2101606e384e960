"""One connection of a source: a read-only snapshot and the queries that run in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg
import pyarrow as pa

from dpone.errors import Category, DponeError, SourceError
from dpone.model.schema import PREFIX, Name
from dpone_postgres import types
from dpone_postgres.config import PostgresSourceOptions
from dpone_postgres.connect import connect, same_server, where
from dpone_postgres.database import PostgresDialect, numbered
from dpone_postgres.errors import failing, hidden, sqlstate
from dpone_postgres.transfer import begin_copy, end_copy
from dpone_postgres.waiting import Connection, asking, wait

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Asked(Protocol):
    """What cursors, parts and checks need from a source, read in its snapshot. table: None for a query; relation: the
    SQL after FROM."""

    name: str
    table: Name | None
    dialect: PostgresDialect

    @property
    def where(self) -> str: ...

    @property
    def relation(self) -> str: ...

    @property
    def server_version(self) -> int: ...

    def schema(self) -> pa.Schema: ...

    def columns_of(self) -> list[types.Column]: ...

    def rows(self, sql: str, given: Sequence[Any] = ()) -> list[Any]: ...

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]: ...


class Session:
    """Connects on first use. One thread at a time."""

    def __init__(self, given: Mapping[str, str], options: PostgresSourceOptions, name: str) -> None:
        self._given, self._options, self._name = given, options, name
        self._failed = f"read {name} at {where(given)}"
        self._db: Connection | None = None

    def connection(self) -> Connection:
        if self._db is None or self._db.closed:
            options = self._options
            self._db = connect(
                self._given,
                SourceError,
                lock_timeout=options.lock_timeout,
                statement_timeout=options.statement_timeout,
                row_security=options.row_security,
                silence_timeout=options.silence_timeout,
            )
        return self._db

    @contextmanager
    def _failing(self) -> Iterator[None]:
        with failing(SourceError, self._failed):
            try:
                yield
            except psycopg.Error as error:
                if (table := hidden(error)) is None or self._db is None:
                    raise
                who = f"role {self._db.info.user}, or from the owner of a view that it reads"
                todo = (
                    "read as a role with BYPASSRLS, or set source.options.row_security: on to load only the rows that "
                    "the role may see"
                )
                found = f"row security would hide rows of table {table} from {who}"
                raise SourceError(self._failed, found, todo) from error

    def another(self) -> Session:
        """Another session with the same server, also where several hosts or several addresses of one name were given:
        only that server knows a snapshot that was exported here."""
        return Session(same_server(self._given, self.connection()), self._options, self._name)

    @property
    def open(self) -> bool:
        """True while the snapshot's transaction is open."""
        idle = psycopg.pq.TransactionStatus.IDLE
        return self._db is not None and not self._db.closed and self._db.info.transaction_status != idle

    def begin(self, table: str | None = None) -> None:
        """Begin a transaction. READ ONLY: a query cannot write, whatever functions it calls. ``table`` is locked before
        the snapshot is taken (LOCK, Notes): a TRUNCATE or a rewriting ALTER is not MVCC-safe, so that one between the
        two would be visible through the snapshot (MVCC Caveats)."""
        self.run(_BEGIN)
        if table is None:
            return
        try:
            self.run(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        except DponeError as error:
            if sqlstate(error) not in ("42809", "42P01", "42501", "3F000"):
                raise
            self.end()  # not a table, or not readable: the next query gives the better message
            self.run(_BEGIN)

    def export(self) -> str:
        """A name by which other sessions can use this snapshot while this transaction is open (SET TRANSACTION)."""
        return str(self.rows("SELECT pg_catalog.pg_export_snapshot()")[0][0])

    def join(self, snapshot: str) -> None:
        """Begin with the snapshot of another session. Raises SourceError if it is gone."""
        self.begin()
        try:
            self.run(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        except DponeError as error:
            self.close()
            if sqlstate(error) not in ("22023", "42704", "55000"):
                raise
            raise lost_snapshot(self._failed) from error.__cause__

    def end(self) -> None:
        if self._db is None:
            return
        if self._db.closed or self._db.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            self.close()  # inside a COPY that was not read to its end
        elif self.open:
            try:
                self.run("ROLLBACK")
            except DponeError:
                self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def run(self, sql: str, given: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        with self._failing():
            return asking(self.connection(), sql).execute(numbered(sql), given or None)

    def rows(self, sql: str, given: Sequence[Any] = ()) -> list[Any]:
        with self._failing():
            return self.run(sql, given).fetchall()

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows of a query of any size, a few thousand at a time."""
        db = self.connection()
        db.doing = "FETCH"
        with self._failing(), db.cursor(PREFIX + "rows") as cursor:
            cursor.itersize = 5_000
            yield from cursor.execute(sql)

    def copy(self, sql: str, rows: int, size: int) -> Iterator[list[Any]]:
        """Messages of ``COPY (sql) TO STDOUT (FORMAT binary)``, one row each (libpq, PQgetCopyData). The first one also
        has the header; the trailer comes as a message of its own, or with what follows. Yields lists of ``rows``
        messages, or fewer once they have ``size`` bytes.

        Reads below psycopg's own iterator, which takes three times as long per row, and never with a blocking call,
        which would hold the interpreter's lock.
        """
        db = self.connection()
        with self._failing():
            begin_copy(db, sql)
            raw = db.pgconn
            get, done = raw.get_copy_data, False
            block: list[Any] = []
            left, room, dry = rows, size, False
            try:
                while True:
                    length, message = get(1)
                    if length > 0:
                        # As bytes, which the garbage collector does not track: thousands of memoryviews trigger it.
                        block.append(bytes(message))
                        left -= 1
                        room -= length
                        if room <= 0 or left <= 0:
                            yield block
                            block, left, room = [], rows, size
                    elif length < 0:
                        break
                    elif dry:
                        wait(db)
                    else:  # polling once is cheaper than waiting, which would hand the interpreter to the other thread
                        raw.consume_input()
                    dry = length == 0
                done = True
            finally:
                if not done:
                    db.close()
            end_copy(db)
            yield block


def lost_snapshot(failed: str) -> SourceError:
    """Transient: the next attempt opens a window with a new snapshot."""
    found = SourceError(failed, "the window's snapshot no longer exists", "run again: that opens a new window")
    found.category = Category.TRANSIENT
    return found
