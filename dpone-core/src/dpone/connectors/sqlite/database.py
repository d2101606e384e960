"""The target database for the shared SQL layer."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import evolve

from dpone.connectors.sqlite import types
from dpone.connectors.sqlite.collation import collated
from dpone.connectors.sqlite.connect import connect, table_name, will_write
from dpone.connectors.sqlite.errors import failing
from dpone.connectors.sqlite.rows import encode
from dpone.errors import DataError, SinkError
from dpone.model.evolution import Stored
from dpone.model.schema import DEFAULT, Name
from dpone.sql.dialect import Database, Dialect, Reference
from dpone.sql.values import Unstorable

DECIMAL = "dpone_decimal"
_MET = "dpone_met"
# Tables m with a foreign key f that refers to the bound table. The text is searched first, because the pragma is slow
# with many tables.
_REFERRING = "m.type = 'table' AND instr(lower(m.sql), 'references') > 0 AND f.\"table\" = ? COLLATE NOCASE"


class SqliteDialect(Dialect):
    max_columns = 2_000  # SQLITE_MAX_COLUMN, unless the library was built with another (https://sqlite.org/limits.html)

    def stores(self, type: pa.DataType) -> Stored:
        return types.stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return super().reads(native) or types.own(native)

    def table_name(self, name: Name) -> Name:
        return table_name(name)

    def parameter(self, value: Any, type: pa.DataType) -> Any:
        """A decimal with its own digits: Arrow would require 21 digits for any integer."""
        given = pa.array([str(value) if pa.types.is_decimal(type) else value])
        return encode(given, type)[0]

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        """A collation such as NOCASE would hide a change of case."""
        return f"{left} IS NOT {right} COLLATE BINARY"

    def exact(self, expression: str, type: pa.DataType) -> str:
        return f"{expression} COLLATE BINARY"

    def ordered(self, expression: str, type: pa.DataType) -> str:
        return f"{expression} COLLATE {DECIMAL}" if pa.types.is_decimal(type) else expression

    def delete_keys(self, target: Name, source: str, schema: pa.Schema, key: Sequence[str]) -> str:
        """With IN, SQLite looks up each key; with EXISTS it would scan every row of the target."""
        return self.delete_from(target, f"({self.columns(key, 't')}) IN {source}")

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        """SQLite cannot change a type, so a new column gets the values and the name. The table is not copied. Types
        that SQLite stores in the same way (int and bigint, texts of any length) need no statement."""
        if self.stores(before.type) == self.stores(after.type):
            return []
        name, old, new = self.name(table), self.quote(before.name), self.quote(f"__dpone__wide__{before.name}")
        return [
            self.add_column(table, after.with_name(f"__dpone__wide__{before.name}")),
            f"UPDATE {name} SET {new} = {_widened(old, before.type, after.type)}",
            f"ALTER TABLE {name} DROP COLUMN {old}",
            f"ALTER TABLE {name} RENAME COLUMN {new} TO {old}",
        ]

    def lost(self, column: str, before: pa.DataType, after: pa.DataType) -> str:
        """A column of dates may hold texts of any other form."""
        if pa.types.is_date(before) and pa.types.is_timestamp(after):
            return f"{column} NOT GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]'"
        return super().lost(column, before, after)


def _widened(column: str, before: pa.DataType, after: pa.DataType) -> str:
    """Numbers get the zeros of the new scale, and dates a time, so that equal values stay equal texts."""
    if pa.types.is_date(before) and pa.types.is_timestamp(after):
        return f"{column} || ' 00:00:00.000000'"
    if not pa.types.is_decimal(after):
        return column
    scale = before.scale if pa.types.is_decimal(before) else 0
    zeros = "0" * (after.scale - scale)
    point = "." if zeros and not scale else ""
    return f"CAST({column} AS TEXT) || '{point}{zeros}'"


def compare_decimals(left: str, right: str) -> int:
    """The collation DECIMAL: texts of numbers in the order of the numbers."""
    a, b = Decimal(left), Decimal(right)
    return (a > b) - (a < b)


_AFTER_COLUMN = re.compile(r",\s|\)\s*(?:STRICT|WITHOUT)\b", re.IGNORECASE)


class SqliteDatabase(Database):
    """``dpone.sql.dialect.Database``. Opened when first used; ``existing`` looks without creating the file."""

    def __init__(self, path: Path, timeout: float, nan_to_null: bool = False) -> None:
        self.dialect: Dialect = SqliteDialect()
        self.path = path
        self._timeout, self._nan_to_null = timeout, nan_to_null
        self._db: sqlite3.Connection | None = None
        will_write(path)

    def connection(self) -> sqlite3.Connection:
        if self._db is None:
            with self._failing():
                self._db = connect(self.path, self._timeout, SinkError, create=True)
                self._db.create_collation(DECIMAL, compare_decimals)
        return self._db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def begin(self, lock: str) -> None:
        """The file is the lock: SQLite has one writer at a time. Rows that are referenced may be replaced, because
        foreign keys are checked at the commit."""
        self.execute("BEGIN IMMEDIATE")
        self.execute("PRAGMA defer_foreign_keys=ON")

    def commit(self) -> None:
        try:
            super().commit()
        except DataError as error:
            raise self._dangling(error) from error.__cause__

    def _dangling(self, error: DataError) -> DataError:
        """The tables of the foreign key that failed at the commit, because SQLite does not name them. The transaction
        is still
        open (https://www.sqlite.org/lang_transaction.html)."""
        if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_CONSTRAINT_FOREIGNKEY":
            return error
        pairs = self.rows('SELECT DISTINCT "table", parent FROM pragma_foreign_key_check ORDER BY 1, 2')
        found = ", ".join(f"rows of {table} would refer to missing rows of {parent}" for table, parent in pairs)
        todo = "load the referenced table first, or delete the rows that refer to it"
        return DataError(error.failed, f"{error.found}: {found}", todo)

    def rollback(self) -> None:
        if self._db is not None and self._db.in_transaction:
            self.execute("ROLLBACK")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self._failing():
            return self.connection().execute(sql, parameters).rowcount

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._failing():
            return self.connection().execute(sql, parameters).fetchall()

    def schema(self, table: Name) -> pa.Schema | None:
        """Generated columns are left out, because they cannot be written."""
        kind, collated_ = self._kind(table)
        if kind is None:
            return None
        if kind != "table":
            raise SinkError(f"write {table}", f"the sink's target is a {kind} ({self.path})", "use the name of a table")
        # SQLite fills a single INTEGER PRIMARY KEY by itself (https://www.sqlite.org/autoinc.html).
        filled = "dflt_value IS NOT NULL OR (pk AND upper(type) = 'INTEGER' AND SUM(pk > 0) OVER () = 1)"
        columns = f'name, type, "notnull" OR pk, {filled}'
        sql = f"SELECT {columns} FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid"
        made = pa.schema([_column(*row) for row in self.rows(sql, (table.last,))])
        return collated(made, self.dialect.name(table), self.rows, self.dialect) if collated_ else made

    def _kind(self, table: Name) -> tuple[str | None, bool]:
        """Table or view; and whether a column of it may have a collation."""
        if self._db is None and not self.path.exists():
            return None, False
        columns, where = "type, sql LIKE '%collate%'", "name = ? COLLATE NOCASE AND type IN ('table', 'view')"
        found = self.rows(f"SELECT {columns} FROM sqlite_master WHERE {where}", (table.last,))
        return (found[0][0], bool(found[0][1])) if found else (None, False)

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        many, one = self._inserts(table, schema, lineage)
        read = written = 0
        for batch in batches:
            for piece in _pieces(batch):
                columns = [self._encoded(piece.column(f.name), f, read) for f in schema]
                written += self._insert(many, one, columns, piece.num_rows)
                read += piece.num_rows
        return written

    def _inserts(self, table: Name, schema: pa.Schema, lineage: Mapping[str, Any]) -> tuple[str, str]:
        """The statements for ROWS rows and for one row. Lineage is in them as literals, so it is not bound for every
        row."""
        d = self.dialect
        values = map(pa.scalar, lineage.values())
        constants = [d.literal(encode(pa.array([v]), types.stores(v.type).arrow)[0]) for v in values]
        row = ", ".join(["?"] * len(schema) + constants)
        into = f"INSERT INTO {d.name(table)} ({d.columns([*schema.names, *lineage])}) VALUES "
        many = ", ".join([f"({row})"] * _rows(len(schema)))
        return f"{into}{many} ON CONFLICT DO NOTHING", f"{into}({row}) ON CONFLICT DO NOTHING"

    def _insert(self, many: str, one: str, columns: list[list[Any]], rows: int) -> int:
        """Insert the values of ``flat``, row by row, with ROWS rows per statement: this takes a quarter less time than
        one row per statement."""
        width = len(columns)
        flat: list[Any] = [None] * (width * rows)
        for i, column in enumerate(columns):
            flat[i::width] = column
        step = width * _rows(width)
        cut = len(flat) // step * step
        with self._failing():
            db = self.connection()
            written = db.executemany(many, (flat[i : i + step] for i in range(0, cut, step))).rowcount
            rest = db.executemany(one, (flat[i : i + width] for i in range(cut, len(flat), width))).rowcount
        return max(written, 0) + max(rest, 0)

    def _encoded(self, column: pa.Array, field: pa.Field, before: int) -> list[Any]:
        try:
            return encode(column, field.type, nan_to_null=self._nan_to_null)
        except Unstorable as error:
            found = f"column {field.name}, row {before + error.row + 1:,} of the part: {error.reason}"
            todo = "fix the value, or change the column's type in the source, as in options.columns"
            raise DataError("load rows", found, error.todo or todo) from None

    def unique(self, table: Name, key: Sequence[str]) -> bool:
        """By column sets and BINARY order: under NOCASE two staged keys could be one."""
        pk = self.rows("SELECT name, upper(type) FROM pragma_table_xinfo(?) WHERE pk > 0", (table.last,))
        sql = 'SELECT name, origin FROM pragma_index_list(?) WHERE "unique" AND NOT partial'
        indexes = self.rows(sql, (table.last,))
        if pk == [(key[0], "INTEGER")] and len(key) == 1 and "pk" not in {origin for _, origin in indexes}:
            return True
        sql = "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key"
        wanted = {(name, "BINARY") for name in key}
        return any({*self.rows(sql, (index,))} == wanted for index, _ in indexes)

    def upsert(
        self, target: Name, source: str, schema: pa.Schema, key: Sequence[str], compared: Sequence[str]
    ) -> tuple[int, int]:
        """Matching rows are counted during the upsert, because a separate join would take a fifth of the time."""
        matched = 0

        def count() -> int:
            nonlocal matched
            matched += 1
            return 1

        with self._failing():
            self.connection().create_function(_MET, 0, count)
        written = self.execute(self.dialect.upsert(target, source, schema, key, compared, f"{_MET}()"))
        return matched, written

    def primary_key(self, table: Name) -> tuple[str, ...]:
        sql = "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk"
        return tuple(name for (name,) in self.rows(sql, (table.last,)))

    def is_swappable(self, table: Name, key: Sequence[str]) -> bool:
        """Decided by the text of the table's statement, which contains any default, check or collation."""
        schema = self.schema(table)
        if schema is None:
            return False
        sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        text = self.rows(sql, (table.last,))
        ours = self.dialect.create_table(table, schema, key)
        return text[0][0] == ours and not self._attached(table)

    def _attached(self, table: Name) -> list[str]:
        """Objects that would be lost with the table or that use it; a view whose text contains the name may use it."""
        named, what = "instr(lower(m.sql), lower(?)) > 0", "SELECT m.type || ' ' || m.name FROM sqlite_master AS m"
        attached = (
            f"{what} WHERE (m.type IN ('index', 'trigger') AND m.tbl_name = ? COLLATE NOCASE "
            f"AND m.sql IS NOT NULL) OR (m.type IN ('view', 'trigger') AND {named}) UNION "
            f"{what}, pragma_foreign_key_list(m.name) AS f WHERE {_REFERRING}"
        )
        return [found for (found,) in self.rows(attached, (table.last,) * 3)]

    def tables(self, sibling_of: Name, prefix: str) -> list[Name]:
        if self._db is None and not self.path.exists():
            return []
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, length(?)) = ?"
        return [sibling_of.sibling(name) for (name,) in self.rows(sql, (prefix, prefix))]

    def drop(self, table: Name, wipe: bool = False) -> None:
        """Some builds of SQLite overwrite dropped rows with zeros (SQLITE_SECURE_DELETE). For the staging that would
        cost as much as staging did and protect nothing, because the rows are in the target. For rows of the target the
        build's setting applies."""
        zeroes = not wipe and self.rows("PRAGMA secure_delete") == [(1,)]
        if zeroes:
            self.rows("PRAGMA secure_delete=FAST")
        super().drop(table, wipe)
        if zeroes:
            self.rows("PRAGMA secure_delete=ON")

    def identity(self, table: Name, column: str = "") -> str:
        """The identity of a table is its statement, which has defaults, checks and collations too; that of a column is
        its definition in that statement."""
        sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        text = "".join(str(found) for (found,) in self.rows(sql, (table.last,)))
        if not column:
            return text
        _, _, rest = text.partition(f", {self.dialect.quote(column)} ")
        return _AFTER_COLUMN.split(rest)[0].rstrip(")")

    def take_out(self, table: Name, column: str = "") -> str:
        """SQLite itself refuses to drop a column that an index, a view or a constraint uses
        (https://www.sqlite.org/lang_altertable.html), but not one that a trigger sets; a table it drops regardless."""
        attached = self._attached(table)
        if column:
            words = "SELECT 1 FROM sqlite_master WHERE type || ' ' || name = ? AND instr(lower(sql), lower(?)) > 0"
            attached = [what for what in attached if self.rows(words, (what, column))]
        if attached:
            return f"these depend on it: {', '.join(attached)}"
        if not column:
            self.drop(table)
            return ""
        self.execute("SAVEPOINT take_out")
        try:
            self.execute(self.dialect.drop_column(table, column))
        except SinkError as error:
            if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_ERROR":
                raise
            self.execute("ROLLBACK TO take_out")
            self.execute("RELEASE take_out")
            return str(error.__cause__)
        self.execute("RELEASE take_out")
        return ""

    def references(self, table: Name) -> list[Reference]:
        """``begin`` puts off the check of all but RESTRICT (https://www.sqlite.org/foreignkeys.html, section 4.3). A
        foreign key that names no column refers to the primary key."""
        sql = (
            'SELECT m.name, f.id, f."from", f."to", f.on_delete FROM sqlite_master AS m, '
            f"pragma_foreign_key_list(m.name) AS f WHERE {_REFERRING} ORDER BY m.name, f.id, f.seq"
        )
        key, found = self.primary_key(table), dict[tuple[str, int], Reference]()
        for name, number, column, to, action in self.rows(sql, (table.last,)):
            acts = action in ("CASCADE", "SET NULL", "SET DEFAULT")
            one = found.get((name, number)) or Reference(Name((name,)), (), acts, action == "RESTRICT")
            to = to or (key[len(one.columns)] if len(one.columns) < len(key) else "rowid")
            found[name, number] = evolve(one, columns=(*one.columns, (column, to)))
        return list(found.values())

    def rename(self, table: Name, to: Name) -> None:
        """With legacy_alter_table only this table is renamed. Otherwise any broken view in the database makes the
        rename fail."""
        self.execute("PRAGMA legacy_alter_table=ON")
        super().rename(table, to)
        self.execute("PRAGMA legacy_alter_table=OFF")

    def hold(self, table: Name) -> None:
        """A transaction that writes holds the file."""

    def _failing(self) -> AbstractContextManager[None]:
        return failing(SinkError, "write the database", self.path)


def _column(name: str, type_: str, not_null: int, filled: int) -> pa.Field:
    """filled: SQLite fills the column if a row has no value for it."""
    return pa.field(name, types.writable(type_), not not_null, {DEFAULT: b"yes"} if filled else None)


def _rows(width: int) -> int:
    """Rows per statement: about 250 values, far below SQLite's limit of 32,766."""
    return max(1, 250 // max(width, 1))


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices whose Python values take a few megabytes, whatever the width of the rows."""
    rows = max(1, 150_000 // max(batch.num_columns, 1))
    if batch.nbytes:
        rows = min(rows, max(1, 8_000_000 * batch.num_rows // batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
