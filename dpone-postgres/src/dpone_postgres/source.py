"""Source: a table, a view or a query of a PostgreSQL database, in one snapshot, whole or by cursor column."""

from __future__ import annotations

import hashlib
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import psycopg
import pyarrow as pa

from dpone.contract import Finding, Part, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SourceError
from dpone.pipeline import SourceSpec
from dpone.position import Position
from dpone.schema import LINEAGE, PREFIX, Name
from dpone.sql.cursor import CursorPlan, Reading, Span, cursor_column, digest, require_same
from dpone_postgres import binary, types, xmin
from dpone_postgres.binary import Refused
from dpone_postgres.config import PostgresSourceOptions
from dpone_postgres.connect import connect, parameters, table_name, where
from dpone_postgres.cursor import Cursor
from dpone_postgres.database import PostgresDialect, numbered
from dpone_postgres.errors import failing

_BATCH_ROWS = 10_000
_BATCH_BYTES = 8_000_000
_BLOCK_BYTES = 1 << 18
_VIEW = PREFIX + "query"


class PostgresSource:
    """``contract.Source``. The snapshot is a REPEATABLE READ transaction from ``window`` to the end of the read, so
    that rows, highest cursor value and counts are of one moment."""

    def __init__(self, spec: SourceSpec) -> None:
        self.options = spec.options if isinstance(spec.options, PostgresSourceOptions) else PostgresSourceOptions()
        self._incremental = spec.options.incremental
        if self._incremental is not None and self._incremental.by not in ("cursor", "xmin"):
            found = f"incremental.by: {self._incremental.by}"
            raise ConfigError("read source postgres", found, "use by: cursor or by: xmin")
        self._given = parameters(spec.connection)
        self.table = table_name(spec.table) if spec.table else None
        self._query = (spec.query or "").strip().rstrip(";").rstrip() if spec.table is None else None
        self.name = str(self.table) if self.table else "the query"
        self.dialect = PostgresDialect()
        self._db: psycopg.Connection[Any] | None = None
        self._columns: list[types.Column] = []
        self._schema: pa.Schema | None = None
        self._reading: Reading | None = None
        self._cursor: Cursor | xmin.Xmin | None = None
        self._batch_rows = _BATCH_ROWS

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
        """Tables, views and foreign tables of every schema but the system's, without dpone's own. A pattern without a
        dot is of the schema public."""
        sql = (
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
            "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition "
            "AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
        )
        names = [Name(found[:2]) for found in self.rows(sql) if not found[1].startswith(PREFIX)]
        shown = (n.sibling(n.last) if "." in pattern else Name((n.last,)) for n in names if _meant(n, pattern))
        return sorted(str(n) for n in shown if fnmatchcase(str(n), pattern))

    def schema(self) -> pa.Schema:
        try:
            self._begin()
            self._look()
            return self._arrow()
        finally:
            self.end()

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Opens the snapshot. Without ``incremental`` every window is the whole table."""
        self.end()
        self._begin()
        try:
            self._batch_rows = request.batch_rows or _BATCH_ROWS
            self._look()
            self._schema = self._arrow()
            self._reading = reading = self._plan(after, request)
        except BaseException:
            self.end()
            raise
        parts = (Part("all", {"spans": len(reading.spans)}),) if reading.spans else ()
        if not parts:
            self.end()
        whole = request.whole or self._incremental is None
        return Window(reading.position, parts, False, self._schema, whole, True, reading.proof)

    def _plan(self, after: Position | None, request: WindowRequest) -> Reading:
        assert self._schema is not None
        identity = {**self._identity(), **self._what()}
        if self._incremental is not None and self._incremental.by == "xmin":
            found: Reading
            self._cursor, found = xmin.reading(self, after, identity, whole=request.whole, mode=request.mode)
            return found
        if self._incremental is not None:
            names = tuple(self._schema.names)
            column = cursor_column(self._incremental, names, request.mode, self.name)
            cursor = Cursor(self, next(c for c in self._columns if c.name == column))
            self._cursor = cursor
            plan = CursorPlan(cursor, self._incremental, identity, names, request.mode, self.name)
            return plan.reading(after, whole=request.whole)
        if after is not None and not request.whole:
            require_same(after, "snapshot", identity, self.name)
        value = {"taken_at": datetime.now(UTC).isoformat(timespec="microseconds")}
        position = Position("snapshot", identity, value, after.epoch if after else 0)
        return Reading(position, (Span(),), "one snapshot holds the whole of the source")

    def _identity(self) -> dict[str, Any]:
        """Of the cluster: its system identifier; a copy of it made by the file system has the same."""
        sql = "SELECT system_identifier::text, current_database() FROM pg_catalog.pg_control_system()"
        [(system, database)] = self.rows(sql)
        return {"system": system, "database": database}

    def _what(self) -> dict[str, str]:
        if self.table is not None:
            return {"table": str(self.table)}
        return {"query": hashlib.sha256((self._query or "").encode()).hexdigest()[:16]}

    @contextmanager
    def read(self, part: Part) -> Iterator[_PostgresStream]:
        if self._reading is None or self._schema is None or self._db is None or not self._in_transaction():
            raise SourceError(f"read {self.name}", "the snapshot of the window is gone", "begin a new window")
        try:
            yield _PostgresStream(self, self._schema, self._reading, self._batch_rows)
        finally:
            self.end()

    def ack(self, position: Position) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # ---- the connection

    def connection(self) -> psycopg.Connection[Any]:
        if self._db is None or self._db.closed:
            options = self.options
            self._db = connect(
                self._given, SourceError, lock_timeout=options.lock_timeout, statement_timeout=options.statement_timeout
            )
        return self._db

    def _in_transaction(self) -> bool:
        idle = psycopg.pq.TransactionStatus.IDLE
        return self._db is not None and not self._db.closed and self._db.info.transaction_status != idle

    def _begin(self) -> None:
        """READ ONLY: a query cannot write, whatever functions it calls."""
        if self._query == "":
            raise ConfigError("read the query", "it is empty", "give one SELECT")
        self._run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def end(self) -> None:
        """The end of the snapshot."""
        if self._db is None:
            return
        if self._db.closed or self._db.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            self.close()  # in the midst of a COPY that nobody reads on
        elif self._in_transaction():
            try:
                self._run("ROLLBACK")
            except DponeError:
                self.close()

    def _run(self, sql: str, given: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        with failing(SourceError, f"read {self.name} at {self.where}"):
            cursor: psycopg.Cursor[Any] = psycopg.RawCursor(self.connection())
            return cursor.execute(numbered(sql), given or None)

    def rows(self, sql: str, given: Sequence[Any] = ()) -> list[Any]:
        with failing(SourceError, f"read {self.name} at {self.where}"):
            return self._run(sql, given).fetchall()

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows of a query of any size, a few thousand at a time."""
        db = self.connection()
        with failing(SourceError, f"read {self.name} at {self.where}"), db.cursor(PREFIX + "rows") as cursor:
            cursor.itersize = 5_000
            yield from cursor.execute(sql)

    def copy(self, sql: str) -> Iterator[Any]:
        """Messages of ``COPY (sql) TO STDOUT (FORMAT binary)``: the header with the first row, a row each, the trailer.

        Read below psycopg's own iterator, which takes three times as long per row; and never with a blocking call,
        which would hold the interpreter's lock.
        """
        db = self.connection()
        with failing(SourceError, f"read {self.name} at {self.where}"):
            raw = db.pgconn
            raw.send_query(f"COPY ({sql}) TO STDOUT (FORMAT binary)".encode())
            _until_copying(raw)
            get, done = raw.get_copy_data, False
            try:
                while True:
                    size, message = get(1)
                    if size > 0:
                        yield message
                    elif size == 0:
                        _wait(raw)
                    else:
                        break
                done = True
            finally:
                if not done:
                    db.close()
            _require_ok(raw)

    # ---- columns

    @property
    def relation(self) -> str:
        return f"({self._query})" if self.table is None else self.dialect.name(self.table)

    def _look(self) -> None:
        """Columns as they are now. Lineage of an earlier load is left out: it says where a row came from then, and each
        target gets its own."""
        if self.table is not None:
            sql = (
                "SELECT c.oid FROM pg_catalog.pg_class AS c "
                "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
                "WHERE n.nspname = \0 AND c.relname = \0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
            )
            if not (found := self.rows(sql, self.table.parts)):
                told = f"there is no such table or view in {self.where}"
                raise SourceError(f"read {self.name}", told, "correct the name; names are case-sensitive")
            columns = types.columns(self.rows(types.COLUMNS.replace("$1", str(found[0][0]))))
        else:
            columns = self._described()
        self._columns = [c for c in columns if c.name not in LINEAGE]
        if len({c.name for c in self._columns}) < len(self._columns):
            raise ConfigError(f"read {self.name}", "two columns have one name", "give each a name with AS")

    def _described(self) -> list[types.Column]:
        """The columns of the query, which is planned and not run."""
        try:
            described = self._run(f"SELECT * FROM {self.relation} AS s LIMIT 0").description or []
        except SourceError as error:
            raise ConfigError("read the query", error.found, "give one SELECT without parameters") from error.__cause__
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

    def columns_of(self) -> list[types.Column]:
        return self._columns

    def select(self, span: Span, extra: Sequence[str] = ()) -> str:
        """The rows of a span; ``extra``: columns, as text, behind the others."""
        shown = [self._shown(c) for c in self._columns] + [f"s.{self.dialect.quote(n)}::text" for n in extra]
        return f"SELECT {', '.join(shown)} FROM {self.relation} AS s{self._where(span)}"

    def _shown(self, column: types.Column) -> str:
        quoted = f"s.{self.dialect.quote(column.name)}"
        return f"{quoted}::text" if self.as_text(column) else quoted

    def _where(self, span: Span) -> str:
        condition = self._cursor.where(span) if self._cursor else ""
        return f" WHERE {condition}" if condition else ""

    def native_select(self, span: Span) -> str:
        names = self.dialect.columns([c.name for c in self._columns], "s")
        return f"SELECT {names} FROM {self.relation} AS s{self._where(span)}"


def _meant(name: Name, pattern: str) -> bool:
    return "." in pattern or name.parts[0] == "public"


def _until_copying(raw: Any) -> None:
    result = _result(raw)
    if result is None or result.status != psycopg.pq.ExecStatus.COPY_OUT:
        _fail(raw, result)


def _require_ok(raw: Any) -> None:
    """The command's own result, then the end."""
    result = _result(raw)
    if result is None or result.status != psycopg.pq.ExecStatus.COMMAND_OK:
        _fail(raw, result)
    while _result(raw) is not None:
        pass


def _fail(raw: Any, result: Any) -> None:
    error = psycopg.errors.error_from_result(result) if result is not None else psycopg.OperationalError("no answer")
    while raw.status == psycopg.pq.ConnStatus.OK and _result(raw) is not None:
        pass
    raise error


def _result(raw: Any) -> Any:
    raw.flush()
    while raw.is_busy():
        _wait(raw)
    return raw.get_result()


def _wait(raw: Any) -> None:
    while not select.select([raw.socket], [], [], 10.0)[0]:
        pass
    raw.consume_input()


class _PostgresStream:
    """``contract.Stream``."""

    def __init__(self, source: PostgresSource, schema: pa.Schema, reading: Reading, batch_rows: int) -> None:
        self.schema, self.filtered = schema, reading.nulls
        self._source, self._reading, self._batch_rows = source, reading, batch_rows
        one_pass = not reading.skip and len(reading.spans) == 1
        self.native = (binary.FORMAT,) if one_pass and all(c.portable for c in source.columns_of()) else ()

    def batches(self) -> Iterator[pa.RecordBatch]:
        done = 0
        for i, span in enumerate(self._reading.spans):
            skip = dict(self._reading.skip) if i == 0 else {}
            told = self._reading.told if skip else ()
            for batch in self._decoded(self._source.select(span, told), len(told), done):
                done += batch.num_rows
                yield self._unseen(batch, told, skip) if skip else batch
        self._source.end()

    def _decoded(self, sql: str, extra: int, done: int) -> Iterator[pa.RecordBatch]:
        columns = self._source.columns_of()
        kinds = ["text" if self._source.as_text(c) else c.kind or "text" for c in columns] + ["text"] * extra
        schema = pa.schema([*self.schema, *(pa.field(f"{PREFIX}told_{i}", pa.string()) for i in range(extra))])
        rows, take = binary.messages(self._source.copy(sql)), min(self._batch_rows, 1000)
        while chunk := list(islice(rows, take)):
            try:
                batch = binary.decode(chunk, schema, kinds)
            except Refused as error:
                raise self._refused(error, done) from None
            done += batch.num_rows
            take = max(1, min(self._batch_rows, _BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)))
            yield batch

    def _refused(self, error: Refused, done: int) -> DataError:
        found = f"column {error.column}, row {done + error.row + 1:,} of the read: {error.reason}"
        todo = "correct the value, or state options.special_values: text, or cast the column in a query"
        return DataError(f"read {self._source.name}", found, todo)

    def _unseen(self, batch: pa.RecordBatch, told: Sequence[str], skip: dict[str, int]) -> pa.RecordBatch:
        """Without rows that were loaded before. ``skip`` is counted down."""
        texts = zip(*(batch.column(i).to_pylist() for i in range(len(self.schema), batch.num_columns)), strict=True)
        new = []
        for row in texts:
            mark = digest(row)
            new.append(not skip.get(mark, 0))
            skip[mark] = max(skip.get(mark, 0) - 1, 0)
        bare = batch.select(self.schema.names)
        return bare.filter(pa.array(new, pa.bool_()))

    def open_native(self, format: str) -> Iterator[bytes]:
        """Blocks of rows, header and trailer included."""
        if format != binary.FORMAT:
            raise SourceError(f"read {self._source.name}", f"no native format {format}", "use batches")
        rows: list[bytes] = []
        size = 0
        for row in self._source.copy(self._source.native_select(self._reading.spans[0])):
            rows.append(row)
            size += len(row)
            if size >= _BLOCK_BYTES:
                yield b"".join(rows)
                rows.clear()
                size = 0
        yield b"".join(rows)
        self._source.end()
