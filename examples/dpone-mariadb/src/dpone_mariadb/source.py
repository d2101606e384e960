"""Source: a table, a view or a query, whole, in one snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.converters import encoders
from pymysql.cursors import SSCursor

from dpone.contract import BatchStream, Finding, Part, Window, WindowRequest
from dpone.errors import DataError, DponeError, SourceError
from dpone.pipeline import SourceSpec
from dpone.position import Position
from dpone.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import require_same
from dpone_mariadb import types
from dpone_mariadb.connect import connect, place, table_name
from dpone_mariadb.database import MariadbDialect
from dpone_mariadb.errors import failing

_BATCH_ROWS = 10_000
_DIALECT = MariadbDialect()


class MariadbSource:
    """``contract.Source``. The snapshot is a read-only transaction from ``window`` to the end of the read."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec, self._place = spec, place(spec.connection)
        self._query = (spec.query or "").strip().rstrip(";")
        self.relation = f"({self._query.replace('%', '%%')}\n)"
        if spec.table is not None:
            self.relation = _DIALECT.name(table_name(spec.table))
        self.name = str(spec.table or "the query")
        self._db: pymysql.connections.Connection[Any] | None = None
        self._schema, self._batch_rows, self._snapshot = pa.schema([]), _BATCH_ROWS, False

    def check(self) -> list[Finding]:
        try:
            columns = len(self.schema())
        except DponeError as error:
            return [Finding("source", False, error.found, error.todo)]
        finally:
            self.close()
        return [Finding("source", True, f"{self.name} in {self._place.database}: {columns} columns")]

    def tables(self, pattern: str) -> list[str]:
        found = self.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = database()")
        names = sorted(name for (name,) in found if not name.startswith(PREFIX))
        return [str(Name((name,))) for name in names if fnmatchcase(name, pattern)]

    def schema(self) -> pa.Schema:
        """A query is looked at as a temporary table that it would make. Lineage of an earlier load is left out."""
        table = _DIALECT.name(self._spec.table or Name((f"{PREFIX}query",)))
        if self._spec.table is None:
            shape = f"SELECT * FROM {self.relation} AS s LIMIT 0"
            self.rows(f"CREATE OR REPLACE TEMPORARY TABLE {table} AS {shape}")
        fields = []
        for name, native, *_, comment in self.rows(f"SHOW FULL COLUMNS FROM {table}"):
            if name not in LINEAGE:
                type_ = types.reads(f"{native} COMMENT '{types.UTC}'" if comment == types.UTC else native)
                if type_ is None:
                    todo = "leave the column out, or cast it in a query"
                    raise SourceError(f"read {self.name}", f"column {name} is {native}, which has no place here", todo)
                fields.append(pa.field(name, type_))
        return pa.schema(fields)

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Opens the snapshot. Every window is the whole table."""
        self.close()
        try:
            self._schema, self._batch_rows = self.schema(), request.batch_rows or _BATCH_ROWS
            self.rows("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        except BaseException:
            self.close()
            raise
        self._snapshot = True
        what = hashlib.sha256(self._query.encode()).hexdigest()[:16] if self._query else self.name
        identity = {"place": self._place.stable, "query" if self._query else "table": what}
        if after is not None and not request.whole:
            require_same(after, "snapshot", identity, self.name)
        value = {"taken_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        position = Position("snapshot", identity, value, after.epoch if after else 0)
        proof = "one snapshot holds the whole of the source"
        return Window(position, (Part("all"),), False, self._schema, True, True, proof, ())

    @contextmanager
    def read(self, part: Part) -> Iterator[_MariadbStream]:
        if not self._snapshot:
            raise SourceError(f"read {self.name}", "the snapshot of the window is gone", "begin a new window")
        try:
            yield _MariadbStream(self, self._schema)
        finally:
            self.close()

    def ack(self, position: Position) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        if self._db is not None:
            self._db._force_close()  # type: ignore[attr-defined]  # the rest of an unbuffered answer is not waited for
        self._db, self._snapshot = None, False

    # ---- the connection

    def _connection(self) -> pymysql.connections.Connection[Any]:
        if self._db is None:
            self._db = connect(self._place, SourceError, encoders)  # values come as the server writes them
        return self._db

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with failing(SourceError, f"read {self.name}"), self._connection().cursor() as cursor:
            cursor.execute(sql, tuple(parameters))
            return list(cursor.fetchall())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows come as they are read: the server waits."""
        sql = f"SELECT {_DIALECT.columns(self._schema.names, 's')} FROM {self.relation} AS s"
        with failing(SourceError, f"read {self.name}"):
            cursor = self._connection().cursor(SSCursor)
            cursor.execute(sql, ())
            while rows := cursor.fetchmany(self._batch_rows):
                yield self._batch(rows)

    def _batch(self, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
        columns = []
        for field, values in zip(self._schema, zip(*rows, strict=True), strict=True):
            try:
                columns.append(types.decode(list(values), field.type))
            except (pa.ArrowException, ValueError) as error:
                found = f"column {field.name}: a value that is not a valid {field.type}"
                raise DataError(f"read {self.name}", found, "correct it, or cast the column in a query") from error
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


class _MariadbStream(BatchStream):
    def __init__(self, source: MariadbSource, schema: pa.Schema) -> None:
        self.schema, self._source = schema, source

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._source.batches()
