"""Source: a table, a view or a query of a DuckDB file, in one snapshot, whole or by cursor column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from fnmatch import fnmatchcase
from typing import Any

import duckdb
import pyarrow as pa

from dpone.contract import BatchStream, Finding, Part, Window, WindowRequest
from dpone.errors import ConfigError, DponeError, SourceError
from dpone.pipeline import SourceSpec
from dpone.position import Position
from dpone.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import CursorPlan, Reading, Span, Value, cursor_column, digest, earlier, less, require_same
from dpone_duckdb.config import DuckdbSourceOptions
from dpone_duckdb.connect import connect, database_path, table_name
from dpone_duckdb.database import DuckdbDialect
from dpone_duckdb.errors import failing
from dpone_duckdb.types import expression, fitted, reads

_BATCH_ROWS = 10_000
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_DIALECT = DuckdbDialect()


class DuckdbSource:
    """``contract.Source``. The snapshot is a read transaction from ``window`` to the end of the read."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._options: DuckdbSourceOptions = spec.options
        self._path = database_path(spec.connection, spec.base)
        self.relation = f"({(spec.query or '').strip().rstrip(';')}\n)"
        if spec.table is not None:
            self.relation = _DIALECT.name(table_name(spec.table))
        self.name = str(spec.table or "the query")
        self._db: duckdb.DuckDBPyConnection | None = None
        self._snapshot = False
        self._cursor: _Cursor | None = None
        self._native: dict[str, str] = {}
        self._columns: dict[str, str] = {}
        self._schema, self._reading, self._batch_rows = pa.schema([]), Reading(Position("", {}, {})), _BATCH_ROWS

    def check(self) -> list[Finding]:
        findings = [Finding("duckdb library", True, duckdb.__version__)]
        try:
            columns = len(self.schema())
        except DponeError as error:
            return [*findings, Finding("source", False, error.found, error.todo)]
        finally:
            self.close()
        return [*findings, Finding("source", True, f"{self.name} in {self._path}: {columns} columns")]

    def tables(self, pattern: str) -> list[str]:
        """Tables and views; those outside the schema ``main`` as ``schema.name``."""
        sql = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database()"
        found = self.rows(sql)
        names = [Name((name,) if schema == "main" else (schema, name)) for schema, name in found]
        return sorted(str(n) for n in names if fnmatchcase(str(n), pattern) and not n.last.startswith(PREFIX))

    def schema(self) -> pa.Schema:
        """Lineage of an earlier load is left out: each target gets its own."""
        with failing(SourceError, f"read {self.name}"):
            relation = self._connection().sql(f"FROM {self.relation} AS s")
        found = zip(relation.columns, map(str, relation.types), strict=True)
        self._native = {name: native for name, native in found if name not in LINEAGE}
        quoted = {name: _DIALECT.quote(name) for name in self._native}
        self._columns = {n: f"{expression(t, f's.{quoted[n]}')} AS {quoted[n]}" for n, t in self._native.items()}
        return pa.schema([(name, reads(native)) for name, native in self._native.items()])

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Opens the snapshot. Without ``incremental`` every window is the whole table."""
        self.close()
        try:
            with failing(SourceError, f"read {self.name}"):
                self._connection().execute("BEGIN TRANSACTION READ ONLY")
            self._schema, self._batch_rows = self.schema(), request.batch_rows or _BATCH_ROWS
            self._reading = reading = self._plan(after, request)
        except BaseException:
            self.close()
            raise
        self._snapshot = True
        parts = (Part("all"),) if reading.spans else ()
        whole = request.whole or self._options.incremental is None
        return Window(reading.position, parts, False, self._schema, whole, True, reading.proof, reading.warnings)

    def _plan(self, after: Position | None, request: WindowRequest) -> Reading:
        what = hashlib.sha256(self.relation.encode()).hexdigest()[:16] if self._spec.query else self.name
        identity = {"path": self._where_it_is(), "query" if self._spec.query else "table": what}
        if incremental := self._options.incremental:
            if incremental.by != "cursor":
                raise ConfigError("read source", f"incremental.by: {incremental.by}", "use by: cursor")
            names = tuple(self._schema.names)
            column = cursor_column(incremental, names, request.mode, self.name)
            self._cursor = _Cursor(self, column, self._native[column])
            plan = CursorPlan(self._cursor, incremental, identity, names, request.mode, self.name)
            return plan.reading(after, whole=request.whole)
        if after is not None and not request.whole:
            require_same(after, "snapshot", identity, self.name)
        value = {"taken_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        position = Position("snapshot", identity, value, after.epoch if after else 0)
        return Reading(position, (Span(),), "one snapshot holds the whole of the source")

    def _where_it_is(self) -> str:
        """Relative where the file is part of the project: a project that is moved as a whole has the same source."""
        inside = self._path.is_relative_to(self._spec.base)
        return self._path.relative_to(self._spec.base).as_posix() if inside else str(self._path.resolve())

    @contextmanager
    def read(self, part: Part) -> Iterator[_DuckdbStream]:
        if not self._snapshot:
            raise SourceError(f"read {self.name}", "the snapshot of the window is gone", "begin a new window")
        try:
            yield _DuckdbStream(self, self._schema, self._reading)
        finally:
            self.close()  # not just rolled back: the file is locked as long as there is a connection

    def ack(self, position: Position) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._snapshot = None, False

    # ---- the connection

    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._db is None:
            self._db = connect(self._path, SourceError, create=False, read_only=self._options.read_only)
        return self._db

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with failing(SourceError, f"read {self.name}"):
            return self._connection().sql(sql, params=list(parameters)).fetchall()

    def batches(self, span: Span, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """As DuckDB gives them, none larger than asked for; it runs ahead by its streaming buffer of 10 MB, no more."""
        schema = pa.schema([self._schema.field(name) for name in columns])
        tail, values = self._cursor.where(span) if self._cursor else ("", ())
        with failing(SourceError, f"read {self.name}"):
            sql = f"SELECT {', '.join(self._columns[n] for n in columns)} FROM {self.relation} AS s {tail}"
            reader = self._connection().sql(sql, params=list(values)).to_arrow_reader(self._batch_rows)
            try:
                for given in reader:
                    batch = fitted(given, schema)
                    for start in range(0, batch.num_rows, self._batch_rows):
                        yield batch.slice(start, self._batch_rows)
            finally:
                reader.close()


class _Cursor:
    """``dpone.sql.cursor.Cursored`` over the snapshot. Values are DuckDB's own texts, which it reads back exactly."""

    def __init__(self, source: DuckdbSource, column: str, native: str) -> None:
        self._source, self._column, self._native = source, f"s.{_DIALECT.quote(column)}", native

    def _one(self, expression: str, *parameters: Any) -> tuple[Any, ...]:
        return self._source.rows(f"SELECT {expression} FROM {self._source.relation} AS s", parameters)[0]

    def highest(self) -> Value | None:
        [text] = self._one(f"CAST(max({self._column}) AS VARCHAR)")
        return None if text is None else Value(self._native, text)

    def nulls(self) -> int:
        return int(self._one(f"count(*) FILTER ({self._column} IS NULL)")[0])

    def compare(self, value: Value) -> int:
        bound = f"CAST(? AS {self._native})"
        above, below = self._one(f"max({self._column}) > {bound}, max({self._column}) < {bound}", *[value.text] * 2)
        return int(above) - int(below)

    def below(self, value: Value, lookback: float) -> Value:
        if self._native.startswith(("DATE", "TIMESTAMP")):
            return Value(self._native, earlier(value.text, lookback))
        if self._native.removeprefix("U") in _INTEGERS or self._native.startswith("DECIMAL"):
            low = Decimal(less(value.text, lookback)).quantize(Decimal(value.text), ROUND_FLOOR)
            return Value(self._native, str(max(low, Decimal(0)) if self._native.startswith("U") else low))
        raise ConfigError("read by cursor", f"lookback on a column of {self._native}", "leave lookback out")

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for batch in self._source.batches(span, columns):
            yield from _tuples(batch, columns)

    def doubt(self, high: str) -> str:
        return ""  # DuckDB compares texts by their bytes

    def where(self, span: Span) -> tuple[str, tuple[Any, ...]]:
        ends = [(sign, v) for sign, v in ((">" if span.above else ">=", span.low), ("<=", span.high)) if v is not None]
        terms = " AND ".join(f"{self._column} {sign} CAST(? AS {self._native})" for sign, _ in ends)
        return f"WHERE {terms or 'true'}", tuple(v.text for _, v in ends)


def _tuples(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(_values(batch.column(name)) for name in columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    """Python has no nanoseconds."""
    fine = pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns"
    values: list[Any] = (column.cast(pa.int64()) if fine else column).to_pylist()
    return values


class _DuckdbStream(BatchStream):
    """``contract.Stream``."""

    filtered = 0

    def __init__(self, source: DuckdbSource, schema: pa.Schema, reading: Reading) -> None:
        self.schema, self.filtered, self._source, self._reading = schema, reading.nulls, source, reading

    def batches(self) -> Iterator[pa.RecordBatch]:
        for i, span in enumerate(self._reading.spans):
            batches = self._source.batches(span, self.schema.names)
            yield from self._unseen(batches) if i == 0 and self._reading.skip else batches

    def _unseen(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Without the rows at the last cursor value that were loaded already; each skips one."""
        left = dict(self._reading.skip)
        for batch in batches:
            new = []
            for row in _tuples(batch, self._reading.told):
                mark = digest(row)
                new.append(not left.get(mark, 0))
                left[mark] = left.get(mark, 0) - (not new[-1])
            yield batch.filter(pa.array(new, pa.bool_()))
