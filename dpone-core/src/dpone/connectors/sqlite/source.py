"""Source: a table, a view or a query of a SQLite file, in one snapshot, whole or by cursor column."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import pyarrow as pa

from dpone.bounds import BOUNDS, Bounds
from dpone.connectors.sqlite import types
from dpone.connectors.sqlite.collation import any_said, collated
from dpone.connectors.sqlite.config import SqliteSourceOptions
from dpone.connectors.sqlite.connect import connect, database_path, is_written, table_name
from dpone.connectors.sqlite.database import DECIMAL, SqliteDialect, compare_decimals
from dpone.connectors.sqlite.errors import failing
from dpone.connectors.sqlite.in_flight import InFlight
from dpone.connectors.sqlite.ranges import Ranges, Where, where
from dpone.connectors.sqlite.rows import Refused, decode
from dpone.contract import BatchStream, Finding, Part, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SourceError
from dpone.keys import compared
from dpone.pipeline import SourceSpec
from dpone.position import Position
from dpone.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import (
    Bound,
    CursorPlan,
    Reading,
    Row,
    Span,
    Value,
    cursor_column,
    earlier,
    less,
    require_same,
    unseen,
)
from dpone.sql.in_flight import settle
from dpone.sql.text_order import doubt
from dpone.sql.types import first_longer, limit_of, limited, named

_BATCH_ROWS = 10_000
_BATCH_BYTES = 8_000_000
_SPOOL = PREFIX + "spool"
_VIEW = PREFIX + "query"


class SqliteSource:
    """``contract.Source``. The snapshot is a read transaction from ``window`` to the end of the read; in a database
    without WAL nobody else can commit to it for as long. Where this very run writes to such a file, the rows of the
    window are copied to a temporary table first."""

    def __init__(self, spec: SourceSpec) -> None:
        self._options = spec.options if isinstance(spec.options, SqliteSourceOptions) else SqliteSourceOptions()
        self._incremental = spec.options.incremental
        if self._incremental is not None and self._incremental.by != "cursor":
            found = f"incremental.by: {self._incremental.by}"
            raise ConfigError("read source sqlite", found, "use by: cursor; SQLite has nothing else")
        self._path, self._base = database_path(spec.connection, spec.base), spec.base
        self._table = table_name(spec.table) if spec.table else None
        self._query = spec.query
        self.name = str(self._table) if self._table else "the query"
        self._chosen = {column: named(text, "read options.columns") for column, text in self._options.columns.items()}
        self._db: sqlite3.Connection | None = None
        self._schema: pa.Schema | None = None
        self._reading: Reading | None = None
        self._cursor: _Cursor | None = None
        self._batch_rows = _BATCH_ROWS
        self._spooled = False
        self._parts: dict[str, list[Where]] = {}
        self._bounds: dict[str, Bounds] = {}
        self._left: set[str] = set()
        self._guard = threading.Lock()

    def check(self) -> list[Finding]:
        findings = [Finding("sqlite library", True, sqlite3.sqlite_version)]
        try:
            columns = len(self.schema())
        except DponeError as error:
            return [*findings, Finding("connection", False, error.found, error.todo)]
        finally:
            self.close()
        return [*findings, Finding("connection", True, str(self._path)), Finding("source", True, f"{columns} columns")]

    def tables(self, pattern: str) -> list[str]:
        """Tables and views, without SQLite's own and dpone's."""
        found = self.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        names = sorted(name for (name,) in found if not name.startswith(("sqlite_", PREFIX)))
        return [str(Name((name,))) for name in names if fnmatchcase(name, pattern)]

    def schema(self) -> pa.Schema:
        try:
            return self._columns(None)
        finally:
            self.end()

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Opens the snapshot. Without ``incremental`` every window is the whole table."""
        self.end()
        bound = self._begin(after, request)
        try:
            self._batch_rows = request.batch_rows or _BATCH_ROWS
            self._schema = self._columns(request.expected)
            self._reading = self._plan(after, request, bound)
            self._parts = self._split(self._reading, request)
            self._left = set(self._parts)
            if self._parts and is_written(self._path) and self.rows("PRAGMA main.journal_mode") != [("wal",)]:
                self._spool()
        except BaseException:
            self.end()
            raise
        reading = self._reading
        parts = tuple(map(self._part, self._parts))
        if not parts:
            self.end()
        whole = request.whole or self._incremental is None
        return Window(
            reading.position, parts, False, self._schema, whole, reading.caught_up, reading.proof, reading.warnings
        )

    def _begin(self, after: Position | None, request: WindowRequest) -> Bound | None:
        """The snapshot begins with the first read of the file, for a read by cursor at a moment when nobody writes."""
        if self._incremental is None:
            self._execute("BEGIN")
            return None
        self._connection()
        others = InFlight(self._path, self._options.busy_timeout)
        try:
            bound = settle(others, self._incremental, self.name, None if request.whole else after)
            self._execute("BEGIN")
            self.rows("SELECT 1 FROM main.sqlite_master LIMIT 1")
        finally:
            others.release()
        return bound

    def _plan(self, after: Position | None, request: WindowRequest, bound: Bound | None) -> Reading:
        assert self._schema is not None
        identity = {"path": self._where_it_is(), **self._what()}
        if self._incremental is not None:
            names = tuple(self._schema.names)
            column = cursor_column(self._incremental, names, request.mode, self.name)
            self._cursor = _Cursor(self, column, self._schema.field(column).type)
            plan = CursorPlan(self._cursor, self._incremental, identity, names, request.mode, self.name)
            return plan.reading(after, whole=request.whole, bound=bound)
        if after is not None and not request.whole:
            require_same(after, "snapshot", identity, self.name)
        value = {"taken_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        position = Position("snapshot", identity, value, after.epoch if after else 0)
        return Reading(position, (Span(),), "one snapshot holds the whole of the source")

    def _split(self, reading: Reading, request: WindowRequest) -> dict[str, list[Where]]:
        """What each part is to read. Ranges are open to both sides: every row of any snapshot is in one of them."""
        if not reading.spans:
            return {}
        known = [part.detail[BOUNDS] for part in request.parts if BOUNDS in part.detail]
        bounds: Sequence[Bounds] = [Bounds.from_json(one) for one in known]
        if not request.parts and request.partitions > 1 and self._incremental is None:
            bounds = Ranges(self, self._table, self._options.partition_by).split(request.partitions)
        self._bounds = {f"{i:05d}": one for i, one in enumerate(bounds)}
        if not bounds:
            return {"all": [self._where(span) for span in reading.spans]}
        return {id: [where(one)] for id, one in self._bounds.items()}

    def _part(self, id: str) -> Part:
        bounds = self._bounds.get(id)
        return Part(id, {BOUNDS: bounds.to_json()} if bounds else {"spans": len(self._parts[id])})

    def _spool(self) -> None:
        """Copy the rows of the window, then let go of the file."""
        names = SqliteDialect().columns(self._schema.names if self._schema else (), "s")
        self._execute("PRAGMA query_only=OFF")
        for id, reads in self._parts.items():
            for i, (rows, values) in enumerate(reads):
                select = f"SELECT {names} FROM {self.relation} AS s WHERE {rows or '1'}"
                self._execute(f'CREATE TEMP TABLE "{_SPOOL}{id}_{i}" AS {select}', values)
        self._execute("PRAGMA query_only=ON")
        self._execute("COMMIT")
        self._spooled = True

    def spans(self, id: str) -> Iterator[Iterator[tuple[Any, ...]]]:
        """The rows of each span of a part, all columns."""
        assert self._schema is not None
        for i, (rows, values) in enumerate(self._parts[id]):
            if self._spooled:
                yield self._select(f'SELECT * FROM temp."{_SPOOL}{id}_{i}"', ())
            else:
                yield self.select(self._schema.names, rows, values)

    def ended(self, id: str) -> None:
        """A part was read. The last one ends the snapshot, so that others can write again."""
        with self._guard:
            self._left.discard(id)
            if not self._left:
                self.end()

    def _where_it_is(self) -> str:
        """Relative where the file is part of the project: a project that is moved as a whole has the same source."""
        if self._path.is_relative_to(self._base):
            return self._path.relative_to(self._base).as_posix()
        return str(self._path.resolve())

    def _what(self) -> dict[str, str]:
        if self._table is not None:
            return {"table": self._table.last}
        return {"query": hashlib.sha256((self._query or "").encode()).hexdigest()[:16]}

    @contextmanager
    def read(self, part: Part) -> Iterator[_SqliteStream]:
        open_ = self._db is not None and (self._db.in_transaction or self._spooled)
        if self._reading is None or self._schema is None or not open_:
            raise SourceError(f"read {self.name}", "the snapshot of the window is gone", "begin a new window")
        try:
            yield _SqliteStream(self, part.id, self._schema, self._reading, self._batch_rows)
        finally:
            self.ended(part.id)

    def ack(self, position: Position) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._spooled = False

    # ---- the connection

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            with failing(SourceError, f"read {self._path}", self._path):
                db = connect(self._path, self._options.busy_timeout, SourceError, create=False)
                db.create_collation(DECIMAL, compare_decimals)
                if self._query is not None:
                    self._define(db)
                db.execute("PRAGMA query_only=ON")
            self._db = db
        return self._db

    def _define(self, db: sqlite3.Connection) -> None:
        """The query as a temporary view: one statement, read-only, with declared types where SQLite knows them."""
        text = (self._query or "").strip().rstrip(";")
        try:
            db.execute(f'CREATE TEMP VIEW "{_VIEW}" AS {text}')
            db.execute(f'SELECT 1 FROM temp."{_VIEW}" LIMIT 0')
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ConfigError("read the query", str(error), "give one SELECT without parameters") from error

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        with failing(SourceError, f"read {self.name}", self._path):
            return self._connection().execute(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with failing(SourceError, f"read {self.name}", self._path):
            return self._connection().execute(sql, parameters).fetchall()

    def select(self, columns: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        sql = f"SELECT {SqliteDialect().columns(columns, 's')} FROM {self.relation} AS s"
        return self._select(f"{sql} WHERE {where}" if where else sql, parameters)

    def _select(self, sql: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        with failing(SourceError, f"read {self.name}", self._path):
            yield from self._connection().execute(sql, parameters)

    def _where(self, span: Span) -> tuple[str, tuple[Any, ...]]:
        return self._cursor.where(span) if self._cursor else ("", ())

    def as_text(self, column: str) -> bool:
        """True if the options ask for text, whatever the values are."""
        return bool(self._chosen.get(column) == pa.string())

    def end(self) -> None:
        """The end of the snapshot, so that others can write again."""
        if self._spooled:
            self.close()
        if self._db is not None and self._db.in_transaction:
            self._execute("ROLLBACK")

    # ---- columns

    @property
    def relation(self) -> str:
        return f'temp."{_VIEW}"' if self._table is None else f"main.{SqliteDialect().name(self._table)}"

    def _columns(self, expected: pa.Schema | None) -> pa.Schema:
        """Types as declared, or as stated in the options; where neither tells, as the values are. Lineage of an earlier
        load is left out: it says where a row came from then, and each target gets its own."""
        place = (_VIEW, "temp") if self._table is None else (self._table.last, "main")
        # hidden: 1 are the inner columns of virtual tables, 2 and 3 generated ones
        sql = "SELECT name, type FROM pragma_table_xinfo(?, ?) WHERE hidden != 1 ORDER BY cid"
        found = {name: text for name, text in self.rows(sql, place) if name not in LINEAGE}
        if not found:
            raise SourceError(f"read {self.name}", f"there is no such table or view in {self._path}", "see its name")
        if unknown := [c for c in self._chosen if c not in found]:
            todo = f"name columns of the source: {', '.join(list(found)[:20])}"
            raise ConfigError("read options.columns", f"no column {', '.join(unknown)}", todo)
        known = {name: self._chosen.get(name) or types.declared(text) for name, text in found.items()}
        # Numbers written out: 1 and 1.0 are equal here, as long as no affinity gives both one form.
        loose = [n for n, t in self._chosen.items() if t == pa.string() and not types.has_affinity(found[n])]
        if open_ := [name for name, type_ in known.items() if type_ is None]:
            known |= self._inferred(open_, expected)
        stated = self._options.columns
        made = pa.schema([limited(pa.field(name, type_), stated.get(name, "")) for name, type_ in known.items()])
        if any_said(self.rows):
            made = collated(made, self.relation, self.rows, SqliteDialect())
        return pa.schema([compared(f, "as numbers, whatever their form") if f.name in loose else f for f in made])

    def _inferred(self, names: Sequence[str], expected: pa.Schema | None) -> dict[str, pa.DataType]:
        """From the kinds of all values; a type the target has already is kept where the values fit it."""
        d = SqliteDialect()
        sums = ", ".join(
            f"MAX(typeof(s.{d.quote(n)}) = '{kind}')" for n in names for kind in ("integer", "real", "text", "blob")
        )
        answer = self.rows(f"SELECT {sums} FROM {self.relation} AS s")[0]
        inferred = {}
        for i, name in enumerate(names):
            whole, real, text, blob = map(bool, answer[4 * i : 4 * i + 4])
            if (whole or real) + text + blob > 1:
                found = f"column {name} has no declared type and values of several kinds"
                raise DataError(f"read {self.name}", found, f"state options.columns: {{{name}: string}}")
            wanted = expected.field(name).type if expected is not None and name in expected.names else None
            fits = wanted is not None and not (real or text or blob) and (not whole or wanted == pa.float64())
            kinds = ((blob, pa.binary()), (real, pa.float64()), (whole, pa.int64()), (True, pa.string()))
            inferred[name] = wanted if fits else next(type_ for there, type_ in kinds if there)
        return inferred


class _Cursor:
    """``dpone.sql.cursor.Cursored`` over a source's snapshot."""

    def __init__(self, source: SqliteSource, column: str, type: pa.DataType) -> None:
        self._source, self._name, self._type = source, column, type
        self._column = f"s.{SqliteDialect().quote(column)}"
        self._ordered = SqliteDialect().ordered(self._column, type)

    def highest(self) -> Value | None:
        """MIN beside MAX: in SQLite's order all numbers are below all texts, and would be lost below the position."""
        of = f"FROM {self._source.relation} AS s"
        sql = f"SELECT (SELECT MAX({self._ordered}) {of}), (SELECT MIN({self._ordered}) {of})"
        high, low = self._source.rows(sql)[0]
        if high is None:
            return None
        if isinstance(high, (int, float)) is not isinstance(low, (int, float)) or isinstance(high, bytes):
            found = f"cursor column {self._column} holds blobs, or both numbers and texts"
            raise DataError("read by cursor", found, "choose a column of one kind")
        return _value(high)

    def nulls(self) -> int:
        sql = f"SELECT COUNT(*) FROM {self._source.relation} AS s WHERE {self._column} IS NULL"
        return int(self._source.rows(sql)[0][0])

    def doubt(self, high: str) -> str:
        if self._type not in (pa.string(), types.UUID):
            return ""
        return doubt(high, self._source.name, self._name, self._lengths)

    def _lengths(self) -> tuple[int, int]:
        c = self._column
        digits = f"FROM {self._source.relation} AS s WHERE {c} NOT GLOB '*[^0-9]*' AND {c} <> ''"
        [(least, most)] = self._source.rows(f"SELECT MIN(length({c})), MAX(length({c})) {digits}")
        return least, most

    def compare(self, value: Value) -> int:
        """Asked of the rows, since only there the column's own collation holds."""
        if value.type == "text" and pa.types.is_timestamp(self._type):
            self._require_one_notation(value)
        rows = f"SELECT 1 FROM {self._source.relation} AS s WHERE {self._ordered}"
        sql = f"SELECT EXISTS ({rows} > ?), EXISTS ({rows} >= ?)"
        above, here = self._source.rows(sql, (_bound(value),) * 2)[0]
        return 1 if above else 0 if here else -1

    def _require_one_notation(self, value: Value) -> None:
        """Times are in the order of their texts only where all are written alike: 10:30 with a T is above 11:00 with a
        blank, 10:00:00Z above 10:00:00.5Z. Looked at from the day before the position: a zone shifts no further."""
        c = self._column
        sql = (
            f"SELECT COUNT(DISTINCT substr({c}, 11, 1)), COUNT(DISTINCT ltrim(substr({c}, 12), '0123456789:.')), "
            f"MIN(length({c})) < MAX(length({c})), MIN(length({c})) < 19 OR MAX({c} GLOB '*.*0') OR "
            f"MAX(ltrim(substr({c}, 12), '0123456789:.')) <> '' FROM {self._source.relation} AS s WHERE {c} >= ?"
        )
        marks, zones, lengths, matter = self._source.rows(sql, (earlier(value.text[:10], 86_400),))[0]
        if marks > 1 or zones > 1 or (lengths and matter):
            found = f"cursor column {c} has times in several notations, and their order as text is not that of time"
            todo = "write all of them alike in the source, or read them by a query that does, as with strftime"
            raise DataError(f"read {self._source.name}", found, todo)

    def below(self, value: Value, lookback: float) -> Value:
        t = pa.types
        if value.type == "integer":
            return Value("integer", str(math.floor(Decimal(less(value.text, lookback)))))
        if value.type == "real":
            return Value("real", repr(float(value.text) - lookback))
        if t.is_date(self._type) or t.is_timestamp(self._type):
            return Value("text", earlier(value.text, lookback))
        if t.is_decimal(self._type):
            return Value("text", less(value.text, lookback))
        raise ConfigError("read by cursor", f"lookback on a column of {self._type}", "leave lookback out")

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        return self._source.select(columns, *self.where(span))

    def where(self, span: Span) -> tuple[str, tuple[Any, ...]]:
        terms = [(">" if span.above else ">=", span.low), ("<=", span.high)]
        given = [(sign, _bound(value)) for sign, value in terms if value is not None]
        return " AND ".join(f"{self._ordered} {sign} ?" for sign, _ in given), tuple(value for _, value in given)


def _value(value: Any) -> Value:
    if isinstance(value, str):
        return Value("text", value)
    return Value("integer", str(value)) if isinstance(value, int) else Value("real", repr(value))


def _bound(value: Value) -> Any:
    return {"integer": int, "real": float, "text": str}[value.type](value.text)


class _SqliteStream(BatchStream):
    """``contract.Stream``."""

    filtered = 0

    def __init__(self, source: SqliteSource, id: str, schema: pa.Schema, reading: Reading, batch_rows: int) -> None:
        self.schema, self.filtered = schema, reading.nulls
        self._source, self._id, self._reading, self._batch_rows = source, id, reading, batch_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        rows, done, take = self._rows(), 0, min(self._batch_rows, 100)
        while chunk := list(islice(rows, take)):
            batch = self._batch(chunk, done)
            done += len(chunk)
            take = max(1, min(self._batch_rows, _BATCH_BYTES * len(chunk) // max(batch.nbytes, 1)))
            yield batch
        self._source.ended(self._id)  # before the last batch is written: a sink in the same file may need the lock

    def _rows(self) -> Iterator[Row]:
        names, reading = self.schema.names, self._reading
        for i, rows in enumerate(self._source.spans(self._id)):
            if i == 0 and reading.skip:
                yield from unseen(rows, [names.index(name) for name in reading.told], reading.skip)
            else:
                yield from rows

    def _batch(self, rows: list[Row], before: int) -> pa.RecordBatch:
        columns = zip(self.schema, zip(*rows, strict=True), strict=True)
        arrays = [self._array(field, column, before) for field, column in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(self, field: pa.Field, values: Row, before: int) -> pa.Array:
        try:
            array = decode(values, field.type, as_text=self._source.as_text(field.name))
            if (most := limit_of(field)) is not None and (row := first_longer(array, most)) >= 0:
                raise Refused(f"more than {most} characters", row)
            return array
        except Refused as error:
            found = f"column {field.name}, row {before + error.row + 1:,} of the read: {error.reason}"
            kind = "double" if field.type == pa.float32() else "string"
            todo = f"correct the value, or state options.columns: {{{field.name}: {kind}}}"
            raise DataError(f"read {self._source.name}", found, todo) from None
