"""Source: a table, a view or a query of a PostgreSQL database, in one snapshot, whole or by cursor column."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from dpone.contract import BatchStream, Finding, Part, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SourceError
from dpone.model.keys import NONE
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import Bound, CursorPlan, Reading, Span, cursor_column
from dpone.sql.in_flight import settle
from dpone.sql.source import BATCH_ROWS, new_rows, snapshot, what
from dpone.sql.values import Unstorable
from dpone_postgres import binary, columns, types, xmin
from dpone_postgres.columns import Gathered
from dpone_postgres.config import PostgresSourceOptions
from dpone_postgres.connect import parameters, table_name, where
from dpone_postgres.cursor import Cursor
from dpone_postgres.database import PostgresDialect
from dpone_postgres.errors import sqlstate
from dpone_postgres.in_flight import PostgresInFlight
from dpone_postgres.parts import ALL, Parts
from dpone_postgres.session import Session, lost_snapshot

_BATCH_BYTES = 4_000_000  # as the server sends them
_BLOCK_BYTES = 1 << 18
_VIEW = PREFIX + "query"


class PostgresSource:
    """``contract.Source``. One REPEATABLE READ transaction lasts from ``window`` to the end of the read, so that rows,
    highest cursor value and counts are as of one moment."""

    def __init__(self, spec: SourceSpec) -> None:
        self.options = spec.options if isinstance(spec.options, PostgresSourceOptions) else PostgresSourceOptions()
        self._incremental = spec.options.incremental
        if self._incremental is not None and self._incremental.by not in ("cursor", "xmin"):
            found = f"incremental.by: {self._incremental.by}"
            raise ConfigError("read source postgres", found, "use by: cursor or by: xmin")
        if stray := [name for name in ("slot", "publication") if getattr(self.options, name)]:
            found = f"{' and '.join(stray)} given, but this source is not a change stream"
            raise ConfigError("read source postgres", found, "add incremental: {by: cdc}, or remove these options")
        self._given = parameters(spec.connection)
        self.table = table_name(spec.table) if spec.table else None
        self._query = (spec.query or "").strip().rstrip(";").rstrip() if spec.table is None else None
        self.name = str(self.table) if self.table else "the query"
        self.dialect = PostgresDialect()
        self._session = Session(self._given, self.options, self.name)
        self._snapshot: str | None = None
        self._left: set[str] = set()
        self._first = ""
        self._parts = Parts(self, self.options.partition)
        self._lock = threading.Lock()
        self._columns: list[types.Column] = []
        self._schema: pa.Schema | None = None
        self._reading: Reading | None = None
        self._cursor: Cursor | xmin.Xmin | None = None
        self._batch_rows = BATCH_ROWS

    @property
    def where(self) -> str:
        return where(self._given)

    def check(self) -> list[Finding]:
        from dpone_postgres.check import source_findings

        try:
            return source_findings(self)
        except DponeError as error:
            return [Finding("connection", False, f"{error.failed}: {error.found}", error.todo)]
        finally:
            self.close()

    def tables(self, pattern: str) -> list[str]:
        """Tables, views and foreign tables of all schemas except the system's and without dpone's own tables. A pattern
        without a dot means the schema public."""
        sql = (
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
            "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition "
            "AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
        )
        names = [Name(found[:2]) for found in self.rows(sql) if not found[1].startswith(PREFIX)]
        shown = (n.sibling(n.last) if "." in pattern else Name((n.last,)) for n in names if _meant(n, pattern))
        return sorted(str(n) for n in shown if fnmatchcase(str(n), pattern))

    def rows(self, sql: str, given: Sequence[Any] = ()) -> list[Any]:
        return self._session.rows(sql, given)

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        return self._session.stream(sql)

    def schema(self) -> pa.Schema:
        try:
            self._begin()
            self._look()
            return self._arrow()
        finally:
            self.end()

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Open the snapshot, which stays until all parts are read. Without ``incremental`` a window is the whole table.
        Raises ConfigError, SourceError, IdentityChanged."""
        self.end()
        self._cursor, self._snapshot = None, None
        bound = self._settled(None if request.whole else after)
        self._begin()
        try:
            self._batch_rows = request.batch_rows or BATCH_ROWS
            self._look()
            self._schema = self._arrow()
            self._reading = reading = self._plan(after, request, bound)
            parts = self._split(reading, request)
        except BaseException:
            self.end()
            raise
        self._left, self._first = {part.id for part in parts}, parts[0].id if parts else ""
        if not parts:
            self.end()
        every, proof = self.options.row_security == "off", reading.proof
        if not every:
            proof += "; rows hidden by row security are not read (row_security: on)"
        whole = every and (request.whole or self._incremental is None)
        return Window(reading.position, parts, False, self._schema, whole, reading.caught_up, proof, reading.warnings)

    def _settled(self, after: Position | None) -> Bound | None:
        """The bound at which a read by cursor must end, found before the snapshot begins."""
        if self._incremental is None or self._incremental.column is None or self._query == "":
            return None
        column = f"s.{self.dialect.quote(self._incremental.column)}"
        return settle(PostgresInFlight(self._session, self.relation, column), self._incremental, self.name, after)

    def _begin(self) -> None:
        if self._query == "":
            raise ConfigError("read the query", "it is empty", "set query to one SELECT")
        self._session.begin(None if self.table is None else self.dialect.name(self.table))

    def end(self) -> None:
        """End the snapshot."""
        self._session.end()

    def _split(self, reading: Reading, request: WindowRequest) -> tuple[Part, ...]:
        """Several parts are read in the snapshot of this window, each over its own connection."""
        parts: tuple[Part, ...] = ()
        if request.parts:
            parts = self._parts.again(request.parts)
        elif request.partitions > 1 and len(reading.spans) == 1 and not reading.skip:
            parts = self._parts.split(request.partitions)
        if len(parts) > 1:
            self._snapshot = self._session.export()
        return parts or ((Part(ALL),) if reading.spans else ())

    def _plan(self, after: Position | None, request: WindowRequest, bound: Bound | None) -> Reading:
        assert self._schema is not None
        identity = {**self._identity(), **what(self.table, self._query or "")}
        if self._incremental is not None and self._incremental.by == "xmin":
            found: Reading
            self._cursor, found = xmin.reading(self, after, identity, whole=request.whole, mode=request.mode)
            return found
        if self._incremental is not None:
            names = tuple(self._schema.names)
            column = cursor_column(self._incremental, names, request.mode, self.name)
            by = next(c for c in self._columns if c.name == column)
            if by.equality == NONE:
                why = f"cursor column {column} is {by.native}, whose values have no order"
                raise ConfigError(f"read {self.name}", why, "name another column in incremental.column")
            cursor = Cursor(self, by, bound)
            self._cursor = cursor
            plan = CursorPlan(cursor, self._incremental, identity, names, request.mode, self.name)
            return plan.reading(after, whole=request.whole, bound=bound)
        return snapshot(after, identity, self.name, whole=request.whole)

    def _identity(self) -> dict[str, Any]:
        """The server's system identifier and the database. A file system copy of a server has the same identifier."""
        sql = "SELECT system_identifier::text, current_database() FROM pg_catalog.pg_control_system()"
        [(system, database)] = self.rows(sql)
        return {"system": system, "database": database}

    @contextmanager
    def read(self, part: Part) -> Iterator[_PostgresStream]:
        """Several parts share the window's snapshot, each over its own connection. Raises a transient SourceError if
        the snapshot no longer exists."""
        if self._reading is None or self._schema is None or not self._session.open:
            raise lost_snapshot(f"read {self.name}")
        session = self._session
        if self._snapshot is not None:
            session = self._session.another()
            session.join(self._snapshot)
        try:
            yield _PostgresStream(self, session, part, self._schema, self._reading, self._batch_rows)
            with self._lock:
                self._left.discard(part.id)
        finally:
            session.end() if session is self._session else session.close()
            if not self._left:
                self.end()

    def ack(self, position: Position) -> None:
        """Nothing to acknowledge."""

    def close(self) -> None:
        self._session.close()

    # ---- columns

    @property
    def relation(self) -> str:
        """The SQL after FROM. A query may end with a comment, so the parenthesis is on the next line."""
        return f"({self._query}\n)" if self.table is None else self.dialect.name(self.table)

    def _look(self) -> None:
        """Read the columns as they are now. Lineage columns of an earlier load are left out: each target gets its own.
        Raises SourceError, ConfigError."""
        if self.table is not None:
            sql = (
                "SELECT c.oid FROM pg_catalog.pg_class AS c "
                "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
                "WHERE n.nspname = \0 AND c.relname = \0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
            )
            if not (found := self.rows(sql, self.table.parts)):
                row_key = f"the table or view does not exist in {self.where}"
                raise SourceError(f"read {self.name}", row_key, "correct the name; names are case-sensitive")
            columns = types.columns(self.rows(types.COLUMNS.replace("$1", str(found[0][0]))))
        else:
            columns = self._described()
        self._columns = [c for c in columns if c.name not in LINEAGE]
        if not self._columns:
            raise SourceError(f"read {self.name}", "it has no columns", "name a table or query with columns")
        if len({c.name for c in self._columns}) < len(self._columns):
            raise ConfigError(f"read {self.name}", "two columns have the same name", "rename one with AS")

    def _described(self) -> list[types.Column]:
        """The columns of the query, which LIMIT 0 plans without reading rows."""
        try:
            described = self._session.run(f"SELECT * FROM {self.relation} AS s LIMIT 0").description or []
        except SourceError as error:
            if sqlstate(error) == "42501":
                raise
            todo = "set query to one SELECT without parameters"
            raise ConfigError("read the query", error.found, todo) from error.__cause__
        return [self._column(d.name, d.type_code, d._fmod) for d in described]

    def _column(self, name: str, oid: int, modifier: int) -> types.Column:
        sql = (
            "WITH RECURSIVE base AS (SELECT \0::oid AS type, \0::int AS modifier "
            "UNION ALL SELECT t.typbasetype, t.typtypmod FROM base AS b "
            "JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype = 'd') "
            "SELECT pg_catalog.format_type(\0, \0), p.proname, b.modifier, t.oid < 16384 FROM base AS b "
            "JOIN pg_catalog.pg_type AS t "
            "ON t.oid = b.type AND t.typtype <> 'd' LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = t.typreceive"
        )
        [(native, receive, mod, builtin)] = self.rows(sql, (oid, modifier, oid, modifier))
        return types.Column(name, native, receive or "", mod, not_null=False, builtin=builtin)

    def _arrow(self) -> pa.Schema:
        return pa.schema([c.field(text=self.as_text(c)) for c in self._columns])

    def as_text(self, column: types.Column) -> bool:
        special = self.options.special_values == "text" and column.kind in types.SPECIAL
        return column.as_text or special

    # ---- reading

    def is_first(self, part: Part) -> bool:
        """Whether it is the first of the window's parts."""
        return part.id == self._first

    @property
    def server_version(self) -> int:
        return self._session.connection().info.server_version

    def columns_of(self) -> list[types.Column]:
        return self._columns

    def select(self, span: Span, part: Part, extra: Sequence[str] = ()) -> str:
        """The SELECT for the rows of a span in a part; ``extra``: columns to add at the end, as text."""
        shown = [self._shown(c) for c in self._columns] + [f"s.{self.dialect.quote(n)}::text" for n in extra]
        return f"SELECT {', '.join(shown)} FROM {self.relation} AS s{self._where(span, part)}"

    def _shown(self, column: types.Column) -> str:
        quoted = f"s.{self.dialect.quote(column.name)}"
        return column.text(quoted) if self.as_text(column) else quoted

    def _where(self, span: Span, part: Part) -> str:
        terms = [self._cursor.where(span) if self._cursor else "", self._parts.where(part)]
        condition = " AND ".join(filter(None, terms))
        return f" WHERE {condition}" if condition else ""

    def gathered(self, span: Span, part: Part, session: Session) -> Gathered | None:
        """Reads the part as arrays per column; None if the server cannot do that efficiently."""
        pages = self._parts.pages(part)
        if self.table is None or pages is None or (self._cursor and self._cursor.where(span)):
            return None
        if len(self._columns) > columns.MOST or not (found := session.rows(columns.PAGES, self.table.parts)):
            return None
        shown = [f"s.{self.dialect.quote(c.name)}" for c in self._columns]
        schema, (first, end) = self._arrow(), pages
        forms = columns.forms(schema, self._columns, shown, [self.as_text(c) for c in self._columns])
        made = Gathered(self.relation, schema, forms, first, found[0][0] if end is None else end, end is None)
        session.run("SET LOCAL jit = off")  # JIT costs more than it saves for many short statements
        sql, _ = made.select(first)
        plan = [line.strip().removeprefix("->").lstrip() for (line,) in session.rows(f"EXPLAIN (COSTS OFF) {sql}")]
        return made if any(line.startswith("Tid Range Scan") for line in plan) else None

    def native_select(self, span: Span, part: Part) -> str:
        names = self.dialect.columns([c.name for c in self._columns], "s")
        return f"SELECT {names} FROM {self.relation} AS s{self._where(span, part)}"


def _meant(name: Name, pattern: str) -> bool:
    return "." in pattern or name.parts[0] == "public"


class _PostgresStream(BatchStream):
    """``contract.Stream``."""

    filtered = 0
    native: tuple[str, ...] = ()

    def __init__(
        self, source: PostgresSource, session: Session, part: Part, schema: pa.Schema, reading: Reading, batch_rows: int
    ) -> None:
        # Rows that the window left out are counted once, not in every part.
        self.schema, self.filtered = schema, reading.nulls if source.is_first(part) else 0
        self._session, self._part = session, part
        self._source, self._reading, self._batch_rows = source, reading, batch_rows
        one_pass = not reading.skip and len(reading.spans) == 1
        self.native = (binary.FORMAT,) if one_pass and all(c.portable for c in source.columns_of()) else ()

    def batches(self) -> Iterator[pa.RecordBatch]:
        done = 0
        for i, span in enumerate(self._reading.spans):
            skip = dict(self._reading.skip) if i == 0 else {}
            row_key = self._reading.row_key if skip else ()
            for batch in self._of(span, row_key, done):
                done += batch.num_rows
                yield self._unseen(batch, row_key, skip) if skip else batch
        self._session.end()

    def _of(self, span: Span, row_key: Sequence[str], done: int) -> Iterator[pa.RecordBatch]:
        if not row_key and (found := self._source.gathered(span, self._part, self._session)):
            return self._gathered(found, done)
        return self._decoded(self._source.select(span, self._part, row_key), len(row_key), done)

    def _gathered(self, gathered: Gathered, done: int) -> Iterator[pa.RecordBatch]:
        step, at, more = columns.FEW, gathered.first, True
        while more:
            largest = 0
            sql, at = gathered.select(at, step)
            for [message] in binary.rows(self._session.copy(sql, 1, 1)):
                largest = max(largest, len(message))
                try:
                    batch = gathered.decode(message)
                except Unstorable as error:
                    raise self._refused(error, done) from None
                done += batch.num_rows
                for start in range(0, batch.num_rows, self._batch_rows):
                    yield batch.slice(start, self._batch_rows)
            step, more = columns.pages(step, largest), at < gathered.end

    def _decoded(self, sql: str, extra: int, done: int) -> Iterator[pa.RecordBatch]:
        columns = self._source.columns_of()
        kinds = ["text" if self._source.as_text(c) else c.kind or "text" for c in columns] + ["text"] * extra
        schema = pa.schema([*self.schema, *(pa.field(f"{PREFIX}told_{i}", pa.string()) for i in range(extra))])
        for rows in binary.rows(self._session.copy(sql, self._batch_rows, _BATCH_BYTES)):
            try:
                batch = binary.decode(rows, schema, kinds)
            except Unstorable as error:
                raise self._refused(error, done) from None
            done += batch.num_rows
            yield batch

    def _refused(self, error: Unstorable, done: int) -> DataError:
        found = f"column {error.column}, row {done + error.row + 1:,} of the read: {error.reason}"
        todo = "correct the value, set options.special_values: text, or cast the column in a query"
        return DataError(f"read {self._source.name}", found, todo)

    def _unseen(self, batch: pa.RecordBatch, row_key: Sequence[str], skip: dict[str, int]) -> pa.RecordBatch:
        """The batch without rows that were loaded before. Counts ``skip`` down."""
        texts = zip(*(batch.column(i).to_pylist() for i in range(len(self.schema), batch.num_columns)), strict=True)
        bare = batch.select(self.schema.names)
        return bare.filter(new_rows(texts, skip))

    def open_native(self, format: str) -> Iterator[bytes]:
        """Blocks of a binary COPY stream with its header and trailer. Raises SourceError."""
        if format != binary.FORMAT:
            raise SourceError(f"read {self._source.name}", f"no native format {format}", "use batches")
        sql = self._source.native_select(self._reading.spans[0], self._part)
        for rows in self._session.copy(sql, _BLOCK_BYTES, _BLOCK_BYTES):
            yield b"".join(rows)
        self._session.end()
