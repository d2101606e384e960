"""What differs between SQL servers: the words (Dialect) and the connection (Database).

A connector writes one class of each; strategies, journal, staging and schema evolution come from ``dpone.sql``.

**When DDL is executed.** Some servers commit before and after each DDL statement (MySQL, MariaDB, Oracle). Inside a
commit it would make rows durable before the journal knows them, and a kill there loads them twice. On others a new
table can be used only after its transaction (Firebird): ``execute`` then commits each DDL statement, to the same
effect. So ``dpone.sql`` follows one order on every server:

1. what the commit needs is created before its transaction: tables of dpone's own, the table for an undo, indexes of
   the staging;
2. the transaction of the commit: fence, rows, journal entry. No DDL, except to swap tables or to replace the columns
   of a target; neither is done if ``Dialect.ddl_commits``;
3. what is no longer needed is dropped afterwards.

A table is registered before it is created and deregistered after it is dropped, so that the next load finds one whose
process died in between.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from attrs import frozen

from dpone.errors import ConfigError, DataError, SinkError, counted
from dpone.model.evolution import (
    EXACT_IN_DOUBLE,
    Stored,
    canonical_type,
    inexact,
)
from dpone.model.schema import Name
from dpone.model.types import BACK, kind, standard
from dpone.sql import values
from dpone.sql.driver_errors import saying

if TYPE_CHECKING:
    from dpone.model.evolution import SchemaChange

Unit = Literal["bytes", "characters", "UTF-16 units"]
_WORD = re.compile("__dpone__[a-z]+_")
_DIGITS = 6  # minimum length of a digest
_NUMBER = 32  # maximum length of a key column that is not a text, in any unit


class Dialect:
    """Writes SQL. It has no connection and does no I/O. The defaults are standard SQL."""

    quotes: ClassVar[tuple[str, str]] = ('"', '"')
    placeholder: ClassVar[str] = "?"
    unit: ClassVar[Unit] = "bytes"  # of the length of a name and of a key; bytes are those of UTF-8
    kept: ClassVar[Mapping[str, str | Stored]] = {}  # for ``stores``: native types by ``model.types.kind``
    decimals: ClassVar[tuple[int, int]] = (38, 38)  # for ``stores``: maximum precision and scale of a decimal
    levels: ClassVar[tuple[str, ...]] = ("schema", "name")  # parts of a table name in a pipeline
    max_identifier: ClassVar[int | None] = None  # maximum length of a name; None: no limit
    max_key: ClassVar[int | None] = None  # maximum length of a primary key; None: no limit
    text_index: ClassVar[str] = "{}"  # a text in an index, by column and length; empty: it has none
    max_columns: ClassVar[int | None] = None  # maximum of a table; None: no limit
    on_conflict: ClassVar[bool] = True  # False: no statement like ``upsert``; UPDATE and INSERT instead
    ddl_commits: ClassVar[bool] = False  # True: a DDL statement commits itself and what came before it
    holds_new_rows: ClassVar[bool] = True  # False: see Database.hold
    dual: ClassVar[str] = ""  # a table of one row, if a SELECT needs a FROM: DUAL, RDB$DATABASE
    adding: ClassVar[str] = "ADD COLUMN"  # words of ALTER TABLE; "ADD" in Oracle, SQL Server and Firebird
    dropping: ClassVar[str] = "DROP COLUMN"  # "DROP" in Firebird
    altering: ClassVar[str] = "ALTER COLUMN {} SET DATA TYPE {}"  # of ``widen_column``: the column and its new type
    exact_names: ClassVar[bool] = False  # True: Orders and orders are always different tables

    def quote(self, identifier: str) -> str:
        """Any identifier, taken literally: a name that looks quoted is quoted again, so that names never collide."""
        try:
            identifier.encode()
        except UnicodeEncodeError as error:
            raise _bad(identifier, "it is not valid Unicode") from error
        if not identifier or "\0" in identifier:
            raise _bad(identifier, "it is empty or has a NUL character")
        if found := self.too_long(identifier):
            raise _bad(identifier, f"it has {found}")
        left, right = self.quotes
        return self._no_placeholder(left + identifier.replace(right, right * 2) + right)

    def _no_placeholder(self, text: str) -> str:
        """A driver whose placeholder is %s takes a single % for a placeholder."""
        return text.replace("%", "%%") if self.placeholder == "%s" else text

    def too_long(self, identifier: str) -> str:
        """The length of a name and the limit, as text; empty if it is not too long."""
        if self.max_identifier is None or (size := self.length(identifier)) <= self.max_identifier:
            return ""
        return f"{size} {self.unit}, the limit is {self.max_identifier}"

    def length(self, text: str) -> int:
        """As the server counts it."""
        if self.unit == "characters":
            return len(text)
        return len(text.encode()) if self.unit == "bytes" else len(text.encode("utf-16-le")) // 2

    def fitting(self, name: str, end: str = "") -> str:
        """A name that dpone makes for a temporary table or an index (``__dpone__stage_...``), shortened if necessary to
        its first word, a digest, and ``end``. 30 characters are enough."""
        if not self.too_long(name) or self.max_identifier is None:
            return name
        word = _WORD.match(name)
        begin = word[0] if word else name[:6]
        size = max(self.max_identifier - self.length(begin) - len(end), _DIGITS)
        return begin + hashlib.sha256(name.encode()).hexdigest()[:size] + end

    def name(self, name: Name) -> str:
        return ".".join(map(self.quote, name.parts))

    def table_name(self, name: Name) -> Name:
        """As the pipeline names a table. Raises ConfigError for more parts than the server has levels."""
        if len(name.parts) <= len(self.levels):
            return name
        forms = (".".join(self.levels[i:]) for i in reversed(range(len(self.levels))))
        todo = f"write {', or '.join(f'table: {form}' for form in forms)}"
        raise ConfigError("read a table name", f"{name} has {counted(len(name.parts), 'part')}", todo)

    def columns(self, names: Iterable[str], alias: str = "") -> str:
        """``s."a", s."b"``. Columns are always qualified: SQLite takes an unknown bare name for a text."""
        prefix = f"{alias}." if alias else ""
        return ", ".join(prefix + self.quote(n) for n in names)

    def literal(self, text: str) -> str:
        """A text in a statement where nothing can be bound; only for values that dpone made itself."""
        if "\0" in text:
            raise _bad(text, "it has a NUL")
        return self._no_placeholder("'" + text.replace("'", "''") + "'")

    def exists(self, *queries: str) -> str:
        """A statement that returns one row: for each query 1 if it finds a row, else 0."""
        found = ", ".join(f"CASE WHEN EXISTS ({query}) THEN 1 ELSE 0 END" for query in queries)
        return f"SELECT {found}{' FROM ' if self.dual else ''}{self.dual}"

    def character(self, text: str, place: int) -> str:
        """One character of a text; the first is number 1. Standard SQL is ``SUBSTRING(x FROM 1 FOR 1)``, but most
        servers take commas."""
        return f"SUBSTRING({text}, {place}, 1)"

    def stores(self, type: pa.DataType) -> Stored:
        """How a value of an Arrow type is stored. By default as ``kept`` says, where a decimal has a {} for its
        precision and one for its scale. Raises ConfigError for a type that the server cannot store."""
        type = canonical_type(type)
        word = kind(type)
        native = self.kept.get(word)
        if native is None or (word == "decimal" and not self._holds(type)):
            raise ConfigError(f"keep {type}", "the target does not have this type", "cast the column in the source")
        if isinstance(native, Stored):
            return native
        if word == "decimal":
            return Stored(native.format(type.precision, type.scale), _decimal(type.precision, type.scale))
        arrow, fidelity = BACK[word]
        return Stored(native, arrow, "checked" if type == pa.time64("ns") else fidelity)

    def _holds(self, decimal: pa.DataType) -> bool:
        return bool(decimal.precision <= self.decimals[0] and 0 <= decimal.scale <= self.decimals[1])

    def reads(self, native: str) -> pa.DataType | None:
        """The Arrow type of a column declared as ``native``; None for an unknown type. By default standard names and
        those that servers share; a dialect adds its own and overrides what its server means differently. A TINYINT is
        an int16: its values are -128 to 127 in most servers, 0 to 255 in SQL Server."""
        return pa.int16() if native.strip().lower() == "tinyint" else standard(native)

    def bind(self, value: Any, type: pa.DataType) -> Any:
        """A value of the pipeline file as the parameter that compares with a column of ``type``. Raises ConfigError."""
        try:
            return self.parameter(value, type)
        except (pa.ArrowException, ValueError, OverflowError, DataError) as error:
            zone = ", as in 2026-01-31T00:00:00Z" if pa.types.is_timestamp(type) and type.tz else ""
            found, todo = f"{value!r} is not a valid {type}", f"write a value of type {type}{zone}"
            raise ConfigError("read strategy.where", found, todo) from error

    def parameter(self, value: Any, type: pa.DataType) -> Any:
        """For ``bind``. Raises an Arrow error, ValueError or DataError. By default what ``encode`` makes of the text
        of the value."""
        return self.encode(pa.array([str(value)]), type)[0]

    def encode(self, given: pa.Array, type: pa.DataType) -> list[Any]:
        """The values of an Arrow column as the driver binds them to a column of ``type``, NULL as None. By default
        numbers, bytes and texts (``sql.values.encode``). Raises Unstorable for a value that the column cannot hold."""
        return values.encode(given, self.stores(type).arrow)

    def decode(self, given: Sequence[Any], type: pa.DataType) -> pa.Array:
        """The inverse, for a source: the values of a column, as the driver returned them, in an Arrow array of
        ``type``. By default Python's own types and texts (``sql.values.decode``). Raises Unstorable."""
        return values.decode(given, type)

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        """A condition that is true where two values of ``type`` differ. NULL equals NULL and differs from all else.
        It must be exact, whatever the collation of the columns."""
        return f"({left} IS DISTINCT FROM {right})"

    def differ(self, schema: pa.Schema, names: Sequence[str], left: str, right: str) -> str:
        """True where two rows differ in one of these columns, as ``differs`` has it."""
        columns = ((self.quote(name), schema.field(name).type) for name in names)
        return " OR ".join(self.differs(f"{left}.{column}", f"{right}.{column}", type_) for column, type_ in columns)

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        """Statements that change the type of a column from ``before`` to ``after`` and keep every value. None if the
        server stores both types alike."""
        wider = self.stores(after.type).native
        if self.stores(before.type).native == wider:
            return []
        return [f"ALTER TABLE {self.name(table)} {self.altering.format(self.quote(before.name), wider)}"]

    def lost(self, column: str, before: pa.DataType, after: pa.DataType) -> str:
        """A condition that is true for values that ``widen_column`` would change; empty if there are none. By default
        for whole numbers that a double cannot hold, which servers round."""
        beyond = f"{column} NOT BETWEEN -{EXACT_IN_DOUBLE} AND {EXACT_IN_DOUBLE}"
        return beyond if inexact(before, after) and pa.types.is_floating(after) else ""

    def rewrites(self, change: SchemaChange) -> str:
        """What a safe change rewrites, for the plan; empty if it changes only the catalogue. By default every row, for
        each widening that needs a statement."""
        if change.kind != "widen" or change.before is None or change.after is None:
            return ""
        return "every row" if self.widen_column(Name(("t",)), change.before, change.after) else ""

    def statements(self, target: Name, change: SchemaChange, key: Sequence[str] = ()) -> list[str]:
        """``contract.SqlText``. A SELECT among them (``is_look``) returns a column, its new type, and the number of
        rows whose value the change would not keep, which must be 0."""
        if change.kind == "create" and change.schema is not None:
            return [self.create_table(target, change.schema, key)]
        if change.kind == "add" and change.after is not None:
            return [self.add_column(target, change.after)]
        if change.kind == "widen" and change.before is not None and change.after is not None:
            made = self.widen_column(target, change.before, change.after)
            return [*self._look(target, change.before, change.after), *made] if made else []
        raise SinkError(
            f"evolve {target}", f"the database cannot make the change '{change}'", "change the table by hand"
        )

    def _look(self, target: Name, before: pa.Field, after: pa.Field) -> list[str]:
        lost = self.lost(f"t.{self.quote(before.name)}", before.type, after.type)
        what = f"{self.literal(before.name)}, {self.literal(str(after.type))}"
        return [f"SELECT {what}, COUNT(*) FROM {self.name(target)} AS t WHERE {lost}"] if lost else []

    def ordered(self, expression: str, type: pa.DataType) -> str:
        """The expression, changed if necessary so that its order is that of the values."""
        return expression

    def exact(self, expression: str, type: pa.DataType) -> str:
        """Replaces an expression where equal must mean identical: ``=`` and ``IN`` must distinguish any two values of
        ``type``, even if they differ by a blank at the end, by case or by a combining character. It is used on both
        sides of a comparison and never stored, so it may be another value, such as the bytes of a text. By default the
        expression itself, for a server whose columns compare exactly."""
        return expression

    def as_key(self, expression: str, type: pa.DataType) -> str:
        """As ``exact``, for a key column; also used in ``GROUP BY`` and ``PARTITION BY``. By default the column itself.
        If its comparison treats different keys as equal, either override this, or let ``Database.schema`` say so in the
        field's metadata (``schema.EQUALITY``); the engine then refuses a source that distinguishes more keys."""
        return expression

    def keys(self, schema: pa.Schema, names: Iterable[str], alias: str) -> list[str]:
        """The columns of a key, each by ``as_key``."""
        return [self.as_key(f"{alias}.{self.quote(n)}", schema.field(n).type) for n in names]

    def column(self, field: pa.Field) -> str:
        return f"{self.quote(field.name)} {self.stores(field.type).native}{'' if field.nullable else ' NOT NULL'}"

    def key_column(self, field: pa.Field, most: int) -> str:
        """As ``column``, for a text in a primary key, with a maximum length of ``most`` (in ``unit``). NOT NULL
        included. Only called if ``max_key`` is set."""
        return self.column(field)

    def key_size(self, schema: pa.Schema, key: Sequence[str]) -> int | None:
        """The maximum length of each text in a key; None if there is no limit, or no text."""
        texts = [name for name in key if self.is_text(schema.field(name).type)] if self.max_key is not None else ()
        return (self.max_key - _NUMBER * (len(key) - len(texts))) // len(texts) if self.max_key and texts else None

    def is_text(self, type: pa.DataType) -> bool:
        """True if the type is stored as a text or bytes of any length."""
        kept, t = self.stores(type).arrow, pa.types
        return any(is_kind(kept) for is_kind in (t.is_string, t.is_large_string, t.is_binary, t.is_large_binary))

    def create_table(self, table: Name, schema: pa.Schema, key: Sequence[str] = ()) -> str:
        """Key columns are NOT NULL and the primary key."""
        most, columns = self.key_size(schema, key), []
        for field in schema:
            field = field.with_nullable(field.nullable and field.name not in key)
            bounded = most is not None and field.name in key and self.is_text(field.type)
            columns.append(self.key_column(field, most) if bounded and most else self.column(field))
        if key:
            columns.append(f"PRIMARY KEY ({self.columns(key)})")
        return f"CREATE TABLE {self.name(table)} ({', '.join(columns)})"

    def create_like(self, table: Name, like: Name, columns: Sequence[str]) -> str:
        """A table with some columns of another, with exactly their types and nothing else, so that values copied into
        it and back are identical."""
        picked = f"SELECT {self.columns(columns, 't')} FROM {self.name(like)} AS t WHERE 1 = 0"
        return f"CREATE TABLE {self.name(table)} AS {picked}"

    def add_column(self, table: Name, field: pa.Field) -> str:
        return f"ALTER TABLE {self.name(table)} {self.adding} {self.column(field.with_nullable(True))}"

    def drop_column(self, table: Name, column: str) -> str:
        return f"ALTER TABLE {self.name(table)} {self.dropping} {self.quote(column)}"

    def retype_column(self, table: Name, after: pa.Field) -> list[str]:
        """Change the type of a column of an empty table."""
        return [self.drop_column(table, after.name), self.add_column(table, after)]

    def drop_table(self, table: Name) -> str:
        return f"DROP TABLE {self.name(table)}"

    def rename_table(self, table: Name, to: Name) -> str:
        """Both are in the same schema."""
        return f"ALTER TABLE {self.name(table)} RENAME TO {self.quote(to.last)}"

    def create_index(self, table: Name, schema: pa.Schema, columns: Sequence[str], suffix: str = "key") -> str:
        """An index on columns of a table; empty if the server cannot index them. It only makes a commit faster."""
        index, most = self.quote(self.fitting(f"{table.last}_{suffix}")), self.key_size(schema, columns)
        forms = [self.text_index if self.is_text(schema.field(name).type) else "{}" for name in columns]
        if "" in forms:
            return ""
        parts = (form.format(self.quote(name), most) for form, name in zip(forms, columns, strict=True))
        return f"CREATE INDEX {index} ON {self.name(table)} ({', '.join(parts)})"

    def insert_into(self, target: Name, names: Iterable[str]) -> str:
        """The beginning of an INSERT of rows with these columns."""
        return f"INSERT INTO {self.name(target)} ({self.columns(names)})"

    def skip_existing(self, key: Sequence[str]) -> str:
        """What follows the rows of an INSERT, so that a row whose primary key exists is skipped. Empty if the server
        has no such words: rows are then inserted one at a time, and ``SqlSystem.repeats`` finds those to skip."""
        return " ON CONFLICT DO NOTHING"

    def update(self, target: Name, column: str, where: str) -> str:
        """Set a column of the target (alias t) to a bound value."""
        return f"UPDATE {self.name(target)} AS t SET {self.quote(column)} = {self.placeholder} WHERE {where}"

    def delete_from(self, target: Name, where: str) -> str:
        return f"DELETE FROM {self.name(target)} AS t WHERE {where}"

    def delete_keys(self, target: Name, source: str, schema: pa.Schema, key: Sequence[str]) -> str:
        """Delete the rows of the target whose key is in ``source``. ``schema`` has the types of the key columns."""
        return self.delete_from(target, f"EXISTS (SELECT 1 FROM {source} AS s WHERE {self.same(schema, key)})")

    def same(self, schema: pa.Schema, key: Sequence[str], left: str = "t", right: str = "s") -> str:
        """A condition: two rows, by default of the target (t) and of the source (s), have the same key."""
        columns = ((self.quote(name), schema.field(name).type) for name in key)
        return " AND ".join(self.equal(f"{left}.{column}", f"{right}.{column}", type_) for column, type_ in columns)

    def equal(self, left: str, right: str, type: pa.DataType) -> str:
        """A condition: two columns of ``type`` hold the same key. Compares the columns, which may have an index, and
        ``as_key`` if it differs from them."""
        pairs = dict.fromkeys(((left, right), (self.as_key(left, type), self.as_key(right, type))))
        return " AND ".join(" = ".join(pair) for pair in pairs)

    def upsert(
        self, target: Name, source: str, schema: pa.Schema, key: Sequence[str], compared: Sequence[str], matched: str
    ) -> str:
        """Insert the rows of ``source`` (alias s), a table or a subquery in brackets with the columns of ``schema``. If
        the key exists, update the other columns if one of ``compared`` differs.

        Rows are inserted in the order of the key, so that neighbours share a page. ``matched`` is a condition that is
        true and is evaluated for every row whose key exists.
        """
        names, types = schema.names, {f.name: f.type for f in schema}
        sides = ((f"t.{self.quote(c)}", f"excluded.{self.quote(c)}", types[c]) for c in compared)
        differs = " OR ".join(self.differs(*both) for both in sides)
        changed = [n for n in names if n not in key] or key
        sets = ", ".join(f"{self.quote(n)} = excluded.{self.quote(n)}" for n in changed)
        rows = f"SELECT {self.columns(names, 's')} FROM {source} AS s WHERE 1 = 1 ORDER BY {self.columns(key, 's')}"
        action = f"DO UPDATE SET {sets} WHERE {matched} AND ({differs or '1 = 0'})"
        into = f"INSERT INTO {self.name(target)} AS t ({self.columns(names)})"
        return f"{into} {rows} ON CONFLICT ({self.columns(key)}) {action}"

    def update_from(self, target: Name, source: str, values: Mapping[str, str], where: str) -> str:
        """Set columns of the target (alias t) to expressions over ``source`` (alias s)."""
        sets = ", ".join(f"{self.quote(column)} = {value}" for column, value in values.items())
        return f"UPDATE {self.name(target)} AS t SET {sets} FROM {source} AS s WHERE {where}"


def _decimal(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def is_look(statement: str) -> bool:
    """True for a check among ``Dialect.statements``."""
    return statement.startswith("SELECT ")


def _bad(identifier: str, why: str) -> ConfigError:
    shown = identifier if len(identifier) <= 40 else identifier[:40] + "..."
    return ConfigError("quote an identifier", f"{shown!a}: {why}", "rename the table or column")


@frozen
class Reference:
    """A foreign key that refers to a target.

    table      the table that has the foreign key
    columns    pairs of a column of ``table`` and the referenced column of the target
    acts       if a row is deleted, the server deletes or changes the rows that refer to it (ON DELETE CASCADE, SET
               NULL, SET DEFAULT)
    immediate  a referenced row cannot be deleted, not even if the same transaction inserts it again
    readable   the rows of ``table`` can be read
    """

    table: Name
    columns: tuple[tuple[str, str], ...] = ()
    acts: bool = False
    immediate: bool = False
    readable: bool = True


class Database(ABC):
    """One connection to the database of a target. It raises errors of ``dpone.errors``, never those of the driver. The
    methods that are not abstract execute standard SQL, written by ``dialect``."""

    dialect: Dialect
    noted: list[tuple[str, Sequence[Any]]] | None = None  # not None: ``execute`` notes here what it would run

    def __init_subclass__(cls, **more: Any) -> None:
        """The error of a failed statement gets its text, without the bound values, as a note."""
        super().__init_subclass__(**more)
        for name in {"execute", "rows"} & {*vars(cls)}:
            setattr(cls, name, _noting(getattr(cls, name)))

    # ---- transactions

    @abstractmethod
    def begin(self, lock: str) -> None:
        """Start a write transaction and hold ``lock`` (any text) until ``commit``, ``rollback`` or ``close``. Another
        transaction with the same text waits or is refused. If DDL commits by itself, the lock must outlive it (one of
        the session, such as MySQL's GET_LOCK), and what follows the DDL must be in a transaction again."""

    def commit(self) -> None:
        """Durable on return."""
        self.execute("COMMIT")

    @abstractmethod
    def rollback(self) -> None:
        """Does nothing if no transaction is open. What earlier transactions staged stays."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. May be called twice."""

    # ---- statements

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Returns how many rows an INSERT, UPDATE or DELETE found, including those that an UPDATE left unchanged (some
        drivers count only changed rows unless configured). For other statements any number."""

    @abstractmethod
    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small result. An instant (Arrow: a timestamp with a zone) is an aware datetime or an ISO 8601
        text with its offset: a naive one would be taken for another time."""

    @abstractmethod
    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """Bulk load into a staging table inside the open transaction; returns the number of rows written.

        Columns of ``schema`` are found in the batches by name; ``lineage`` is the same in every row. If the table has a
        primary key, rows that repeat a key are skipped, so that the result shows how many there were.
        """

    def upsert(
        self, target: Name, source: str, schema: pa.Schema, key: Sequence[str], compared: Sequence[str]
    ) -> tuple[int, int]:
        """Execute ``Dialect.upsert``. Returns how many rows of ``source`` have their key in the target, and how many
        were written. Only called if ``Dialect.on_conflict``."""
        matched = self.count_matches(target, source, schema, key)
        return matched, self.execute(self.dialect.upsert(target, source, schema, key, compared, "1 = 1"))

    def count_matches(self, target: Name, source: str, schema: pa.Schema, key: Sequence[str]) -> int:
        """How many rows of ``source`` have their key in the target."""
        d = self.dialect
        sql = f"SELECT COUNT(*) FROM {source} AS s JOIN {d.name(target)} AS t ON {d.same(schema, key)}"
        return int(self.rows(sql)[0][0])

    def clear(self, table: Name) -> int:
        """Delete all rows and return how many there were. Not by a TRUNCATE that commits."""
        return self.execute(f"DELETE FROM {self.dialect.name(table)}")

    @abstractmethod
    def hold(self, table: Name) -> None:
        """Lock a table before reading rows that this transaction then changes. Called with ``sink.options.undo``, by an
        undo, by ``take_back``, before a widening, and for a journal that is moved; not in other commits.

        Until the transaction ends nobody else may write the table, whether by dpone or not: others wait, or are
        refused, or make this transaction fail if it would change what they wrote. It sees everything that was
        written before. If new rows cannot be kept out (InnoDB locks rows), lock the existing ones, and set
        ``holds_new_rows = False`` in the dialect: dpone then counts what it changes, and stops if a row was added in
        between."""

    def writes(self, target: Name) -> None:  # noqa: B027 - not to be overridden by all, only empty
        """Called in a commit after ``begin``, before the first row of the target is changed: take a lock here if two
        merges at the same time could add the same key twice to a target without a unique index. By default nothing.
        May be called for several targets in one transaction."""

    # ---- tables

    @abstractmethod
    def schema(self, table: Name) -> pa.Schema | None:
        """The writable columns as Arrow types; None if the table does not exist."""

    @abstractmethod
    def tables(self, sibling_of: Name, prefix: str) -> list[Name]:
        """Tables in the schema of ``sibling_of`` whose names begin with ``prefix``; none if the schema does not
        exist."""

    @abstractmethod
    def primary_key(self, table: Name) -> tuple[str, ...]:
        """Its columns; empty if there is none. Without it a changed key is not detected."""

    @abstractmethod
    def unique(self, table: Name, key: Sequence[str]) -> bool:
        """True if a unique index on exactly these columns keeps keys unique and allows ``upsert``. False if the index
        treats different keys as equal, as by a collation: ``upsert`` would overwrite one with the other."""

    @abstractmethod
    def references(self, table: Name) -> list[Reference]:
        """The enforced foreign keys that refer to this table, its own included, ordered by the name of their table."""

    def create(self, table: Name, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        """Create a table of dpone's own or a staging table; never the target."""
        self.execute(self.dialect.create_table(table, schema, key))

    def create_like(self, table: Name, like: Name, columns: Sequence[str]) -> None:
        """Create the table for an undo, by ``Dialect.create_like``."""
        self.execute(self.dialect.create_like(table, like, columns))

    def drop(self, table: Name, wipe: bool = False) -> None:
        """Drop a table that ``create`` or ``create_like`` made. ``wipe``: its rows were deleted from the target, so
        they are overwritten if the server is configured to do that; those of a staging table need not be."""
        self.execute(self.dialect.drop_table(table))

    def unfit(self, table: Name, by: Collection[str]) -> tuple[str, str] | None:
        """Why an existing table cannot be loaded, and what to do. ``by``: the columns of its key and partition. A
        collation that is not exact would hide a change of case or of blanks at the end; a type that returns another
        value than was stored would hide an existing row."""
        return None

    # ---- the staging replaces the target

    def is_swappable(self, table: Name, key: Sequence[str]) -> bool:
        """True if the table is exactly as ``create_table`` creates it, and a swap would lose nothing that depends on
        it. Not called if DDL commits by itself. By default False, so that nothing is swapped."""
        return False

    def swap(self, stage: Name, target: Name, keep: Name | None = None) -> None:
        """Drop the target and rename the stage to it; both are plain. With ``keep`` the target is renamed to that, in
        the same schema, instead of dropped; names that are unique in a schema (indexes, constraints) become the
        stage's. Never called if DDL commits by itself."""
        if keep is None:
            self.execute(self.dialect.drop_table(target))
        else:
            self.rename(target, keep)
        self.rename(stage, target)

    def rename(self, table: Name, to: Name) -> None:
        """For ``swap``."""
        self.execute(self.dialect.rename_table(table, to))

    # ---- what a failed load has added is taken back

    def identity(self, table: Name, column: str = "") -> str:
        """Distinguishes the table, or its column, from one created later with the same name; empty if nothing does."""
        return ""

    def take_out(self, table: Name, column: str = "") -> str:
        """Drop a table, or a column of it, on which nothing depends. Otherwise return what does, in words that follow a
        colon, and change nothing. Inside the caller's transaction, which continues either way. If DDL commits by
        itself, nobody may write the table between check and drop. Only called if the plugin declares ``take_back``;
        without it, what a failed load added stays."""
        if found := self.dependants(table, column):
            return f"it has {', '.join(found)}"
        d, named = self.dialect, self.dialect.name(table)
        if not d.ddl_commits:
            self.execute(d.drop_column(table, column) if column else d.drop_table(table))
            return ""
        filled = f" WHERE {d.quote(column)} IS NOT NULL" if column else ""
        with self.alone(table):  # without alias: LOCK TABLES of MySQL locks a table only under the names that it lists
            if self.rows(f"SELECT COUNT(*) FROM {named}{filled}") != [(0,)]:
                return "another program has written to it"
            self.execute(d.drop_column(table, column) if column else d.drop_table(table))
        return ""

    def alone(self, table: Name) -> AbstractContextManager[None]:
        """For ``take_out`` if DDL commits by itself: a block in which nobody else can write the table. It may commit an
        open transaction. New rows are refused or wait from the beginning of the block, before ``take_out`` looks for
        rows, to the drop; a process that is killed in the block leaves nothing that keeps others out for good."""
        raise NotImplementedError("write alone: take_back is declared, and DDL commits by itself")

    def dependants(self, table: Name, column: str = "") -> list[str]:
        """For ``take_out``: what would be lost or broken with the table or column, each in a few words."""
        raise NotImplementedError("write dependants: take_back is declared")


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noting(self: Database, sql: str, *more: Any, **named: Any) -> Any:
        if self.noted is not None and method.__name__ == "execute":
            self.noted.append((sql, *more) if more else (sql, named.get("parameters", ())))
            return 1
        with saying(sql):
            return method(self, sql, *more, **named)

    return noting


@contextmanager
def transaction(db: Database, lock: str) -> Iterator[None]:
    """Committed as a whole, or not at all."""
    db.begin(lock)
    try:
        yield
        db.commit()
    except BaseException:
        db.rollback()
        raise
