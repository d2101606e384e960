"""``dpone.sql.cursor.Cursored`` over a source's snapshot. Values are kept as the server's own exact text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from dpone.errors import ConfigError, DataError
from dpone.sql.cursor import Bound, Span, Value, less
from dpone.sql.text_order import doubt
from dpone_postgres import types
from dpone_postgres.in_flight import WESTMOST
from dpone_postgres.session import Asked


class Cursor:
    """bound: the upper end of this read; rows above it are left to a later one."""

    def __init__(self, source: Asked, column: types.Column, bound: Bound | None = None) -> None:
        self._source, self._name, self._type, self._native = source, column.name, column.arrow, column.native
        self._kind = column.kind
        self._column = f"s.{source.dialect.quote(column.name)}"
        self._bound = bound or Bound()

    def highest(self) -> Value | None:
        """The highest value up to the bound; None if no row has a value. Not by max(), which uuid and boolean do not
        have: every type with an order has ORDER BY, and an index serves it. Raises DataError for infinity and NaN."""
        [*found] = self._source.rows(
            f"SELECT {self._column}::text FROM {self._source.relation} AS s WHERE {self._inside()} "
            f"ORDER BY {self._column} DESC LIMIT 1"
        )
        if not found:
            return None
        if found[0][0] in ("infinity", "Infinity", "NaN"):
            problem = (
                f"the highest value of cursor column {self._column} is {found[0][0]}; no later value can be above it"
            )
            raise DataError("read by cursor", problem, "correct the value, or read a query that excludes it")
        return Value(self._native, found[0][0])

    def _inside(self) -> str:
        """Rows with a value, up to the bound."""
        terms, bound = [f"{self._column} IS NOT NULL"], self._bound
        if bound.empty:
            return "false"
        if bound.high is not None:
            terms.append(f"{self._column} <= {self._literal(bound.high)}")
        if bound.below is not None:
            terms.append(f"{self._column} < {self._started(bound.below)}")
        return " AND ".join(terms)

    def _started(self, value: Value) -> str:
        """In the column's type: the lowest ``now()`` of a transaction that began at ``value``."""
        start = f"{self._source.dialect.literal(value.text)}::{value.type}"
        if self._kind != "timestamptz":
            start = f"({start} AT TIME ZONE 'UTC' - {WESTMOST})"
        return f"{start}::{self._native}"

    def nulls(self) -> int:
        return int(
            self._source.rows(f"SELECT count(*) FROM {self._source.relation} AS s WHERE {self._column} IS NULL")[0][0]
        )

    def doubt(self, high: str) -> str:
        return doubt(high, self._source.name, self._name, self._lengths) if self._kind in ("text", "uuid") else ""

    def _lengths(self) -> tuple[int, int]:
        c = f"{self._column}::text"
        digits = f"FROM {self._source.relation} AS s WHERE {c} ~ '^[0-9]+$'"
        [(least, most)] = self._source.rows(f"SELECT min(length({c})), max(length({c})) {digits}")
        return least, most

    def compare(self, value: Value) -> int:
        rows = f"EXISTS (SELECT 1 FROM {self._source.relation} AS s WHERE {self._inside()} AND {self._column}"
        [(above, here)] = self._source.rows(
            f"SELECT {rows} > {self._literal(value)}), {rows} >= {self._literal(value)})"
        )
        return 1 if above else 0 if here else -1

    def below(self, value: Value, lookback: float) -> Value:
        literal, amount = self._literal(value), Decimal(str(lookback))
        if self._kind in ("int2", "int4", "int8"):
            return Value("numeric", less(value.text, lookback))
        if self._kind == "numeric":
            return Value("numeric", less(value.text, lookback))
        if self._kind in ("float4", "float8"):
            return Value("double precision", repr(float(value.text) - lookback))
        if self._kind in ("date", "timestamp", "timestamptz"):
            kind = "timestamp without time zone" if self._kind == "date" else self._native
            [(text,)] = self._source.rows(f"SELECT ({literal} - {amount} * interval '1 second')::{kind}::text")
            return Value(kind, text)
        problem = f"lookback on a column of type {self._native}"
        raise ConfigError("read by cursor", problem, "remove lookback")

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        names = ", ".join(f"s.{self._source.dialect.quote(n)}::text" for n in columns)
        condition = self.where(span)
        sql = f"SELECT {names} FROM {self._source.relation} AS s"
        return self._source.stream(f"{sql} WHERE {condition}" if condition else sql)

    def where(self, span: Span) -> str:
        """The condition for a span. COPY takes no parameters, so values are literals with a cast."""
        terms = [(">" if span.above else ">=", span.low), ("<=", span.high)]
        return " AND ".join(
            f"{self._column} {sign} {self._literal(value)}" for sign, value in terms if value is not None
        )

    def _literal(self, value: Value) -> str:
        return f"{self._source.dialect.literal(value.text)}::{value.type}"
