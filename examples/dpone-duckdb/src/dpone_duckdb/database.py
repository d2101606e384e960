"""The database of a target, as the shared SQL layer needs it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dpone.errors import SinkError
from dpone.evolution import Stored
from dpone.schema import DEFAULT, Name
from dpone.sql.dialect import Database, Dialect, Reference
from dpone_duckdb import types
from dpone_duckdb.connect import connect
from dpone_duckdb.errors import failing

_ROWS = "__dpone__rows"
_MINE = "database_name = current_database() AND schema_name = ?"
_OF_TABLE = f"{_MINE} AND lower(table_name) = lower(?)"
# The file belongs to this process, so a lock of this process keeps out every other writer. DuckDB has none: it lets
# transactions run side by side and fails the later one at its commit.
_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


class DuckdbDialect(Dialect):
    def stores(self, type: pa.DataType) -> Stored:
        return types.stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return types.reads(native)

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        return f"{left} IS DISTINCT FROM {right}"

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        wider = self.stores(after.type).native
        return [f"ALTER TABLE {self.name(table)} ALTER COLUMN {self.quote(before.name)} TYPE {wider}"]


class DuckdbDatabase(Database):
    """``dpone.sql.dialect.Database``. Opened when first used; looking does not create the file."""

    def __init__(self, path: Path) -> None:
        self.dialect: Dialect = DuckdbDialect()
        self.path = path
        self._db: duckdb.DuckDBPyConnection | None = None
        self._lock, self._held = _locks[path.resolve()], False

    def connection(self) -> duckdb.DuckDBPyConnection:
        if self._db is None:
            self._db = connect(self.path, SinkError, create=True)
        return self._db

    def close(self) -> None:
        self.rollback()
        if self._db is not None:
            self._db.close()
            self._db = None

    # ---- transactions

    def begin(self, lock: str) -> None:
        self._lock.acquire()
        self._held = True
        try:
            self.execute("BEGIN TRANSACTION")
        except BaseException:
            self._release()
            raise

    def commit(self) -> None:
        """DuckDB writes and syncs its log before it answers."""
        super().commit()
        self._release()

    def rollback(self) -> None:
        if self._held:
            # A commit that failed has ended the transaction already.
            with suppress(SinkError):
                self.execute("ROLLBACK")
            self._release()

    def _release(self) -> None:
        self._held = False
        self._lock.release()

    # ---- statements

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with failing(SinkError, f"write {self.path}"):
            answer = self.connection().execute(sql, list(parameters)).fetchall()
        return int(answer[0][0]) if answer else 0

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Through Arrow: to give instants as Python objects, DuckDB would want pytz."""
        with failing(SinkError, f"read {self.path}"):
            table = self.connection().sql(sql, params=list(parameters)).to_arrow_table()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def schema(self, table: Name) -> pa.Schema | None:
        """A generated column counts as one that has a default: no row needs to bring it."""
        if self._db is None and not self.path.exists():
            return None
        sql = 'SELECT name, type, NOT "notnull", dflt_value IS NOT NULL FROM pragma_table_info(?)'
        try:
            columns = self.rows(sql, [self.dialect.name(table)])
        except SinkError as error:
            if isinstance(error.__cause__, duckdb.CatalogException):
                return None
            raise
        return pa.schema(
            [pa.field(n, types.reads(t), null, {DEFAULT: b"yes"} if own else None) for n, t, null, own in columns]
        )

    # ---- loading

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """Each batch is a table to DuckDB, which reads the Arrow memory as it is."""
        d, written = self.dialect, 0
        into = f"INSERT INTO {d.name(table)} ({d.columns([*schema.names, *lineage])})"
        values = ", ".join([d.columns(schema.names, "r"), *["?"] * len(lineage)])
        # DuckDB knows the clause only for tables that have something to be in conflict with.
        once = " ON CONFLICT DO NOTHING" if self._constraints(table, "PRIMARY KEY") else ""
        for batch in batches:
            with failing(SinkError, f"load {table}"):
                self.connection().register(_ROWS, pa.Table.from_batches([types.fitted(batch, schema)]))
            written += self.execute(f"{into} SELECT {values} FROM {_ROWS} AS r{once}", [*lineage.values()])
        return written

    def unique(self, table: Name, key: Sequence[str]) -> bool:
        return any({*columns} == {*key} for _, columns in self._constraints(table, "PRIMARY KEY", "UNIQUE"))

    def primary_key(self, table: Name) -> tuple[str, ...]:
        return next((tuple(columns) for _, columns in self._constraints(table, "PRIMARY KEY")), ())

    def _constraints(self, table: Name, *kinds: str) -> list[tuple[Any, ...]]:
        sql = f"SELECT constraint_type, constraint_column_names FROM duckdb_constraints() WHERE {_OF_TABLE}"
        return [found for found in self.rows(sql, _place(table)) if not kinds or found[0] in kinds]

    def plain(self, table: Name, key: Sequence[str]) -> bool:
        """Told by what DuckDB's catalogue has of it. A view finds its table by name and outlives a swap."""
        schema = self.schema(table)
        if schema is None or any(f.metadata for f in schema):
            return False
        columns = self.rows(f"SELECT data_type, comment FROM duckdb_columns() WHERE {_OF_TABLE} ORDER BY column_index",
                            _place(table))  # fmt: skip
        ours = [("NOT NULL", [f.name]) for f in schema if not f.nullable]
        ours += [("PRIMARY KEY", [*key])] if key else []
        return (
            columns == [(self.dialect.stores(f.type).native, None) for f in schema]
            and sorted(self._constraints(table)) == sorted(ours)
            and not self._hanging(table)
        )

    def _hanging(self, table: Name) -> list[str]:
        """What would be lost with the table."""
        hanging = f"SELECT 'index ' || index_name AS what FROM duckdb_indexes() WHERE {_OF_TABLE} UNION \
            SELECT 'a reference from ' || table_name FROM duckdb_constraints() \
            WHERE lower(referenced_table) = lower(?) UNION \
            SELECT 'a comment' FROM duckdb_tables() WHERE {_OF_TABLE} AND comment IS NOT NULL"
        return [what for (what,) in self.rows(hanging, (*_place(table), table.last, *_place(table)))]

    def collated(self, table: Name) -> bool:
        sql = f"SELECT 1 FROM duckdb_tables() WHERE {_OF_TABLE} AND contains(upper(sql), ' COLLATE ')"
        return bool(self.rows(sql, _place(table)))

    def tables(self, beside: Name, prefix: str) -> list[Name]:
        if self._db is None and not self.path.exists():
            return []
        sql = "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND database_name = current_database() \
            AND lower(schema_name) = lower(?) AND starts_with(table_name, ?)"
        return [beside.sibling(name) for (name,) in self.rows(sql, (_place(beside)[0], prefix))]

    def identity(self, table: Name, column: str = "") -> str:
        """A table by its text."""
        sql = f"SELECT sql FROM duckdb_tables() WHERE {_OF_TABLE}"
        return "" if column else str(self.rows(sql, _place(table))[0][0])

    def dependants(self, table: Name, column: str = "") -> list[str]:
        """DuckDB alters no table that has an index. A view is told by its text, which has the name somewhere."""
        comment = f"SELECT 1 FROM duckdb_columns() WHERE {_OF_TABLE} AND column_name = ? AND comment IS NOT NULL"
        views = "SELECT 'view ' || view_name FROM duckdb_views() WHERE NOT internal AND contains(lower(sql), lower(?))"
        hanging = [*self._hanging(table), *(view for (view,) in self.rows(views, (table.last,)))]
        return [*hanging, "a comment"] if column and self.rows(comment, (*_place(table), column)) else hanging

    def hold(self, table: Name) -> None:
        """The file has one process that writes, and that one transaction of dpone at a time (``begin``)."""

    def references(self, table: Name) -> list[Reference]:
        """DuckDB has no ON DELETE action, and puts no check off."""
        sql = (
            "SELECT schema_name, table_name, constraint_column_names, referenced_column_names "
            "FROM duckdb_constraints() WHERE constraint_type = 'FOREIGN KEY' AND database_name = current_database() "
            "AND lower(referenced_table) = lower(?) ORDER BY ALL"
        )
        found = self.rows(sql, (table.last,))
        return [Reference(Name((s, t)), tuple(zip(mine, to, strict=True)), immediate=True) for s, t, mine, to in found]


def _place(table: Name) -> tuple[str, str]:
    return (table.parts[-2] if len(table.parts) > 1 else "main", table.last)
