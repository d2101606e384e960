"""What the sources of all SQL systems share: a window over one snapshot, whole or by cursor column, in one part or
several, and its rows in Arrow batches. A connector adds how a snapshot begins."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from dpone.contract import BatchStream, Finding, Part, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SourceError, counted
from dpone.model.bounds import BOUNDS, Bounds
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import Bound, CursorPlan, Reading, Row, Span, cursor_column, digest, require_same, unseen
from dpone.sql.cursored import SqlCursor, Where
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Dialect
from dpone.sql.driver_errors import saying
from dpone.sql.system import SqlSystem
from dpone.sql.values import Unstorable

BATCH_ROWS = 10_000
_BATCH_BYTES = 8_000_000
_QUERY = Name((f"{PREFIX}query",))
_FETCHED = 16  # rows of one fetchmany at least; they may be wide, so that few are held
_FIRST_ROWS = 100  # of the first batch, which shows how large rows are


class SqlSource(ABC):
    """``contract.Source`` over one connection of a DB-API driver, opened when first used. The snapshot is held from
    ``window`` to the end of the read of the last part.

    A connector names its Database and writes ``begin``. Several parts of one window, which
    ``cut`` offers, are read in parallel over the same connection: only for a driver that allows that.

    database_class  the Database of the connector, which knows its system and its catalogue
    as_table        a statement that makes a temporary table or view, named by the first {}, of a query, the second {},
                    so that the catalogue describes its columns; only this connection sees it. Empty: see ``native``
    cursor          the class that reads by cursor column
    place           where it reads, for messages; without user and password
    name            the table or "the query", for messages
    seen            the table, or the name of what ``as_table`` creates
    relation        what follows FROM, with the alias s. A query may end with a comment: its bracket is on a new line
    """

    database_class: ClassVar[type[DbapiDatabase]]
    as_table: ClassVar[str] = ""
    cursor: ClassVar[type[SqlCursor]] = SqlCursor

    def __init__(self, spec: SourceSpec) -> None:
        self.system = self.system_of(spec)
        self.dialect, self.place = self.system.dialect, self.system.place
        self._table = table = self.dialect.table_name(spec.table) if spec.table else None
        self._incremental = spec.options.incremental
        if self._incremental is not None and self._incremental.by != "cursor":
            todo = f"use by: cursor, the only way that {spec.type} supports"
            raise ConfigError(f"read source {spec.type}", f"incremental.by: {self._incremental.by}", todo)
        self.name, self.seen = (str(table), table) if table else ("the query", _QUERY)
        self._query = (spec.query or "").strip().rstrip(";")
        asked = self._query.replace("%", "%%") if self.dialect.placeholder == "%s" else self._query
        self.relation = self.dialect.name(table) if table else f"({asked}\n)"
        self._db: Any = None
        self._schema, self._reading = pa.schema([]), Reading(Position("", {}, {}))
        self._cursor: SqlCursor | None = None
        self._parts: dict[str, list[Where]] = {}
        self._left: set[str] = set()
        self._guard = threading.Lock()

    @classmethod
    def system_of(cls, spec: SourceSpec) -> SqlSystem:
        """Override it for a connector without ``database_class``."""
        return cls.database_class.system_class(spec.connection, spec.base)

    # ---- what a connector writes

    @abstractmethod
    def begin(self, after: Position | None) -> Bound | None:
        """Open a snapshot, so that everything read until ``finish`` is of one moment. A source that sees open
        transactions (``late_commits``) returns where the read must end (``sql.in_flight.settle``)."""

    def identity(self) -> Mapping[str, Any]:
        """What distinguishes this database and relation from any other, the same in every run. It is part of every
        position, so it must not change once released. By default host, port and database, and the table or query."""
        return {"place": self.place, **what(self._table, self._query)}

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        """The columns as they are now, without ``schema.LINEAGE``, which each target adds itself. By default what the
        catalogue says of ``seen``, or for a query without ``as_table`` what the cursor says. ``expected``: the columns
        of the target, for a system that declares no types. Raises SourceError if the table does not exist."""
        if self._table is not None or self.as_table:
            return self.described((name, native) for name, native, *_ in self.catalog().columns(self.seen))
        with self.failing(), closing(self.connection().cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {self.relation} AS s WHERE 1 = 0", ())
            found = cursor.description
        return self.described((column[0], self.native(column)) for column in found)

    def native(self, column: Any) -> str:
        """The native type of a column of a query, as ``Dialect.reads`` knows it, by its line of the cursor's
        ``description`` (PEP 249: name, type code, and digits of a decimal)."""
        raise NotImplementedError("without as_table, a connector that reads queries says the types of their columns")

    def catalog(self) -> DbapiDatabase:
        """Of this connection, for questions to the catalogue."""
        return self.database_class.over(self.system, self.connection())

    def described(self, found: Iterable[tuple[str, str]]) -> pa.Schema:
        """For ``columns``: fields from names and native types. Raises SourceError if there are none, or for a type that
        ``Dialect.reads`` does not know."""
        schema = pa.schema([self._described(*column) for column in found])
        if not schema.names:
            raise SourceError(f"read {self.name}", f"the table does not exist in {self.place}", "correct the name")
        return pa.schema([field for field in schema if field.name not in LINEAGE])

    def _described(self, name: str, native: str) -> pa.Field:
        if (type_ := self.dialect.reads(native)) is None:
            todo = "remove the column, or cast it in a query"
            raise SourceError(f"read {self.name}", f"dpone does not support column {name} of type {native}", todo)
        return pa.field(name, type_)

    def listed(self, everywhere: bool) -> Iterable[Name]:
        """The tables and views of the current schema, by their names alone; ``everywhere``: of all schemas, by schema
        and name. Those of dpone are removed by ``tables``."""
        return self.catalog().listed(everywhere)

    def finish(self) -> None:
        """End the snapshot, if there is one."""
        self.disconnect()

    def shown(self, name: str) -> str:
        """The expression that reads a column (alias s)."""
        return f"s.{self.dialect.quote(name)}"

    def decode(self, field: pa.Field, given: Row) -> pa.Array:
        """The driver's values of a column as Arrow. Raises Unstorable."""
        return self.dialect.decode(given, field.type)

    def streaming(self) -> Any:
        """A cursor of the driver that does not fetch all rows at once. Rows are fetched by its ``arraysize``, by 16 if
        that is less: set it if each fetch is a question to the server."""
        return self.connection().cursor()

    def cut(self, partitions: int) -> Sequence[Bounds]:
        """Ranges of one column that together hold every row; none: the source is read in one part."""
        return ()

    # ---- ``contract.Source``

    def check(self) -> list[Finding]:
        try:
            columns = len(self.schema())
        except DponeError as error:
            return [Finding("source", False, error.found, error.todo)]
        finally:
            self.close()
        return [Finding("source", True, f"{self.name} in {self.place}: {counted(columns, 'column')}")]

    def tables(self, pattern: str) -> list[str]:
        """Of the schemas that the pattern names, else of the current schema."""
        names = [str(name) for name in self.listed(_names_schema(pattern)) if not name.last.startswith(PREFIX)]
        return sorted(name for name in names if fnmatchcase(name, pattern))

    def schema(self) -> pa.Schema:
        try:
            return self.columns(None)
        finally:
            self.end()

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Without ``incremental`` every window is the whole table."""
        self.end()
        try:
            bound = self.begin(None if request.whole else after)
            self._batch_rows = request.batch_rows or BATCH_ROWS
            self._schema = self.columns(request.expected)
            self._reading = reading = self._plan(after, request, bound)
            parts = self._split(reading, request)
        except BaseException:
            self.end()
            raise
        self._left = set(self._parts)
        if not parts:
            self.end()
        whole = request.whole or self._incremental is None
        return Window(
            reading.position, parts, False, self._schema, whole, reading.caught_up, reading.proof, reading.warnings
        )

    def _plan(self, after: Position | None, request: WindowRequest, bound: Bound | None) -> Reading:
        identity = self.identity()
        if self._incremental is None:
            return snapshot(after, identity, self.name, whole=request.whole)
        names = tuple(self._schema.names)
        column = cursor_column(self._incremental, names, request.mode, self.name)
        self._cursor = self.cursor(self, self._schema.field(column))
        plan = CursorPlan(self._cursor, self._incremental, identity, names, request.mode, self.name)
        return plan.reading(after, whole=request.whole, bound=bound)

    def _split(self, reading: Reading, request: WindowRequest) -> tuple[Part, ...]:
        """The parts of an interrupted load, those that ``cut`` returns, or one part for everything."""
        self._parts = {}
        if not reading.spans:
            return ()
        known = [Bounds.from_json(part.detail[BOUNDS]) for part in request.parts if BOUNDS in part.detail]
        if not request.parts and request.partitions > 1 and self._incremental is None:
            known = list(self.cut(request.partitions))
        if not known:
            self._parts["all"] = [self._cursor.where(span) if self._cursor else ("", ()) for span in reading.spans]
            return (Part("all"),)
        ranges = {f"{i:05d}": one for i, one in enumerate(known)}
        self._parts = {id: [within(self.dialect, one)] for id, one in ranges.items()}
        return tuple(Part(id, {BOUNDS: one.to_json()}) for id, one in ranges.items())

    @contextmanager
    def read(self, part: Part) -> Iterator[SqlStream]:
        if not self._left or not self.holds():
            todo = "run again: that opens a new window"
            raise SourceError(f"read {self.name}", "the window's snapshot no longer exists", todo)
        try:
            yield SqlStream(self, part.id, self._schema, self._reading.nulls)
        finally:
            self.ended(part.id)

    def holds(self) -> bool:
        """True while the snapshot exists."""
        return self._db is not None

    def ended(self, id: str) -> None:
        """Call it when a part was read. After the last one the snapshot ends, so that others can write."""
        with self._guard:
            self._left.discard(id)
            if not self._left:
                self.end()

    def ack(self, position: Position) -> None:  # noqa: B027 - not to be overridden, only empty
        """Nothing to release."""

    def end(self) -> None:
        self._left = set()
        if self._db is not None:
            self.finish()

    def close(self) -> None:
        self._left = set()
        self.disconnect()

    # ---- the connection

    def connect(self) -> Any:
        """A new connection. Raises SourceError."""
        with self.system.failing(SourceError, f"connect to {self.place}"):
            return self.system.connect(source=True)

    def failing(self) -> AbstractContextManager[None]:
        """Raise the driver's errors as SourceError, or as DataError where a value is at fault."""
        return self.system.failing(SourceError, f"read {self.name}")

    def connection(self) -> Any:
        if self._db is None:
            self._db = self.connect()
            if self._table is None and self.as_table:
                self._make_table()
        return self._db

    def _make_table(self) -> None:
        sql = self.as_table.format(self.dialect.name(_QUERY), f"SELECT * FROM {self.relation} AS s")
        try:
            with self.failing():
                self._db.cursor().execute(sql, ())
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a small result, at once."""
        with saying(sql), self.failing(), closing(self.connection().cursor()) as cursor:
            cursor.execute(sql, tuple(parameters))
            return list(cursor.fetchall()) if cursor.description else []  # PEP 249: it raises without a result set

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Row]:
        with saying(sql), self.failing():
            cursor = self.streaming()
            cursor.execute(sql, tuple(parameters))
            size = max(cursor.arraysize, _FETCHED)
            while rows := cursor.fetchmany(size):  # PEP 249 does not require that a cursor can be iterated
                yield from rows

    def select(self, names: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[Row]:
        """The rows of the relation for which a condition holds; empty: all."""
        return self.stream(self.statement(names, where), parameters)

    def statement(self, names: Sequence[str], where: str) -> str:
        sql = f"SELECT {', '.join(map(self.shown, names))} FROM {self.relation} AS s"
        return f"{sql} WHERE {where}" if where else sql

    # ---- the rows of a part

    def spans(self, id: str) -> Iterator[Iterator[Row]]:
        """The rows of each span of a part, all columns."""
        return (self.select(self._schema.names, *where) for where in self._parts[id])

    def arrow(self, id: str) -> Iterator[pa.RecordBatch]:
        """The new rows of a part, in batches of limited size."""
        rows, done, take = self._new(id), 0, min(self._batch_rows, _FIRST_ROWS)
        while chunk := list(islice(rows, take)):
            batch = self._batch(chunk, done)
            done += len(chunk)
            take = max(1, min(self._batch_rows, _BATCH_BYTES * len(chunk) // max(batch.nbytes, 1)))
            yield batch

    def _new(self, id: str) -> Iterator[Row]:
        skip, places = self._reading.skip, [self._schema.names.index(name) for name in self._reading.row_key]
        spans = enumerate(self.spans(id))
        return chain.from_iterable(unseen(rows, places, skip) if skip and i == 0 else rows for i, rows in spans)

    def _batch(self, rows: list[Row], before: int) -> pa.RecordBatch:
        columns = zip(self._schema, zip(*rows, strict=True), strict=True)
        arrays = [self._array(field, column, before) for field, column in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _array(self, field: pa.Field, given: Row, before: int) -> pa.Array:
        try:
            return self.decode(field, given)
        except Unstorable as error:
            found = f"column {field.name}, row {before + error.row + 1:,} of the read: {error.reason}"
            todo = error.todo or "correct the value, or cast the column in a query"
            raise DataError(f"read {self.name}", found, todo) from None


class SqlStream(BatchStream):
    """``contract.Stream``."""

    filtered = 0

    def __init__(self, source: SqlSource, id: str, schema: pa.Schema, filtered: int) -> None:
        self.schema, self.filtered, self._source, self._id = schema, filtered, source, id

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._source.arrow(self._id)
        self._source.ended(self._id)  # before the last batch is written: a sink in the same file may need the lock


def snapshot(after: Position | None, identity: Mapping[str, Any], name: str, *, whole: bool) -> Reading:
    """Reads everything in one snapshot. Raises IdentityChanged if ``after`` is of another source, unless ``whole``."""
    if after is not None and not whole:
        require_same(after, "snapshot", identity, name)
    value = {"taken_at": datetime.now(UTC).isoformat(timespec="microseconds")}
    position = Position("snapshot", identity, value, after.epoch if after else 0)
    return Reading(position, (Span(),), "one snapshot holds the whole of the source")


def _names_schema(pattern: str) -> bool:
    """Whether a pattern of ``tables`` has a schema before the name. A dot in quotes is of the name."""
    try:
        return len(Name.parse(pattern).parts) > 1
    except DponeError:  # a wildcard in place of a quote
        return False


def what(table: Name | None, query: str) -> dict[str, str]:
    """For an identity: the table, or a digest of the query."""
    return {"table": str(table)} if table else {"query": hashlib.sha256(query.encode()).hexdigest()[:16]}


def within_project(path: Path, base: Path) -> str:
    """For an identity: a file, relative if it is inside the project, so that a project can be moved as a whole."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path.resolve())


def within(dialect: Dialect, bounds: Bounds) -> Where:
    """The condition of a range, and its parameters."""
    column = f"s.{dialect.quote(bounds.column)}"
    if bounds.null:
        return f"{column} IS NULL", ()
    ends = ((">=", bounds.lower), ("<=" if bounds.upper_inclusive else "<", bounds.upper))
    given = [(sign, value) for sign, value in ends if value is not None]
    terms = [f"{column} {sign} {dialect.placeholder}" for sign, _ in given] or [f"{column} IS NOT NULL"]
    return " AND ".join(terms), tuple(value for _, value in given)


def new_rows(rows: Iterable[Row], skip: dict[str, int]) -> pa.Array:
    """A mask of the rows that are not skipped; ``skip`` says how many rows of each digest to skip, and is counted down.
    For readers that have their rows in Arrow. ``rows`` has the columns of the digest."""
    new = []
    for row in rows:
        mark = digest(row)
        left = skip.get(mark, 0)
        new.append(not left)
        if left:
            skip[mark] = left - 1
    return pa.array(new, pa.bool_())
