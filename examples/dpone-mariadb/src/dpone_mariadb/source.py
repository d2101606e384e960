"""Source: a table, a view or a query, in one snapshot, whole or by cursor column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
from pymysql.connections import Connection
from pymysql.converters import encoders
from pymysql.cursors import SSCursor

from dpone.errors import SourceError
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.sql.cursor import Row, Value
from dpone.sql.cursored import SqlCursor
from dpone.sql.source import SqlSource, what
from dpone_mariadb import types
from dpone_mariadb.connect import connect, failing, place
from dpone_mariadb.database import MariadbDialect


class MariadbCursor(SqlCursor):
    """The driver gives texts. A number is bound as one, and what a FLOAT is compared by is the double that it is."""

    digits = "{} REGEXP '^[0-9]+$'"

    def __init__(self, source: SqlSource, field: pa.Field) -> None:
        super().__init__(source, field)
        self.ordered = source.shown(field.name)

    def value(self, given: Any) -> Value:
        t, type_ = pa.types, self.type
        if not isinstance(given, str):
            return super().value(given)
        word = "decimal" if t.is_decimal(type_) else "real" if t.is_floating(type_) else "text"
        return Value("integer" if t.is_integer(type_) else word, given)


class MariadbSource(SqlSource):
    """The snapshot is a read-only transaction, in which nobody can make a table."""

    dialect = MariadbDialect()
    as_table = "CREATE TEMPORARY TABLE {} AS {} LIMIT 0"
    cursor = MariadbCursor

    def __init__(self, spec: SourceSpec) -> None:
        self._place, self._floats = place(spec.connection), set[str]()
        super().__init__(spec, spec.table, self._place.stable)

    def listed(self) -> Iterator[Name]:
        found = self.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = database()")
        return (Name((name,)) for (name,) in found)

    def identity(self) -> Mapping[str, Any]:
        return {"place": self._place.stable, **what(self._table, self._query)}

    def begin(self, after: Position | None) -> None:
        self.rows("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        lines = self.rows(f"SHOW FULL COLUMNS FROM {self.dialect.name(self.seen)}")
        marks = {types.UTC: f" COMMENT '{types.UTC}'"}
        found = [(name, native + marks.get(comment, "")) for name, native, *_, comment in lines]
        self._floats = {name for name, native in found if native.startswith("float")}
        return self.described(found)

    def shown(self, name: str) -> str:
        """Of a FLOAT the server shows six digits."""
        return f"CAST({super().shown(name)} AS DOUBLE)" if name in self._floats else super().shown(name)

    def decode(self, field: pa.Field, given: Row) -> pa.Array:
        return types.decode(given, field.type)

    # ---- the connection

    def failing(self) -> AbstractContextManager[None]:
        return failing(SourceError, f"read {self.name}")

    def connect(self) -> Connection[Any]:
        """Values come as the server writes them."""
        return connect(self._place, SourceError, encoders)

    def streaming(self) -> Any:
        return self.connection().cursor(SSCursor)

    def disconnect(self) -> None:
        """The rest of an unbuffered answer is not waited for, nor looked for when its cursor goes."""
        if self._db is not None:
            if self._db._result is not None:
                self._db._result.unbuffered_active = False
            self._db._force_close()
        self._db = None
