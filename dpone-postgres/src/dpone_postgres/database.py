"""The database of a target, as the shared SQL layer needs it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
from attrs import Factory, define

from dpone.errors import DataError, SinkError
from dpone.model.evolution import SchemaChange, Stored
from dpone.model.schema import LINEAGE, NATIVE, Name
from dpone.model.types import limit_of
from dpone.sql.dialect import Database, Dialect, Reference
from dpone.sql.values import Unstorable
from dpone_postgres import binary, types
from dpone_postgres.config import PostgresSinkOptions
from dpone_postgres.connect import connect, where
from dpone_postgres.errors import failing
from dpone_postgres.rows import as_type, csv, pieces
from dpone_postgres.waiting import Connection, asking

_HOLE = "\0"  # identifiers and literals cannot contain it, so it needs no escaping

# A primary's timeline is in the names of its WAL files. The one in the last checkpoint is out of date for a while
# after a promotion.
TIMELINE = """(SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN c.timeline_id ELSE ('x' || pg_catalog.substr(
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END
    FROM pg_catalog.pg_control_checkpoint() AS c)"""


class PostgresDialect(Dialect):
    placeholder = _HOLE
    max_identifier = 63  # NAMEDATALEN - 1; the server truncates a longer name instead of rejecting it
    max_columns = 1_600  # MaxHeapAttributeNumber; the server counts dropped columns too
    # Quoted columns of the target with a nondeterministic collation: different texts can be equal.
    nondeterministic: frozenset[str] = frozenset()
    exact_names = True

    def stores(self, type: pa.DataType) -> Stored:
        return types.stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return types.reads(native)

    def column(self, field: pa.Field) -> str:
        """A column from another PostgreSQL keeps its native type."""
        native = types.native(field) or self._made(field)
        return f"{self.quote(field.name)} {native}{_collate(field)}{'' if field.nullable else ' NOT NULL'}"

    def parameter(self, value: Any, type: pa.DataType) -> Any:
        """As text, which the server parses as the column's type; a datetime as it is. Raises ValueError."""
        if isinstance(value, datetime):
            return value
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(type, pa.BaseExtensionType) or pa.types.is_binary(type):
            return text
        read = pa.array([text]).cast(type)
        zoneless = pa.types.is_timestamp(type) and type.tz and not re.search(r"(Z|[+-]\d\d(:?\d\d)?)$", text)
        if zoneless or read.null_count:
            raise ValueError
        return text

    def exact(self, expression: str, type: pa.DataType) -> str:
        _, _, column = expression.partition(".")
        return f'{expression} COLLATE pg_catalog."C"' if column in self.nondeterministic else expression

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        return self.unlike(left, right)

    def differ(self, schema: pa.Schema, names: Sequence[str], left: str = "t", right: str = "s") -> str:
        return self.unlike(self.columns(names, left), self.columns(names, right))

    def unlike(self, left: str, right: str) -> str:
        """Compares the binary images of the values (``record_image_ne``): exact whatever the collation, also for types
        without an equality operator (json, xml, point); NULL equals NULL. Without the casts the server would expand
        the rows into a comparison column by column."""
        return f"(ROW({left})::record *<> ROW({right})::record)"

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        """Without COLLATE the column would get the default collation of the new type (ALTER TABLE)."""
        old, new = self._word(before), self._word(after)
        column = f"ALTER TABLE {self.name(table)} ALTER COLUMN {self.quote(after.name)}"
        return [] if old == new else [f"{column} TYPE {new}{_collate(before)}"]

    def retype_column(self, table: Name, after: pa.Field) -> list[str]:
        """Replaces the type and all values by NULL. Keys, indexes and grants stay; the default may not fit the new
        type."""
        alter = f"ALTER COLUMN {self.quote(after.name)}"
        word = self._word(after)
        return [f"ALTER TABLE {self.name(table)} {alter} DROP DEFAULT, {alter} TYPE {word} USING NULL::{word}"]

    def _word(self, column: pa.Field) -> str:
        """The SQL type of a target column: its native name from the catalogue if that means the same type."""
        word = (column.metadata or {}).get(NATIVE, b"").decode(errors="replace")
        return word if word and self.reads(word) == column.type else types.native(column) or self._made(column)

    def _made(self, column: pa.Field) -> str:
        """A text with a length limit in the source gets the same limit here."""
        most = limit_of(column)
        return self.stores(column.type).native if most is None else f"character varying({most})"

    def rewrites(self, change: SchemaChange) -> str:
        before, after = change.before, change.after
        locked = "while other sessions can neither read nor write (ACCESS EXCLUSIVE)"
        if change.kind == "widen" and before is not None and after is not None:
            kept = types.binary_coercible(self._word(before), self._word(after))
            return "" if kept else f"every row and index, {locked}"
        if change.kind == "add" and after is not None and (own := types.native(after)) and self.reads(own) is None:
            return f"every row and index, {locked}, if {own} is a domain with a constraint"
        return ""

    def insert_into(self, target: Name, names: Iterable[str]) -> str:
        """With OVERRIDING SYSTEM VALUE an identity column takes the given values, also if it is GENERATED ALWAYS; the
        clause has no effect on other columns."""
        return f"{super().insert_into(target, names)} OVERRIDING SYSTEM VALUE"

    def upsert(
        self, target: Name, source: str, schema: pa.Schema, key: Sequence[str], compared: Sequence[str], matched: str
    ) -> str:
        names = schema.names
        values = [n for n in names if n not in key] or key
        sets = ", ".join(f"{self.quote(n)} = excluded.{self.quote(n)}" for n in values)
        row, given = self.columns(compared, "t"), self.columns(compared, "excluded")
        differs = self.unlike(row, given) if compared else "true"
        rows = f"SELECT {self.columns(names, 's')} FROM {source} AS s"
        into = f"INSERT INTO {self.name(target)} AS t ({self.columns(names)}) OVERRIDING SYSTEM VALUE"
        return f"{into} {rows} ON CONFLICT ({self.columns(key)}) DO UPDATE SET {sets} WHERE {matched} AND {differs}"


@define
class _Session:
    """One connection, shared by all targets that are written over it. ``locked``: the targets that every transaction
    locks while a load is being committed."""

    db: Connection | None = None
    locked: tuple[Name, ...] = ()
    idle: deque[_Session] = Factory(deque)  # further connections, over which parts were staged in parallel


class PostgresDatabase(Database):
    """``dpone.sql.dialect.Database``. Connects on first use. A lost connection is never replaced: its transaction,
    locks and staging state went with it, so the engine must start the load from the beginning."""

    def __init__(self, given: Mapping[str, str], options: PostgresSinkOptions, target: Name) -> None:
        self._words = PostgresDialect()
        self.dialect: Dialect = self._words
        self._given, self._options, self._target = given, options, target
        self._session = _Session()
        self.unlogged = False  # whether the staging is UNLOGGED, as no run would resume it after a crash
        self._among = False  # one of several connections that stage in parallel

    @contextmanager
    def another(self) -> Iterator[PostgresDatabase]:
        """Another connection, to stage one part in parallel with others, from any thread. These connections hold the
        lock of the load in shared mode, which excludes transactions that need it alone, and never alter the staging
        table."""
        other = PostgresDatabase(self._given, self._options, self._target)
        other._among = True
        with suppress(IndexError):
            other._session = self._session.idle.pop()
        try:
            yield other
        except BaseException:
            other.close()
            raise
        self._session.idle.append(other._session)

    def for_table(self, target: Name) -> PostgresDatabase:
        """A database for another target, over the same connection and in the same transactions."""
        other = type(self)(self._given, self._options, target)
        other._session = self._session
        return other

    @property
    def where(self) -> str:
        return where(self._given)

    def connection(self) -> Connection:
        if self._session.db is None:
            options = self._options
            self._session.db = connect(
                self._given,
                SinkError,
                lock_timeout=options.lock_timeout,
                statement_timeout=options.statement_timeout,
                silence_timeout=options.silence_timeout,
                row_security=options.row_security,
            )
        return self._session.db

    def close(self) -> None:
        for session in (self._session, *self._session.idle):
            if session.db is not None:
                session.db.close()
                session.db = None
        self._session.idle.clear()

    # ---- transactions

    @contextmanager
    def committing(self, targets: Iterable[Name]) -> Iterator[None]:
        """Transactions in this block lock the targets, so that loads with other keys wait instead of conflicting row by
        row. The order is the same for every load: two loads that share targets cannot deadlock."""
        self._session.locked = tuple(sorted({*targets}, key=lambda name: name.parts))
        try:
            yield
        finally:
            self._session.locked = ()

    def begin(self, lock: str) -> None:
        """Begin a transaction and take its locks, that of the load's key first, then those of the targets, so that lock
        order is always the same. READ COMMITTED, so that each statement sees what was committed before the locks were
        granted."""
        self.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        for text in (lock, *(f"target {target}" for target in self._session.locked)):
            self.lock(text)

    def lock(self, text: str) -> None:
        """Take an advisory lock until the end of the transaction."""
        how = "pg_advisory_xact_lock_shared" if self._among else "pg_advisory_xact_lock"
        self.rows(f"SELECT pg_catalog.{how}(pg_catalog.hashtextextended({_HOLE}, 0))", (text,))

    def rollback(self) -> None:
        db = self._session.db
        if db is None or db.closed:
            return
        if db.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            try:
                self.execute("ROLLBACK")
            except SinkError:  # the connection was lost, which rolled the transaction back
                db.close()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self._failing():
            return self._run(sql, parameters).rowcount

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._failing():
            return self._run(sql, parameters).fetchall()

    def _run(self, sql: str, parameters: Sequence[Any]) -> psycopg.Cursor[Any]:
        return asking(self.connection(), sql).execute(numbered(sql), parameters or None)

    def _failing(self) -> AbstractContextManager[None]:
        return failing(SinkError, f"write {self._target} at {self.where}")

    # ---- tables

    def schema(self, table: Name) -> pa.Schema | None:
        """Without generated columns, which cannot be written. None if the table does not exist."""
        found = self.columns(table)
        return None if found is None else pa.schema([_collated(c) for c in found if not c.generated])

    def columns(self, table: Name) -> list[types.Column] | None:
        """None if the table does not exist. Looked up again if another run swaps the table between the two queries: the
        old one then has no columns any more."""
        oid = self.oid(table)
        while oid is not None:
            found = types.columns(self.rows(types.COLUMNS.replace("$1", str(oid))))
            if found or (now := self.oid(table)) == oid:
                return found
            oid = now
        return None

    def oid(self, table: Name) -> int | None:
        sql = (
            "SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
            f"ON n.oid = c.relnamespace WHERE n.nspname = {_HOLE} AND c.relname = {_HOLE}"
        )
        found = self.rows(sql, table.parts)
        if not found:
            return None
        oid, kind = found[0]
        if kind not in "rp":
            what = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}
            is_ = f"it is {what.get(kind, 'an index or a type')}, not a table"
            raise SinkError(f"write {table}", is_, "name a table")
        return int(oid)

    # ---- loading

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """Load by binary COPY; by CSV, which the types' input functions parse, if dpone cannot encode a column's type
        in binary. Returns the number of rows. Raises DataError for a value that does not fit."""
        targets = self._targets(table, schema)
        kinds = [c.kind if not c.as_text else None for c in targets]
        limited = {c.name: c for c in targets if c.limit is not None or c.digits is not None}
        binary_form = None not in kinds
        written = 0
        with (
            self._lineage_aside(table, lineage) as freeze,
            self._copy_in(table, schema.names, binary_form, freeze) as copy,
        ):
            if binary_form:
                copy.write(binary.HEADER)
            for batch in batches:
                for piece in pieces(batch.select(schema.names)):
                    copy.write(_encoded(piece, schema, kinds, limited, written))
                    written += piece.num_rows
            if binary_form:
                copy.write(binary.TRAILER)
        return written

    def load_binary(
        self, table: Name, names: Sequence[str], blocks: Iterable[bytes], lineage: Mapping[str, Any]
    ) -> tuple[int, int]:
        """As ``load``, for a binary COPY stream that another PostgreSQL made from columns of the same types, passed
        through unchanged. Returns rows and bytes written."""
        size = 0
        with self._lineage_aside(table, lineage) as freeze, self._copy_in(table, names, True, freeze) as copy:
            for block in blocks:
                copy.write(block)
                size += len(block)
        return copy.cursor.rowcount, size

    def _targets(self, table: Name, schema: pa.Schema) -> list[types.Column]:
        known = {c.name: c for c in self.columns(table) or ()}
        return [known[name] for name in schema.names]

    @contextmanager
    def _copy_in(self, table: Name, names: Sequence[str], binary_form: bool, freeze: bool) -> Iterator[psycopg.Copy]:
        into = f"{self.dialect.name(table)} ({self.dialect.columns(names)})"
        options = f"FORMAT {'binary' if binary_form else 'csv'}{', FREEZE' if freeze else ''}"
        sql = f"COPY {into} FROM STDIN ({options})"
        with self._failing(), asking(self.connection(), sql).copy(sql) as copy:
            yield copy

    @contextmanager
    def _lineage_aside(self, stage: Name, lineage: Mapping[str, Any]) -> Iterator[bool]:
        """Lineage is the same in every row of a load. The first part is loaded into a table without it that is created
        in the same transaction (so COPY may use FREEZE). Then the columns are added with constant defaults, which the
        catalogue stores without rewriting a row (ALTER TABLE, Notes; since PostgreSQL 11). Later parts leave the
        columns out and get the defaults. The primary key, too, is created when the rows are there: one sort costs less
        time and WAL than inserting each row into the index. Parallel parts have no first one (``make_bare``)."""
        if self._among:
            yield False
            return
        first = not self.rows(f"SELECT EXISTS (SELECT 1 FROM {self.dialect.name(stage)})")[0][0]
        key = self._recreate(stage, lineage) if first else ()
        yield first
        if first:
            self.complete(stage, key, lineage)

    def make_bare(self, stage: Name, lineage: Mapping[str, Any]) -> None:
        """Create an empty staging table without key and lineage, into which parts are loaded in parallel. It is not
        created in their transactions, so COPY cannot use FREEZE."""
        self._recreate(stage, lineage)

    def complete(self, stage: Name, key: Sequence[str], lineage: Mapping[str, Any]) -> None:
        """Add the primary key and lineage once all rows are staged, if they are not there yet."""
        if key and not self.primary_key(stage):
            self.execute(f"ALTER TABLE {self.dialect.name(stage)} ADD PRIMARY KEY ({self.dialect.columns(key)})")
        self._add_constants(stage, lineage)

    def _add_constants(self, stage: Name, lineage: Mapping[str, Any]) -> None:
        have, d = {c.name for c in self.columns(stage) or ()}, self.dialect
        for name, value in lineage.items():
            if name not in have:
                field = pa.field(name, pa.scalar(value).type)
                self.execute(f"{d.add_column(stage, field)} DEFAULT {d.literal(_constant(value))}")

    def _recreate(self, stage: Name, lineage: Mapping[str, Any]) -> tuple[str, ...]:
        """Recreate the staging table without primary key, whose columns are returned, and without lineage, which is
        added later as the last columns. If the target has other columns after its lineage, the order would differ; then
        the lineage columns are kept and get defaults instead."""
        shape, d = self.schema(stage), self.dialect
        assert shape is not None, "the staging was made when the load was opened"
        key = self.primary_key(stage)
        last = shape.names[len(shape) - len(lineage) :] == [*lineage]
        columns = pa.schema([f for f in shape if not (last and f.name in lineage)])
        self.execute(d.drop_table(stage))
        sql = d.create_table(stage, columns)
        self.execute(sql.replace("CREATE TABLE", "CREATE UNLOGGED TABLE", 1) if self.unlogged else sql)
        for name, value in lineage.items():
            if name not in columns.names:
                continue
            sets = f"ALTER COLUMN {d.quote(name)} SET DEFAULT {d.literal(_constant(value))}"
            self.execute(f"ALTER TABLE {d.name(stage)} {sets}")
        return key

    def primary_key(self, table: Name) -> tuple[str, ...]:
        sql = (
            "SELECT a.attname FROM pg_catalog.pg_index AS i, unnest(i.indkey::int[]) WITH ORDINALITY AS k(attnum, n) "
            "JOIN pg_catalog.pg_attribute AS a ON a.attnum = k.attnum "
            f"WHERE i.indisprimary AND a.attrelid = i.indrelid AND i.indrelid = {_HOLE} ORDER BY k.n"
        )
        return tuple(name for (name,) in self.rows(sql, (self.oid(table),)))

    # ---- what the finalizers ask

    def unique(self, table: Name, key: Sequence[str]) -> bool:
        """Whether a full, immediate unique index on exactly these columns exists, as ON CONFLICT needs. Without one a
        commit runs UPDATE and then INSERT; it locks the table so that no other writer comes between the two."""
        sql = (
            "SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.indrelid "
            "AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) "
            "FROM pg_catalog.pg_index AS i WHERE i.indisunique AND i.indimmediate AND i.indisvalid "
            f"AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid = {_HOLE}"
        )
        found = any({*names} == {*key} for (names,) in self.rows(sql, (self.oid(table),)))
        if not found and self._session.locked:
            self.execute(f"LOCK TABLE {self.dialect.name(table)} IN SHARE ROW EXCLUSIVE MODE")
        return found

    def upsert(
        self, target: Name, source: str, schema: pa.Schema, key: Sequence[str], compared: Sequence[str]
    ) -> tuple[int, int]:
        """Returns how many target rows were matched, and how many rows were written. RETURNING shows xmax = 0 for an
        inserted row; ON CONFLICT DO UPDATE locks a row before it updates it, which sets xmax."""
        statement = self.dialect.upsert(target, source, schema, key, (), self._changed(target, compared))
        if self._partitioned(target):  # RETURNING of a partitioned table has no xmax
            return self.count_matches(target, source, schema, key), self.execute(statement)
        counted = "SELECT count(*), count(*) FILTER (WHERE w.fresh) FROM w"
        [(written, fresh)] = self.rows(f"WITH w AS ({statement} RETURNING (t.xmax = 0) AS fresh) {counted}")
        [(read,)] = self.rows(f"SELECT count(*) FROM {source} AS s")
        return int(read) - int(fresh), int(written)

    def _partitioned(self, table: Name) -> bool:
        sql = f"SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = {_HOLE}"
        return bool(self.rows(sql, (self.oid(table),))[0][0])

    def _changed(self, target: Name, compared: Sequence[str]) -> str:
        """As ``Dialect.differs`` for all columns at once; uses the types' own equality if that is exact, which takes a
        tenth of the time."""
        nondeterministic = self.nondeterministic(target)
        known = {c.name: c.exact_equality and c.name not in nondeterministic for c in self.columns(target) or ()}
        d = self.dialect
        terms = [f"t.{d.quote(n)} IS DISTINCT FROM excluded.{d.quote(n)}" for n in compared if known[n]]
        if images := [n for n in compared if not known[n]]:
            terms.append(self._words.unlike(d.columns(images, "t"), d.columns(images, "excluded")))
        return f"({' OR '.join(terms) or 'false'})"

    def nondeterministic(self, table: Name) -> set[str]:
        """Columns with a nondeterministic collation: different texts can be equal."""
        sql = (
            "SELECT a.attname FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_collation AS c "
            f"ON c.oid = a.attcollation WHERE NOT c.collisdeterministic AND a.attrelid = {_HOLE}"
        )
        return {name for (name,) in self.rows(sql, (self.oid(table),))}

    def set_nondeterministic(self, table: Name) -> None:
        self._words.nondeterministic = frozenset(map(self.dialect.quote, self.nondeterministic(table)))

    def is_swappable(self, table: Name, key: Sequence[str]) -> bool:
        """Whether a swap loses nothing (see ``attached``). Grants do not count: a swap copies them to the new table."""
        if self.full_refresh in ("truncate", "delete"):
            return False
        oid = self.oid(table)
        return oid is not None and self.primary_key(table) == tuple(key) and not self.attached(table)

    @property
    def full_refresh(self) -> str:
        return self._options.full_refresh

    def attached(self, table: Name) -> list[str]:
        """What depends on the table or belongs to it, and would be lost with it; words for a message."""
        return [
            what for what, found in zip(_HANGING, self.rows(_HANGING_SQL, (self.oid(table),))[0], strict=True) if found
        ]

    def views_on(self, table: Name, columns: Sequence[str]) -> list[str]:
        """Statements that drop the views that read these columns, directly or through other views, in an order that
        works."""
        return [statement for (statement,) in self.rows(_VIEWS, (self.oid(table), list(columns)))]

    def clear(self, table: Name) -> int:
        """Delete all rows and return how many there were. By TRUNCATE if nothing depends on single DELETEs
        (docs/connectors/postgres.md)."""
        quoted = self.dialect.name(table)
        if self.full_refresh == "delete" or (self.full_refresh == "auto" and self._noticed(table)):
            return super().clear(table)
        self.execute(f"LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE")
        [(rows,)] = self.rows(f"SELECT count(*) FROM {quoted}")
        self.execute(f"TRUNCATE TABLE {quoted}")
        return int(rows)

    def _noticed(self, table: Name) -> bool:
        """Foreign keys of other tables make TRUNCATE fail; triggers and subscribers may rely on each DELETE."""
        return bool({*self.attached(table)} & {"foreign keys", "triggers", "rules", "publications"})

    def tables(self, sibling_of: Name, prefix: str) -> list[Name]:
        """Names with the prefix in the schema of ``sibling_of``. As a range, so that the catalogue's index is used:
        type name compares bytes."""
        sql = (
            "SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
            f"ON n.oid = c.relnamespace WHERE n.nspname = {_HOLE} AND c.relkind = 'r' "
            f"AND c.relname >= {_HOLE} AND c.relname < {_HOLE}"
        )
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return [sibling_of.sibling(name) for (name,) in self.rows(sql, (sibling_of.parts[0], prefix, after))]

    def identity(self, table: Name, column: str = "") -> str:
        """The table's oid and the column's attribute number, which the server never assigns twice; for a table also
        owner and grants, so that a later GRANT is noticed."""
        sql = f"SELECT a.attnum FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = {_HOLE} AND a.attname = {_HOLE}"
        oid = self.oid(table)
        if not column:
            sql = "SELECT pg_catalog.concat_ws(' ', c.relowner, c.relacl::text) FROM pg_catalog.pg_class AS c"
            sql += f" WHERE c.oid = {_HOLE}"
        return ".".join(str(n) for n in (oid, *(n for (n,) in self.rows(sql, (oid, column) if column else (oid,)))))

    def take_out(self, table: Name, column: str = "") -> str:
        """Why the column must stay, else empty. Attribute numbers are never reused, and a table has 1,600 of them in
        its lifetime: a load that fails every few minutes must not use them up."""
        last = self.rows(_LAST_COLUMN, (self.oid(table),))[0][0] if column else 0
        if last > _COLUMNS_USED:
            return f"the table has used {last:,} of its 1,600 column numbers; PostgreSQL counts dropped columns too"
        return super().take_out(table, column)

    def dependants(self, table: Name, column: str = "") -> list[str]:
        oid = self.oid(table)
        if not column:
            # A publication FOR ALL TABLES does not depend on this table, so publications are looked up on their own.
            attached = [what for what in self.attached(table) if what != "publications"]
            return [*attached, "publications"] if self.rows(_PUBLISHED, (oid,)) else attached
        [(found,)] = self.rows(_OF_COLUMN, (oid, column))
        hidden = self.rows("SELECT pg_catalog.row_security_active(\0::oid)", (oid,)) == [(True,)]
        return [*found, "row security, which may hide values"] if hidden else found

    def hold(self, table: Name) -> None:
        """Lock out writers until the end of the transaction; readers go on."""
        self.execute(f"LOCK TABLE {self.dialect.name(table)} IN SHARE ROW EXCLUSIVE MODE")

    def references(self, table: Name) -> list[Reference]:
        """Foreign keys that reference the table, without the copies that each partition of a referencing table has. A
        key that is INITIALLY DEFERRED is checked by COMMIT, except for RESTRICT, which is always checked at once. NOT
        ENFORCED exists since PostgreSQL 18."""
        found = self.rows(_REFERENCES, (self.oid(table),))
        return [
            Reference(Name((schema, name)), tuple(zip(mine, to, strict=True)), *flags)
            for schema, name, mine, to, *flags in found
        ]

    def swap(self, stage: Name, target: Name, keep: Name | None = None) -> None:
        """Replace the target by the staging table. Readers waiting for the lock look the name up again when they get
        it, and find the new table."""
        d = self.dialect
        self.execute(f"LOCK TABLE {d.name(target)} IN ACCESS EXCLUSIVE MODE")
        for name in (c.name for c in self.columns(stage) or () if c.name in LINEAGE):
            self.execute(f"ALTER TABLE {d.name(stage)} ALTER COLUMN {d.quote(name)} DROP DEFAULT")
        grants = self.rows(_GRANTS, (self.oid(target),))
        names, own = (self._constraints(table) for table in (target, stage))
        if self.unlogged:
            self.execute(f"ALTER TABLE {d.name(stage)} SET LOGGED")
        if keep is None:
            self.execute(d.drop_table(target))
        else:
            self._put_aside(target, keep)
        self.execute(f"ALTER TABLE {d.name(stage)} RENAME TO {d.quote(target.last)}")
        for what, name in own.items():
            if names.get(what, name) != name:
                self.execute(
                    f"ALTER TABLE {d.name(target)} RENAME CONSTRAINT {d.quote(name)} TO {d.quote(names[what])}"
                )
        self._grant(target, grants)

    def _grant(self, table: Name, grants: Iterable[tuple[Any, ...]]) -> None:
        for grantee, privileges, grantable in grants:
            to = "PUBLIC" if grantee is None else self.dialect.quote(grantee)
            option = " WITH GRANT OPTION" if grantable else ""
            self.execute(f"GRANT {privileges} ON TABLE {self.dialect.name(table)} TO {to}{option}")

    def grant_like(self, table: Name, like: Name) -> None:
        """Grant on ``table`` what ``like`` has: roles that may write one of dpone's tables may write one added by a
        later version."""
        sql = f"SELECT pg_catalog.pg_get_userbyid(relowner), current_user FROM pg_catalog.pg_class WHERE oid = {_HOLE}"
        oid = self.oid(like)
        [(owner, me)] = self.rows(sql, (oid,))
        grants = [grant for grant in self.rows(_GRANTS, (oid,)) if grant[0] != me]
        self._grant(table, grants if owner == me else [*grants, (owner, "SELECT, INSERT, UPDATE, DELETE", False)])

    def _constraints(self, table: Name) -> dict[tuple[Any, ...], str]:
        """Constraint names by kind and columns: primary key, and NOT NULL, which has a name since PostgreSQL 18."""
        return {(kind, *columns): name for kind, columns, name in self.rows(_CONSTRAINTS, (self.oid(table),))}

    def _put_aside(self, table: Name, name: Name) -> None:
        """Rename the old table, and its primary key, whose index name is unique in the schema. Its grants are revoked:
        a later REVOKE on the new table must not leave the old rows readable."""
        d = self.dialect
        self.execute(f"ALTER TABLE {d.name(table)} RENAME TO {d.quote(name.last)}")
        for (key,) in self.rows(_PRIMARY_KEY, (self.oid(name),)):
            self.execute(
                f"ALTER TABLE {d.name(name)} RENAME CONSTRAINT {d.quote(key)} TO {d.quote(name.last + '_pkey')}"
            )
        for grantee, *_ in self.rows(_GRANTS, (self.oid(name),)):
            self.execute(f"REVOKE ALL ON TABLE {d.name(name)} FROM {'PUBLIC' if grantee is None else d.quote(grantee)}")


def _collated(column: types.Column) -> pa.Field:
    field = column.field()
    if not column.collation:
        return field
    return field.with_metadata({**(field.metadata or {}), types.COLLATION: column.collation.encode()})


def _collate(field: pa.Field) -> str:
    name = (field.metadata or {}).get(types.COLLATION, b"").decode()
    return f" COLLATE {name}" if name else ""


def _constant(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def numbered(sql: str) -> str:
    """The SQL with each NUL replaced by $1, $2 ..."""
    first, *rest = sql.split(_HOLE)
    return first + "".join(f"${i}{piece}" for i, piece in enumerate(rest, 1))


def _encoded(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    kinds: Sequence[str | None],
    limited: Mapping[str, types.Column],
    before: int,
) -> Any:
    known = [kind for kind in kinds if kind is not None]
    columns = []
    for field in schema:
        try:
            columns.append(as_type(batch.column(field.name), field.type))
            if field.name in limited:
                limited[field.name].reject_beyond(columns[-1])
        except Unstorable as error:
            raise refused(field.name, error, before) from None
    try:
        return binary.encode(columns, known, schema.names) if len(known) == len(kinds) else csv(columns, schema.names)
    except Unstorable as error:
        raise refused(error.column, error, before) from None


def refused(column: str, error: Unstorable, before: int) -> DataError:
    found = f"column {column}, row {before + error.row + 1:,} of the part: {error.reason}"
    return DataError("load rows", found, "correct the value, or change the column's type")


_COLUMNS_USED = 1000
_LAST_COLUMN = f"SELECT max(attnum) FROM pg_catalog.pg_attribute WHERE attrelid = {_HOLE}"
_PUBLISHED = f"SELECT 1 FROM pg_catalog.pg_publication_rel WHERE prrelid = {_HOLE} LIMIT 1"
# An index, a view, a constraint, a default: whatever names the column depends on it (pg_depend).
_OF_COLUMN = f"""
SELECT ARRAY(SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
        FROM pg_catalog.pg_depend AS d WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum ORDER BY 1)
    || CASE WHEN a.attacl IS NOT NULL THEN ARRAY['grants'] END
    || CASE WHEN pg_catalog.col_description(a.attrelid, a.attnum) IS NOT NULL THEN ARRAY['a comment'] END
FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = {_HOLE} AND a.attname = {_HOLE}"""
_GRANTS = f"""
SELECT g.rolname, string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type), x.is_grantable
FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x
LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = x.grantee
WHERE c.oid = {_HOLE} AND x.grantee <> c.relowner GROUP BY g.rolname, x.is_grantable"""
_NAMES = """ARRAY(SELECT a.attname::text FROM unnest(k.{0}key) WITH ORDINALITY AS u(attnum, i)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.{0}relid AND a.attnum = u.attnum ORDER BY u.i)"""
_REFERENCES = f"""
SELECT n.nspname, c.relname, {_NAMES.format("con")}, {_NAMES.format("conf")},
    k.confdeltype IN ('c', 'n', 'd'), k.confdeltype = 'r' OR (k.confdeltype = 'a' AND NOT k.condeferred),
    pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.confrelid = {_HOLE} AND to_jsonb(k) ->> 'conenforced' IS DISTINCT FROM 'false'
AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint AS p WHERE p.oid = k.conparentid
    AND p.confrelid = k.confrelid)
ORDER BY 1, 2, k.conname"""
_CONSTRAINTS = f"""
SELECT k.contype::text, ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) ORDER BY a.attname), k.conname::text
FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = {_HOLE} AND k.contype IN ('p', 'n')"""
_PRIMARY_KEY = f"SELECT conname FROM pg_catalog.pg_constraint WHERE contype = 'p' AND conrelid = {_HOLE}"

_VIEWS = f"""
WITH RECURSIVE reads AS (
    SELECT r.ev_class AS view, d.refobjid AS read, d.refobjsubid AS attnum FROM pg_catalog.pg_rewrite AS r
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
), found AS (
    SELECT r.view, 1 AS depth FROM reads AS r JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = r.read AND a.attnum = r.attnum WHERE r.read = {_HOLE} AND a.attname = ANY({_HOLE}::text[])
    UNION SELECT r.view, f.depth + 1 FROM found AS f JOIN reads AS r ON r.read = f.view WHERE f.depth < 100
)
SELECT pg_catalog.format('DROP %s %I.%I;', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END,
    n.nspname, c.relname)
FROM found AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.view
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
GROUP BY c.oid, c.relkind, n.nspname, c.relname ORDER BY max(f.depth) DESC, 1"""

# What a swap would lose, and how it shows in the catalogue (c: the table's row of pg_class).
_HANGING: Mapping[str, str] = {
    "another owner": "pg_catalog.pg_get_userbyid(c.relowner) <> current_user",
    "partitions or parents": "c.relkind <> 'r' OR c.relispartition OR EXISTS (SELECT 1 FROM pg_catalog.pg_inherits "
    "AS h WHERE c.oid IN (h.inhparent, h.inhrelid))",
    "custom storage": "c.relpersistence <> 'p' OR c.reltablespace <> 0 OR c.reloptions IS NOT NULL "
    "OR c.reloftype <> 0 OR EXISTS (SELECT 1 FROM pg_catalog.pg_class AS t WHERE t.oid = c.reltoastrelid "
    "AND t.reloptions IS NOT NULL)",
    "a replica identity": "c.relreplident <> 'd'",
    "row security": "c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid)",
    "column properties": "EXISTS (SELECT 1 FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t "
    "ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (a.atthasdef OR "
    "a.attidentity <> '' OR a.attacl IS NOT NULL OR a.attcollation <> t.typcollation OR a.attoptions IS NOT NULL OR "
    "a.attstorage <> t.typstorage OR coalesce(a.attstattarget, -1) <> -1 OR "
    "coalesce(to_jsonb(a) ->> 'attcompression', '') <> ''))",  # which PostgreSQL 13 does not have
    "foreign keys": "EXISTS (SELECT 1 FROM pg_catalog.pg_constraint AS k WHERE k.contype = 'f' "
    "AND k.confrelid = c.oid)",
    "constraints": "EXISTS (SELECT 1 FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = c.oid "
    "AND k.contype NOT IN ('p', 'n'))",
    "indexes": "EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND NOT i.indisprimary)",
    "triggers": "EXISTS (SELECT 1 FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)",
    "rules": "EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = c.oid)",
    "views or functions": "EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.refclassid = 'pg_class'::regclass "
    "AND d.refobjid = c.oid AND d.deptype = 'n' AND d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass))",
    "publications": "EXISTS (SELECT 1 FROM pg_catalog.pg_publication_tables AS p JOIN pg_catalog.pg_namespace AS n "
    "ON n.nspname = p.schemaname WHERE n.oid = c.relnamespace AND p.tablename = c.relname)",
    "statistics": "EXISTS (SELECT 1 FROM pg_catalog.pg_statistic_ext AS s WHERE s.stxrelid = c.oid)",
    "comments": "EXISTS (SELECT 1 FROM pg_catalog.pg_description AS d WHERE d.objoid = c.oid "
    "AND d.classoid = 'pg_class'::regclass)",
}  # fmt: skip
_HANGING_SQL = f"SELECT {', '.join(_HANGING.values())} FROM pg_catalog.pg_class AS c WHERE c.oid = {_HOLE}"
