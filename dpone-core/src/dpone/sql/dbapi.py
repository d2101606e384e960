"""What the Databases over DB-API drivers (PEP 249) share: the connection, transactions by statements, and a load by
INSERT. A connector adds how it connects, its lock, and its driver's errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any, ClassVar

import pyarrow as pa

from dpone.errors import DataError, DponeError
from dpone.model.schema import Name
from dpone.sql import values
from dpone.sql.dialect import Database, Dialect
from dpone.sql.values import Unstorable

_DDL = {"CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE", "COMMENT"}


class DbapiDatabase(Database):
    """``Database`` over one connection, opened when first used and in autocommit mode, so that statements begin and end
    its transactions. A connector gives ``connect``, ``failing``, ``start``, and ``unlock`` where its lock asks for it.

    place       what it writes, for people: no user, no password
    autocommit  False: the driver has no such mode, begins a transaction before the first statement, and ends it by
                ``commit`` and ``rollback`` of the connection (PEP 249). Then a statement outside of ``begin`` is
                committed at once, and so is DDL, with all before it, where the dialect says that DDL commits
    """

    autocommit: ClassVar[bool] = True

    def __init__(self, dialect: Dialect, place: str) -> None:
        self.dialect, self.place = dialect, place
        self._db: Any = None
        self._begun = False

    # ---- what a connector gives

    @abstractmethod
    def connect(self) -> Any:
        """A new connection in autocommit mode, with a limit to every wait. Raises SinkError."""

    @abstractmethod
    def failing(self, failed: str) -> AbstractContextManager[None]:
        """Raise the driver's errors as SinkError, or DataError where a row is at fault, with the driver's as cause."""

    @abstractmethod
    def start(self, lock: str) -> None:
        """Of ``begin``: take the lock and start the transaction, in the order that the server wants. What it has done
        is undone by ``rollback`` if it raises."""

    def unlock(self) -> None:
        """Let go of a lock that does not end with the transaction. The transaction has ended; there may be no
        connection any more (``self._db`` is None), and ``start`` may have failed before it had the lock."""

    def counted(self, cursor: Any) -> int:
        """How many rows the statement found that the cursor has just run; whatever number, where there is none."""
        return int(cursor.rowcount)

    def insert(self, cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Run an INSERT of ``load`` for each row. It is for a driver with a faster way, and for a server without words
        for ``skip_existing``, where what fails by a key that is there is left out."""
        cursor.executemany(sql, rows)

    def encode(self, given: pa.Array, type: pa.DataType) -> list[Any]:
        """Values for a column of ``type`` as the driver binds them, NULL as None. Raises Refused."""
        return values.encode(given, self.dialect.stores(type).arrow)

    # ---- the connection

    def connection(self) -> Any:
        if self._db is None:
            self._db = self.connect()
        return self._db

    def close(self) -> None:
        """The server rolls back what is open."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(Exception):  # a connection that is gone is closed
                db.close()
        self._end()

    # ---- transactions

    def begin(self, lock: str) -> None:
        self._begun = True
        try:
            self.start(lock)
        except BaseException:
            self.rollback()
            raise

    def commit(self) -> None:
        if self.autocommit:
            super().commit()
        else:
            with self.failing(f"commit to {self.place}"):
                self.connection().commit()
        self._end()

    def rollback(self) -> None:
        """A transaction that cannot be rolled back ends with its connection."""
        if self._begun:
            try:
                if self._db is not None and self.autocommit:
                    self.execute("ROLLBACK")
                elif self._db is not None:
                    with self.failing(f"roll back {self.place}"):
                        self._db.rollback()
                self._end()
            except DponeError:
                self.close()

    def _end(self) -> None:
        if self._begun:
            self.unlock()
            self._begun = False

    # ---- statements

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self.failing(f"write {self.place}"), self._ended(sql), closing(self.connection().cursor()) as cursor:
            cursor.execute(sql, tuple(parameters))
            return max(self.counted(cursor), 0)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.failing(f"read {self.place}"), self._ended(sql), closing(self.connection().cursor()) as cursor:
            cursor.execute(sql, tuple(parameters))
            return list(cursor.fetchall()) if cursor.description else []  # PEP 249: an error after what has no rows

    @contextmanager
    def _ended(self, sql: str) -> Iterator[None]:
        """Of a driver without autocommit: what is its own transaction ends with the block."""
        ends = not self._begun or (self.dialect.ddl_commits and sql.split(None, 1)[0].upper() in _DDL)
        if self.autocommit or not ends:
            yield
            return
        try:
            yield
            self._db.commit()
        except BaseException:
            with suppress(Exception):  # what failed before says why
                self._db.rollback()
            raise

    # ---- loading

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """By INSERT; override it where the server has a faster way."""
        d, key = self.dialect, self.primary_key(table)
        own = {name: pa.scalar(value) for name, value in lineage.items()}
        constants = [self._encoded(name, pa.array([v.as_py()], v.type), v.type)[0] for name, v in own.items()]
        holes = ", ".join([d.placeholder] * (len(schema) + len(own)))
        into = f"{d.insert_into(table, [*schema.names, *own])} VALUES ({holes}){d.skip_existing(key) if key else ''}"
        before, given = self._count(table) if key else 0, 0
        for batch in batches:
            columns = [self._encoded(field.name, batch.column(field.name), field.type) for field in schema]
            columns += [[value] * batch.num_rows for value in constants]
            with self.failing(f"load {table}"), closing(self.connection().cursor()) as cursor:
                self.insert(cursor, into, list(zip(*columns, strict=True)))
            given += batch.num_rows
        return self._count(table) - before if key else given  # what executemany counts is the driver's secret

    def _encoded(self, name: str, given: pa.Array, type: pa.DataType) -> list[Any]:
        """Without the value: it may be a secret."""
        try:
            return self.encode(given, type)
        except Unstorable as error:
            todo = error.todo or "correct the value, or cast the column in the source"
            raise DataError("load rows", f"column {name}: {error.reason}", todo) from error

    def _count(self, table: Name) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)}")[0][0])
