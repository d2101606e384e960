"""``dpone.sql.cursor.Cursored`` by statements that most servers accept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

import pyarrow as pa

from dpone.errors import ConfigError
from dpone.model import types
from dpone.sql.cursor import Row, Span, Value, earlier, less
from dpone.sql.dialect import Dialect
from dpone.sql.text_order import doubt

Where: TypeAlias = tuple[str, tuple[Any, ...]]  # a condition, and its parameters

# Names for ``Value.type`` and the text in a position, by the driver's class; below, how a text is read again.
_WORDS: dict[type, tuple[str, Any]] = {
    int: ("integer", str), float: ("real", repr), str: ("text", str), UUID: ("uuid", str),
    Decimal: ("decimal", lambda value: format(value, "f")), date: ("date", date.isoformat),
    datetime: ("timestamp", lambda value: value.isoformat(" ", "microseconds")),
}  # fmt: skip
_MADE: dict[str, Any] = {
    "integer": int, "real": float, "text": str, "uuid": UUID, "decimal": Decimal, "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
}  # fmt: skip


class Snapshot(Protocol):
    """What a cursor column is read from: a table or a query in one snapshot (``sql.source.SqlSource``)."""

    dialect: Dialect
    relation: str
    name: str

    def shown(self, name: str) -> str: ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]: ...

    def select(self, names: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[Row]: ...


class SqlCursor:
    """One column of a source's snapshot. A value is bound as the driver returned it; override ``value`` and ``bound``
    if the server does not compare that exactly.

    digits  a condition: the text consists of digits; ``{}`` is the column
    length  the number of characters of a text (CHAR_LENGTH in standard SQL)
    """

    digits: ClassVar[str] = "REGEXP_LIKE({}, '^[0-9]+$')"
    length: ClassVar[str] = "LENGTH({})"

    def __init__(self, source: Snapshot, field: pa.Field) -> None:
        self.source, self.name, self.type = source, field.name, field.type
        self.column = f"s.{source.dialect.quote(field.name)}"
        self.ordered = source.dialect.ordered(self.column, field.type)
        self._from = f"FROM {source.relation} AS s"

    # ---- values and parameters

    def value(self, given: Any) -> Value:
        """The driver's value as the position stores it. Raises ConfigError for a type that has no order or no exact
        text."""
        if given.__class__ not in _WORDS:
            found = f"column {self.name} is {self.type}, which a position cannot store"
            raise ConfigError("read by cursor", found, "use a column of numbers, times or texts")
        word, text = _WORDS[given.__class__]
        return Value(word, text(given))

    def bound(self, value: Value) -> tuple[str, Any]:
        """A value in a condition: the expression and its parameter."""
        return self.source.dialect.placeholder, _MADE[value.type](value.text)

    # ---- ``Cursored``

    def highest(self) -> Value | None:
        [(high,)] = self.source.rows(f"SELECT MAX({self.ordered}) {self._from}")
        return None if high is None else self.value(high)

    def nulls(self) -> int:
        [(nulls,)] = self.source.rows(f"SELECT COUNT(*) {self._from} WHERE {self.column} IS NULL")
        return int(nulls)

    def compare(self, value: Value) -> int:
        """Compares in the server, by the collation of the column."""
        sign, bound = self.bound(value)
        rows = (f"SELECT 1 {self._from} WHERE {self.ordered} {than} {sign}" for than in (">", ">="))
        [(above, here)] = self.source.rows(self.source.dialect.exists(*rows), (bound, bound))
        return 1 if int(above) else 0 if int(here) else -1

    def below(self, value: Value, lookback: float) -> Value:
        t = pa.types
        if value.type == "integer":
            return Value("integer", str(math.floor(Decimal(less(value.text, lookback)))))
        if value.type == "real":
            return Value("real", repr(float(value.text) - lookback))
        if t.is_date(self.type) or t.is_timestamp(self.type):
            return Value(value.type, earlier(value.text, lookback))
        if t.is_decimal(self.type):
            return Value(value.type, less(value.text, lookback))
        raise ConfigError("read by cursor", f"lookback on a column of {self.type}", "remove lookback")

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[Row]:
        return self.source.select(columns, *self.where(span))

    def where(self, span: Span) -> Where:
        ends = ((">" if span.above else ">=", span.low), ("<=", span.high))
        given = [(sign, *self.bound(value)) for sign, value in ends if value is not None]
        return " AND ".join(f"{self.ordered} {sign} {bound}" for sign, bound, _ in given), tuple(p for *_, p in given)

    def doubt(self, high: str) -> str:
        if self.type not in (pa.string(), pa.large_string(), types.UUID):
            return ""
        return doubt(high, self.source.name, self.name, self._lengths)

    def _lengths(self) -> tuple[int, int]:
        size = self.length.format(self.column)
        ends = f"MIN({size}), MAX({size})"
        [(least, most)] = self.source.rows(f"SELECT {ends} {self._from} WHERE {self.digits.format(self.column)}")
        return least, most
