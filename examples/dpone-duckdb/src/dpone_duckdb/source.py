"""Source: a table, a view or a query of a DuckDB file, in one snapshot, whole or by cursor column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import duckdb
import pyarrow as pa

from dpone.contract import Finding
from dpone.errors import SourceError
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE
from dpone.sql.cursor import Row, Span, Value, less
from dpone.sql.cursored import SqlCursor
from dpone.sql.source import SqlSource, new_rows, what, within_project
from dpone_duckdb.config import DuckdbSourceOptions
from dpone_duckdb.database import Duckdb, DuckdbDatabase
from dpone_duckdb.types import expression, fitted, reads

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")


class DuckdbCursor(SqlCursor):
    """Values are DuckDB's own texts, which it reads back exactly; their word is the type of the column."""

    digits = "regexp_full_match({}, '[0-9]+')"
    source: DuckdbSource

    def highest(self) -> Value | None:
        [(text,)] = self.source.rows(f"SELECT CAST(max({self.column}) AS VARCHAR) FROM {self.source.relation} AS s")
        return None if text is None else Value(self.source.types[self.name], text)

    def bound(self, value: Value) -> tuple[str, Any]:
        return f"CAST(? AS {self.source.types[self.name]})", value.text

    def below(self, value: Value, lookback: float) -> Value:
        native = self.source.types[self.name]
        if native.removeprefix("U") not in _INTEGERS and not native.startswith("DECIMAL"):
            return super().below(value, lookback)
        low = Decimal(less(value.text, lookback)).quantize(Decimal(value.text), ROUND_FLOOR)
        return Value(native, str(max(low, Decimal(0)) if native.startswith("U") else low))

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[Row]:
        for batch in self.source.batches(columns, *self.where(span)):
            yield from _tuples(batch, columns)


class DuckdbSource(SqlSource):
    """The snapshot is a read transaction. The file is locked as long as there is a connection."""

    database_class = DuckdbDatabase
    system: Duckdb
    cursor = DuckdbCursor

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._base, self._path = spec.base, self.system.path
        self._options: DuckdbSourceOptions = spec.options
        self.types: dict[str, str] = {}

    def check(self) -> list[Finding]:
        return [Finding("duckdb library", True, duckdb.__version__), *super().check()]

    def identity(self) -> Mapping[str, Any]:
        return {"path": within_project(self._path, self._base), **what(self._table, self.relation)}

    def begin(self, after: Position | None) -> None:
        with self.failing():
            self.connection().execute("BEGIN TRANSACTION READ ONLY")

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        with self.failing():
            relation = self.connection().sql(f"FROM {self.relation} AS s")
        found = zip(relation.columns, map(str, relation.types), strict=True)
        self.types = {name: native for name, native in found if name not in LINEAGE}
        return pa.schema([(name, reads(native)) for name, native in self.types.items()])

    def shown(self, name: str) -> str:
        return f"{expression(self.types[name], super().shown(name))} AS {self.dialect.quote(name)}"

    # ---- the connection: DuckDB's client gives Arrow, and what it calls a cursor is another connection

    def connect(self) -> duckdb.DuckDBPyConnection:
        with self.system.failing(SourceError, f"open {self._path}"):
            return self.system.connect(source=True, read_only=self._options.read_only)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self.failing():
            return list(self.connection().sql(sql, params=list(parameters)).fetchall())

    def batches(self, names: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[pa.RecordBatch]:
        """As DuckDB gives them, none larger than asked for; it runs ahead by its streaming buffer of 10 MB, no more."""
        schema, rows = pa.schema([self._schema.field(name) for name in names]), self._batch_rows
        with self.failing():
            sql = self.statement(names, where)
            reader = self.connection().sql(sql, params=list(parameters)).to_arrow_reader(rows)
            try:
                for given in reader:
                    batch = fitted(given, schema)
                    yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))
            finally:
                reader.close()

    def arrow(self, id: str) -> Iterator[pa.RecordBatch]:
        told, left = self._reading.row_key, dict(self._reading.skip)
        for i, where in enumerate(self._parts[id]):
            for batch in self.batches(self._schema.names, *where):
                yield batch.filter(new_rows(_tuples(batch, told), left)) if i == 0 and left else batch


def _tuples(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[Row]:
    return zip(*(_values(batch.column(name)) for name in columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    """Python has no nanoseconds."""
    fine = pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns"
    values: list[Any] = (column.cast(pa.int64()) if fine else column).to_pylist()
    return values
