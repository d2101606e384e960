"""Source: a table, a view or a query of a SQLite file, in one snapshot, whole or by cursor column."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpone.connectors.sqlite import types
from dpone.connectors.sqlite.collation import any_said, collated
from dpone.connectors.sqlite.config import SqliteSourceOptions
from dpone.connectors.sqlite.connect import connect, database_path, is_written
from dpone.connectors.sqlite.database import DECIMAL, SqliteDialect, compare_decimals
from dpone.connectors.sqlite.errors import CODES, failing
from dpone.connectors.sqlite.in_flight import SqliteInFlight
from dpone.connectors.sqlite.ranges import Ranges
from dpone.connectors.sqlite.rows import decode
from dpone.contract import Finding, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SourceError
from dpone.model.bounds import Bounds
from dpone.model.keys import compared
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, PREFIX, Name
from dpone.model.secret import Secret
from dpone.model.types import first_longer, limit_of, limited, named
from dpone.sql.cursor import Bound, Row, Value, earlier
from dpone.sql.cursored import SqlCursor
from dpone.sql.in_flight import settle
from dpone.sql.source import SqlSource, what, within_project
from dpone.sql.system import SqlSystem
from dpone.sql.values import Unstorable

_SPOOL = PREFIX + "spool"
_VIEW = PREFIX + "query"


class SqliteCursor(SqlCursor):
    """SQLite compares values regardless of the column's type: texts are above all numbers."""

    digits = "{0} NOT GLOB '*[^0-9]*' AND {0} <> ''"

    def highest(self) -> Value | None:
        """MIN in addition to MAX: SQLite sorts all numbers below all texts, so numbers below a text position would be
        lost."""
        of = f"FROM {self.source.relation} AS s"
        sql = f"SELECT (SELECT MAX({self.ordered}) {of}), (SELECT MIN({self.ordered}) {of})"
        [(high, low)] = self.source.rows(sql)
        if high is None:
            return None
        if isinstance(high, (int, float)) is not isinstance(low, (int, float)) or isinstance(high, bytes):
            found = f"cursor column {self.column} contains blobs, or both numbers and text"
            raise DataError("read by cursor", found, "use a column with one kind of values")
        return self.value(high)

    def compare(self, value: Value) -> int:
        if value.type == "text" and pa.types.is_timestamp(self.type):
            self._require_one_notation(value)
        return super().compare(value)

    def _require_one_notation(self, value: Value) -> None:
        """Texts of times sort by time only if all have the same format: 10:30 with a T sorts above 11:00 with a blank,
        10:00:00Z above 10:00:00.5Z. Checked from the day before the position, because a zone shifts a time by less than
        a day."""
        c = self.column
        sql = (
            f"SELECT COUNT(DISTINCT substr({c}, 11, 1)), COUNT(DISTINCT ltrim(substr({c}, 12), '0123456789:.')), "
            f"MIN(length({c})) < MAX(length({c})), MIN(length({c})) < 19 OR MAX({c} GLOB '*.*0') OR "
            f"MAX(ltrim(substr({c}, 12), '0123456789:.')) <> '' FROM {self.source.relation} AS s WHERE {c} >= ?"
        )
        marks, zones, lengths, matter = self.source.rows(sql, (earlier(value.text[:10], 86_400),))[0]
        if marks > 1 or zones > 1 or (lengths and matter):
            found = f"cursor column {c} has times in several notations, so they do not sort by time"
            todo = "use one notation in the source, or a query that converts them, as with strftime"
            raise DataError(f"read {self.source.name}", found, todo)


class SqliteSystem(SqlSystem):
    dialect = SqliteDialect()
    driver = sqlite3
    codes = CODES

    def __init__(self, connection: Secret | None, base: Path) -> None:
        self.path = database_path(connection, base)
        self.place = str(self.path)

    def connect(self, *, source: bool, timeout: float = 30.0) -> sqlite3.Connection:
        db = connect(self.path, timeout, SourceError, create=not source)
        db.create_collation(DECIMAL, compare_decimals)
        return db

    def failing(self, kind: type[DponeError], failed: str) -> AbstractContextManager[None]:
        return failing(kind, failed, self.path)


class SqliteSource(SqlSource):
    """The snapshot is a read transaction. In a database without WAL no other connection can commit while it lasts. If
    this run itself writes to such a file, the rows of the window are first copied to a temporary table."""

    system: SqliteSystem
    cursor = SqliteCursor

    @classmethod
    def system_of(cls, spec: SourceSpec) -> SqliteSystem:
        return SqliteSystem(spec.connection, spec.base)

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._options = spec.options if isinstance(spec.options, SqliteSourceOptions) else SqliteSourceOptions()
        self._path, self._base = self.system.path, spec.base
        self._asked = spec.query or ""
        self.relation = f"main.{self.dialect.name(self._table)}" if self._table else f'temp."{_VIEW}"'
        self._chosen = {column: named(text, "read options.columns") for column, text in self._options.columns.items()}
        self._spooled = False

    def check(self) -> list[Finding]:
        return [Finding("sqlite library", True, sqlite3.sqlite_version), *super().check()]

    def listed(self, everywhere: bool) -> Iterator[Name]:
        """Of the file: what is attached to the connection is not the pipeline's."""
        found = self.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return (Name((name,)) for (name,) in found if not name.startswith("sqlite_"))

    def identity(self) -> Mapping[str, Any]:
        relation_of = {"table": self._table.last} if self._table else what(None, self._asked)
        return {"path": within_project(self._path, self._base), **relation_of}

    # ---- the snapshot

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        window = super().window(after, request)
        try:
            if window.parts and is_written(self._path) and self.rows("PRAGMA main.journal_mode") != [("wal",)]:
                self._spool()
        except BaseException:
            self.end()
            raise
        return window

    def begin(self, after: Position | None) -> Bound | None:
        """The snapshot begins with the first read of the file; for a read by cursor, at a moment without a writer."""
        if self._incremental is None:
            self._execute("BEGIN")
            return None
        self.connection()  # an error here is not a reason to wait
        others = SqliteInFlight(self._path, self._options.busy_timeout)
        try:
            bound = settle(others, self._incremental, self.name, after)
            self._execute("BEGIN")
            self.rows("SELECT 1 FROM main.sqlite_master LIMIT 1")
        finally:
            others.release()
        return bound

    def holds(self) -> bool:
        return self._db is not None and (self._db.in_transaction or self._spooled)

    def finish(self) -> None:
        if self._spooled:
            self.disconnect()
        elif self._db.in_transaction:
            self._execute("ROLLBACK")

    def disconnect(self) -> None:
        super().disconnect()
        self._spooled = False

    def cut(self, partitions: int) -> Sequence[Bounds]:
        return Ranges(self, self._table, self._options.partition_by).split(partitions)

    def _spool(self) -> None:
        """Copy the rows of the window, then release the file."""
        self._execute("PRAGMA query_only=OFF")
        for id, reads in self._parts.items():
            for i, (rows, values) in enumerate(reads):
                select = self.statement(self._schema.names, rows)
                self._execute(f'CREATE TEMP TABLE "{_SPOOL}{id}_{i}" AS {select}', values)
        self._execute("PRAGMA query_only=ON")
        self._execute("COMMIT")
        self._spooled = True

    def spans(self, id: str) -> Iterator[Iterator[Row]]:
        if not self._spooled:
            return super().spans(id)
        return (self.stream(f'SELECT * FROM temp."{_SPOOL}{id}_{i}"') for i in range(len(self._parts[id])))

    # ---- the connection

    def connect(self) -> sqlite3.Connection:
        with self.system.failing(SourceError, f"read {self._path}"):
            db = self.system.connect(source=True, timeout=self._options.busy_timeout)
            if self._table is None:
                self._define(db)
            db.execute("PRAGMA query_only=ON")
        return db

    def _define(self, db: sqlite3.Connection) -> None:
        """The query as a temporary view: one statement, read-only, with declared types where SQLite knows them."""
        try:
            db.execute(f'CREATE TEMP VIEW "{_VIEW}" AS {self._query}')
            db.execute(f'SELECT 1 FROM temp."{_VIEW}" LIMIT 0')
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ConfigError("read the query", str(error), "use one SELECT without parameters") from error

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        with self.failing():
            self.connection().execute(sql, parameters)

    # ---- columns

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        """Types as declared, or as set in the options; otherwise inferred from the values."""
        place = (_VIEW, "temp") if self._table is None else (self._table.last, "main")
        # hidden: 1 are the inner columns of virtual tables, 2 and 3 generated ones
        sql = "SELECT name, type FROM pragma_table_xinfo(?, ?) WHERE hidden != 1 ORDER BY cid"
        found = {name: text for name, text in self.rows(sql, place) if name not in LINEAGE}
        if not found:
            raise SourceError(f"read {self.name}", f"{self._path} has no such table or view", "check the name")
        if unknown := [c for c in self._chosen if c not in found]:
            todo = f"use columns of the source: {', '.join(list(found)[:20])}"
            raise ConfigError("read options.columns", f"unknown columns: {', '.join(unknown)}", todo)
        known = {name: self._chosen.get(name) or types.declared(text) for name, text in found.items()}
        # Numbers read as text: 1 and 1.0 are equal in SQLite, unless an affinity gives both one form.
        untyped = [n for n, t in self._chosen.items() if t == pa.string() and not types.has_affinity(found[n])]
        if open_ := [name for name, type_ in known.items() if type_ is None]:
            known |= self._inferred(open_, expected)
        stated = self._options.columns
        made = pa.schema([limited(pa.field(name, type_), stated.get(name, "")) for name, type_ in known.items()])
        if any_said(self.rows):
            made = collated(made, self.relation, self.rows, self.dialect)
        return pa.schema([compared(f, "compared as numbers") if f.name in untyped else f for f in made])

    def _inferred(self, names: Sequence[str], expected: pa.Schema | None) -> dict[str, pa.DataType]:
        """Types inferred from the storage classes of all values; the target's type is kept if the values fit it."""
        d = self.dialect
        sums = ", ".join(
            f"MAX(typeof(s.{d.quote(n)}) = '{kind}')" for n in names for kind in ("integer", "real", "text", "blob")
        )
        answer = self.rows(f"SELECT {sums} FROM {self.relation} AS s")[0]
        inferred = {}
        for i, name in enumerate(names):
            whole, real, text, blob = map(bool, answer[4 * i : 4 * i + 4])
            if (whole or real) + text + blob > 1:
                found = f"column {name} has values of several kinds and no declared type"
                raise DataError(f"read {self.name}", found, f"set options.columns: {{{name}: string}}")
            wanted = expected.field(name).type if expected is not None and name in expected.names else None
            fits = wanted is not None and not (real or text or blob) and (not whole or wanted == pa.float64())
            kinds = ((blob, pa.binary()), (real, pa.float64()), (whole, pa.int64()), (True, pa.string()))
            inferred[name] = wanted if fits else next(type_ for there, type_ in kinds if there)
        return inferred

    def decode(self, field: pa.Field, given: Row) -> pa.Array:
        try:
            array = decode(given, field.type, as_text=bool(self._chosen.get(field.name) == pa.string()))
            if (most := limit_of(field)) is not None and (row := first_longer(array, most)) >= 0:
                raise Unstorable(f"more than {most} characters", row)
            return array
        except Unstorable as error:
            kind = "double" if field.type == pa.float32() else "string"
            error.todo = f"fix the value, or set options.columns: {{{field.name}: {kind}}}"
            raise
