"""A Database over a DB-API driver (PEP 249): the connection, transactions, and a load by INSERT. A connector adds its
lock and what its catalogue has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any, ClassVar, Self

import pyarrow as pa

from dpone.errors import DataError, DponeError, SinkError, SourceError
from dpone.model.pipeline import SinkSpec, StateSpec
from dpone.model.schema import Name
from dpone.sql.catalog import Catalog
from dpone.sql.system import SqlSystem
from dpone.sql.values import Unstorable

_DDL = {"CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE", "COMMENT"}


class DbapiDatabase(Catalog):
    """``Database`` over one connection of a system, opened when first used and in autocommit mode, so that statements
    begin and end its transactions. A connector names its system, writes ``start``, and ``unlock`` if its lock outlives
    the transaction, and says what its catalogue has (``Catalog``).

    system_class  the ``SqlSystem`` of the connector
    autocommit    False if the driver has no such mode: it begins a transaction before the first statement, and
                  ``commit`` and ``rollback`` of the connection end it (PEP 249). A statement outside of ``begin`` is
                  then committed at once. So is DDL, and all before it, if the dialect says ``ddl_commits``
    """

    system_class: ClassVar[type[SqlSystem]]
    autocommit: ClassVar[bool] = True

    def __init__(self, system: SqlSystem) -> None:
        self.system, self.dialect, self.place = system, system.dialect, system.place
        self._db: Any = None
        self._begun = False
        self._error: type[DponeError] = SinkError

    @classmethod
    def of(cls, spec: SinkSpec | StateSpec) -> Self:
        """The database that the ``connection`` of a sink or state names. Raises ConfigError."""
        return cls(cls.system_class(spec.connection, spec.base))

    @classmethod
    def over(cls, system: SqlSystem, connection: Any) -> Self:
        """For questions to the catalogue over the connection of a source, whose transaction continues."""
        db = cls(system)
        db._db, db._begun, db._error = connection, True, SourceError
        return db

    # ---- what a connector writes

    def connect(self) -> Any:
        """A new connection. Raises SinkError."""
        with self.failing(f"connect to {self.place}"):
            return self.system.connect(source=False)

    def failing(self, failed: str) -> AbstractContextManager[None]:
        """Raise the driver's errors as SinkError, or as DataError where a row is at fault."""
        return self.system.failing(self._error, failed)

    @abstractmethod
    def start(self, lock: str) -> None:
        """For ``begin``: take the lock and start the transaction, in the order that the server needs. If it raises,
        ``rollback`` undoes what it did."""

    def unlock(self) -> None:
        """Release a lock that does not end with the transaction. The transaction has ended. The connection may be gone
        (``self._db`` is None), and ``start`` may have failed before it had the lock."""

    def counted(self, cursor: Any) -> int:
        """How many rows the statement found that the cursor just executed; any number if it counts none."""
        return int(cursor.rowcount)

    def insert(self, cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Run an INSERT of ``load`` for each row. Override it for a driver with a faster way."""
        cursor.executemany(sql, rows)

    # ---- the connection

    def connection(self) -> Any:
        if self._db is None:
            self._db = self.connect()
        return self._db

    def close(self) -> None:
        """The server rolls back what is open."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(Exception):  # a lost connection counts as closed
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
            return list(cursor.fetchall()) if cursor.description else []  # PEP 249: it raises without a result set

    @contextmanager
    def _ended(self, sql: str) -> Iterator[None]:
        """For a driver without autocommit: a statement that is its own transaction is committed with the block."""
        ends = not self._begun or (self.dialect.ddl_commits and sql.split(None, 1)[0].upper() in _DDL)
        if self.autocommit or not ends:
            yield
            return
        try:
            yield
            self._db.commit()
        except BaseException:
            with suppress(Exception):  # the first error is raised
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
        skipping = d.skip_existing(key) if key else ""
        insert = self._insert_new if key and not skipping else self.insert
        into = f"{d.insert_into(table, [*schema.names, *own])} VALUES ({holes}){skipping}"
        before, given = self._count(table) if key else 0, 0
        for batch in filter(len, batches):  # pyodbc's executemany refuses an empty list of rows
            columns = [self._encoded(field.name, batch.column(field.name), field.type) for field in schema]
            columns += [[value] * batch.num_rows for value in constants]
            with self.failing(f"load {table}"), closing(self.connection().cursor()) as cursor:
                insert(cursor, into, list(zip(*columns, strict=True)))
            given += batch.num_rows
        return self._count(table) - before if key else given  # drivers disagree on what executemany counts

    def _insert_new(self, cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Insert row by row where ``skip_existing`` is empty; a row whose key exists fails alone and is skipped."""
        for row in rows:
            try:
                cursor.execute(sql, row)
            except self.system.driver.Error as error:
                if not self.system.repeats(error):
                    raise

    def _encoded(self, name: str, given: pa.Array, type: pa.DataType) -> list[Any]:
        """The error does not contain the value, which may be a secret."""
        try:
            return self.dialect.encode(given, type)
        except Unstorable as error:
            todo = error.todo or "correct the value, or cast the column in the source"
            raise DataError("load rows", f"column {name}: {error.reason}", todo) from error

    def _count(self, table: Name) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)}")[0][0])
