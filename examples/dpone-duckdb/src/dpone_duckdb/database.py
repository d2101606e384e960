"""The database of a target, as the shared SQL layer needs it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dpone.errors import DponeError, SourceError
from dpone.model.evolution import Stored
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Dialect, Reference
from dpone.sql.system import SqlSystem
from dpone.sql.values import fitted
from dpone_duckdb import types
from dpone_duckdb.connect import database_path, prepared
from dpone_duckdb.errors import failing

_ROWS = "__dpone__rows"
_MINE = "database_name = current_database() AND lower(schema_name) = lower(?)"
_OF_TABLE = f"{_MINE} AND lower(table_name) = lower(?)"
# The file belongs to this process, so a lock of this process keeps out every other writer. DuckDB has none: it lets
# transactions run side by side and fails the later one at its commit.
_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


class DuckdbDialect(Dialect):
    def encode(self, given: pa.Array, type: pa.DataType) -> list[Any]:
        """DuckDB takes Python's own objects."""
        found: list[Any] = fitted(given, type).to_pylist()
        return found

    def stores(self, type: pa.DataType) -> Stored:
        return types.stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return types.reads(native)


class Duckdb(SqlSystem):
    dialect = DuckdbDialect()
    driver = duckdb

    def __init__(self, connection: Secret | None, base: Path) -> None:
        self.path = database_path(connection, base)
        self.place = str(self.path)

    def connect(self, *, source: bool, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        if source and not self.path.exists():
            raise SourceError(f"open {self.path}", "the file does not exist", "fix the path in the connection")
        return prepared(duckdb.connect(self.path, read_only=read_only))

    def failing(self, kind: type[DponeError], failed: str) -> AbstractContextManager[None]:
        return failing(kind, failed)


class DuckdbDatabase(DbapiDatabase):
    """Looking does not create the file. What DuckDB calls a cursor is another connection, so none is made."""

    system_class = Duckdb
    system: Duckdb
    home = "'main'"
    same = "lower({}) = lower({})"

    def __init__(self, system: Duckdb) -> None:
        super().__init__(system)
        self.path = system.path
        self._lock, self._held = _locks[self.path.resolve()], False

    def start(self, lock: str) -> None:
        """DuckDB writes and syncs its log before it answers a commit."""
        self._lock.acquire()
        self._held = True
        self.execute("BEGIN TRANSACTION")

    def unlock(self) -> None:
        if self._held:
            self._held = False
            self._lock.release()

    # ---- statements

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self.failing(f"write {self.place}"):
            answer = self.connection().execute(sql, list(parameters)).fetchall()
        return int(answer[0][0]) if answer else 0

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Through Arrow: to give instants as Python objects, DuckDB would want pytz."""
        with self.failing(f"read {self.place}"):
            table = self.connection().sql(sql, params=list(parameters)).to_arrow_table()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    # ---- loading

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """Each batch is a table to DuckDB, which reads the Arrow memory as it is."""
        d, written = self.dialect, 0
        into = d.insert_into(table, [*schema.names, *lineage])
        values = ", ".join([d.columns(schema.names, "r"), *["?"] * len(lineage)])
        # DuckDB knows the clause only for tables that have something to be in conflict with.
        once = d.skip_existing(key) if (key := self.primary_key(table)) else ""
        for batch in batches:
            with self.failing(f"load {table}"):
                self.connection().register(_ROWS, pa.Table.from_batches([types.fitted(batch, schema)]))
            written += self.execute(f"{into} SELECT {values} FROM {_ROWS} AS r{once}", [*lineage.values()])
        return written

    # ---- the catalogue

    def within(self, table: Name) -> tuple[str, tuple[str, ...]]:
        """Of the views of every database that is attached."""
        where, named = super().within(table)
        return f"{where} AND i.table_catalog = current_database()", named

    def columns(self, table: Name) -> list[tuple[Any, ...]]:
        """As information_schema has them, which asks this function and takes three times as long (DuckDB 2.0)."""
        found = "column_name, data_type, is_nullable, column_default IS NOT NULL, true"
        return self.rows(f"SELECT {found} FROM duckdb_columns() WHERE {_OF_TABLE} ORDER BY column_index", _place(table))

    def schema(self, table: Name) -> pa.Schema | None:
        """A generated column counts as one that has a default: no row needs to bring it."""
        return super().schema(table) if self._exists() else None

    def tables(self, sibling_of: Name, prefix: str) -> list[Name]:
        return super().tables(sibling_of, prefix) if self._exists() else []

    def _exists(self) -> bool:
        return self._db is not None or self.path.exists()

    def is_swappable(self, table: Name, key: Sequence[str]) -> bool:
        """Told by what DuckDB's catalogue has of it. A view finds its table by name and outlives a swap."""
        schema = self.schema(table)
        if schema is None or any(f.metadata for f in schema):
            return False
        columns = f"SELECT data_type, comment FROM duckdb_columns() WHERE {_OF_TABLE} ORDER BY column_index"
        rules = f"SELECT constraint_type, constraint_column_names FROM duckdb_constraints() WHERE {_OF_TABLE}"
        ours = [("NOT NULL", [f.name]) for f in schema if not f.nullable]
        ours += [("PRIMARY KEY", [*key])] if key else []
        return (
            self.rows(columns, _place(table)) == [(self.dialect.stores(f.type).native, None) for f in schema]
            and sorted(self.rows(rules, _place(table))) == sorted(ours)
            and not self._attached(table)
        )

    def _attached(self, table: Name) -> list[str]:
        """What would be lost with the table."""
        attached = f"SELECT 'index ' || index_name AS what FROM duckdb_indexes() WHERE {_OF_TABLE} UNION \
            SELECT 'a reference from ' || table_name FROM duckdb_constraints() \
            WHERE lower(referenced_table) = lower(?) UNION \
            SELECT 'a comment' FROM duckdb_tables() WHERE {_OF_TABLE} AND comment IS NOT NULL"
        return [what for (what,) in self.rows(attached, (*_place(table), table.last, *_place(table)))]

    def unfit(self, table: Name, by: Collection[str]) -> tuple[str, str] | None:
        """A collation: nothing switches it off."""
        sql = f"SELECT 1 FROM duckdb_tables() WHERE {_OF_TABLE} AND contains(upper(sql), ' COLLATE ')"
        collated = self.rows(sql, _place(table))
        return ("a column has a collation", "load into a table without, and make a view with it") if collated else None

    def identity(self, table: Name, column: str = "") -> str:
        """A table by its text."""
        sql = f"SELECT sql FROM duckdb_tables() WHERE {_OF_TABLE}"
        return "" if column else str(self.rows(sql, _place(table))[0][0])

    def dependants(self, table: Name, column: str = "") -> list[str]:
        """DuckDB alters no table that has an index. A view is told by its text, which has the name somewhere."""
        comment = f"SELECT 1 FROM duckdb_columns() WHERE {_OF_TABLE} AND column_name = ? AND comment IS NOT NULL"
        views = "SELECT 'view ' || view_name FROM duckdb_views() WHERE NOT internal AND contains(lower(sql), lower(?))"
        attached = [*self._attached(table), *(view for (view,) in self.rows(views, (table.last,)))]
        return [*attached, "a comment"] if column and self.rows(comment, (*_place(table), column)) else attached

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
