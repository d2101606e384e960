"""The database of a target, as the shared SQL layer needs it. DDL commits by itself here, so nothing is swapped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from dpone.errors import Category, ConfigError, SinkError
from dpone.evolution import Stored
from dpone.schema import DEFAULT, Name
from dpone.sql.dialect import Database, Dialect, Reference
from dpone_mariadb import types
from dpone_mariadb.connect import Place, connect
from dpone_mariadb.errors import failing

_MINE = "table_schema = coalesce(%s, database()) AND table_name = %s"
_INSTANT = {FIELD_TYPE.DATETIME: lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC)}


class MariadbDialect(Dialect):
    quotes = ("`", "`")
    placeholder = "%s"
    unit = "characters"
    max_identifier = 64
    max_key = 3072 // 4  # https://mariadb.com/kb/en/innodb-limitations/
    max_columns = 1017  # of InnoDB
    on_conflict = False
    ddl_commits = True
    holds_new_rows = False  # locks of InnoDB are of rows; LOCK TABLES would commit

    def quote(self, identifier: str) -> str:
        """Characters of the basic plane, none of them a blank at the end. The driver takes % for a placeholder."""
        if identifier.endswith(" ") or any(ord(c) > 0xFFFF for c in identifier):
            found = f"{identifier[:40]!a}: a name has no character beyond U+FFFF and no blank at the end"
            raise ConfigError("quote an identifier", found, "rename the table or column")
        return super().quote(identifier).replace("%", "%%")

    def literal(self, text: str) -> str:
        return super().literal(text).replace("%", "%%")

    def stores(self, type: pa.DataType) -> Stored:
        return types.stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return types.reads(native)

    def parameter(self, value: Any, type: pa.DataType) -> Any:
        given = value if isinstance(value, datetime) else str(value)
        return types.encode(pa.array([given]), type, "")[0]

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        return f"NOT ({left} <=> {right})"

    def column(self, field: pa.Field) -> str:
        """NOT NULL comes before the comment."""
        native, comment, text = self.stores(field.type).native.partition(" COMMENT ")
        return f"{self.quote(field.name)} {native}{'' if field.nullable else ' NOT NULL'}{comment}{text}"

    def key_column(self, field: pa.Field, most: int) -> str:
        """A text without a length can be no key."""
        written = self.column(field).replace(" longtext ", f" varchar({most}) ")
        return written.replace(" longblob", f" varbinary({most})")

    def create_table(self, table: Name, schema: pa.Schema, key: Sequence[str] = ()) -> str:
        return f"{super().create_table(table, schema, key)} ENGINE=InnoDB CHARACTER SET utf8mb4"

    def create_index(self, table: Name, schema: pa.Schema, columns: Sequence[str], suffix: str = "key") -> str:
        """Of a text its begin."""
        most = self.key_size(schema, columns)
        texts = [name for name in columns if self.is_text(schema.field(name).type)]
        parts = (f"{self.quote(name)}({most})" if name in texts else self.quote(name) for name in columns)
        return f"CREATE INDEX {self.quote(f'{table.last}_{suffix}')} ON {self.name(table)} ({', '.join(parts)})"

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        if self.stores(before.type).native == self.stores(after.type).native:
            return []
        return [f"ALTER TABLE {self.name(table)} MODIFY COLUMN {self.column(after.with_nullable(before.nullable))}"]

    def delete_from(self, target: Name, where: str) -> str:
        return f"DELETE t FROM {self.name(target)} AS t WHERE {where}"

    def delete_keys(self, target: Name, source: str, schema: pa.Schema, key: Sequence[str]) -> str:
        return f"DELETE t FROM {self.name(target)} AS t JOIN {source} AS s ON {self.same(schema, key)}"

    def update_from(self, target: Name, source: str, values: Mapping[str, str], where: str) -> str:
        sets = ", ".join(f"t.{self.quote(column)} = {value}" for column, value in values.items())
        return f"UPDATE {self.name(target)} AS t, {source} AS s SET {sets} WHERE {where}"


class MariadbDatabase(Database):
    """``dpone.sql.dialect.Database``. Opened when first used."""

    def __init__(self, place: Place) -> None:
        self.dialect: Dialect = MariadbDialect()
        self.place = place
        self._db: pymysql.connections.Connection[Any] | None = None
        self._held = ""

    def connection(self) -> pymysql.connections.Connection[Any]:
        if self._db is None:
            self._db = connect(self.place, SinkError, {**conversions, **_INSTANT})
        return self._db

    def close(self) -> None:
        """The server rolls back what is open, and lets go of the lock."""
        if self._db is not None:
            with suppress(pymysql.Error):
                self._db.close()
            self._db, self._held = None, ""

    # ---- transactions

    def begin(self, lock: str) -> None:
        """The lock is the session's (https://mariadb.com/kb/en/get_lock/), of 64 characters at most."""
        name = f"dpone {hashlib.sha256(f'{self.place.database} {lock}'.encode()).hexdigest()[:40]}"
        if self.rows("SELECT GET_LOCK(%s, 50)", (name,)) != [(1,)]:
            busy = SinkError("begin a transaction", "another run holds the lock", "let it finish, then run again")
            busy.category = Category.TRANSIENT
            raise busy
        self._held = name
        self.execute("SET autocommit = 0")  # what follows DDL is a transaction again
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        """Durable with innodb_flush_log_at_trx_commit=1, which is the default."""
        super().commit()
        self._release()

    def rollback(self) -> None:
        if self._held:
            try:
                self.execute("ROLLBACK")
                self._release()
            except SinkError:
                self.close()

    def _release(self) -> None:
        self.execute("SET autocommit = 1")
        self.rows("SELECT RELEASE_LOCK(%s)", (self._held,))
        self._held = ""

    # ---- statements

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with failing(SinkError, f"write {self.place.database}"), self.connection().cursor() as cursor:
            return int(cursor.execute(sql, tuple(parameters)))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A DATETIME is an instant: dpone asks for its own alone."""
        with failing(SinkError, f"read {self.place.database}"), self.connection().cursor() as cursor:
            cursor.execute(sql, tuple(parameters))
            return list(cursor.fetchall())

    def schema(self, table: Name) -> pa.Schema | None:
        columns = "column_name, column_type, is_nullable, column_default, extra, column_comment, generation_expression"
        sql = f"SELECT {columns} FROM information_schema.columns WHERE {_MINE} ORDER BY ordinal_position"
        made = []
        for name, type_, null, default, extra, comment, generated in self.rows(sql, _place(table)):
            if generated is None:
                filled = default not in (None, "NULL") or "auto_increment" in extra
                native = f"{type_} COMMENT '{types.UTC}'" if comment == types.UTC else type_
                metadata = {DEFAULT: b"yes"} if filled else None
                made.append(pa.field(name, types.reads(native) or pa.string(), null == "YES", metadata))
        return pa.schema(made) if made else None

    # ---- loading

    def load(
        self, table: Name, schema: pa.Schema, batches: Iterable[pa.RecordBatch], lineage: Mapping[str, Any]
    ) -> int:
        """Statements of many rows, as long as the server takes them."""
        d, key, own = self.dialect, self.primary_key(table), [pa.scalar(v) for v in lineage.values()]
        constants = [types.encode(pa.array([v.as_py()], v.type), types.stores(v.type).arrow, "")[0] for v in own]
        holes = ", ".join(["%s"] * (len(schema) + len(lineage)))
        once = f" ON DUPLICATE KEY UPDATE {d.quote(key[0])} = {d.quote(key[0])}" if key else ""
        into = f"INSERT INTO {d.name(table)} ({d.columns([*schema.names, *lineage])}) VALUES ({holes}){once}"
        before, given = self._count(table) if key else 0, 0
        for batch in batches:
            columns = [types.encode(batch.column(f.name), f.type, f.name) for f in schema]
            columns += [[value] * batch.num_rows for value in constants]
            with failing(SinkError, f"load {table}"), self.connection().cursor() as cursor:
                cursor.executemany(into, list(zip(*columns, strict=True)))
            given += batch.num_rows
        return self._count(table) - before if key else given

    def _count(self, table: Name) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)}")[0][0])

    def _keys(self, table: Name) -> dict[str, list[str]]:
        """Unique indexes of whole columns that are NOT NULL."""
        columns = "index_name, column_name, sub_part IS NOT NULL OR nullable = 'YES'"
        where = f"{_MINE} AND non_unique = 0 ORDER BY index_name, seq_in_index"
        sql = f"SELECT {columns} FROM information_schema.statistics WHERE {where}"
        found: dict[str, list[str]] = {}
        loose = set()
        for index, column, partly in self.rows(sql, _place(table)):
            found.setdefault(index, []).append(column)
            loose |= {index} if partly else set()
        return {index: columns for index, columns in found.items() if index not in loose}

    def unique(self, table: Name, key: Sequence[str]) -> bool:
        return any({*columns} == {*key} for columns in self._keys(table).values())

    def primary_key(self, table: Name) -> tuple[str, ...]:
        return tuple(self._keys(table).get("PRIMARY", ()))

    def collated(self, table: Name) -> bool:
        exact = "collation_name REGEXP '_nopad_bin$'"
        sql = f"SELECT 1 FROM information_schema.columns WHERE {_MINE} AND NOT {exact} LIMIT 1"
        return bool(self.rows(sql, _place(table)))

    def padded(self, table: Name) -> list[str]:
        """CHAR loses blanks at the end, BINARY gains zeros: a value that was written is not met again."""
        sql = f"SELECT column_name FROM information_schema.columns WHERE {_MINE} AND data_type IN ('char', 'binary')"
        return [name for (name,) in self.rows(sql, _place(table))]

    def tables(self, beside: Name, prefix: str) -> list[Name]:
        database, _ = _place(beside)
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = coalesce(%s, database()) \
            AND left(table_name, char_length(%s)) = %s"
        return [beside.sibling(name) for (name,) in self.rows(sql, (database, prefix, prefix))]

    def identity(self, table: Name, column: str = "") -> str:
        """A table by its text."""
        return "" if column else str(self.rows(f"SHOW CREATE TABLE {self.dialect.name(table)}")[0][1])

    def dependants(self, table: Name, column: str = "") -> list[str]:
        """A view is found by its text, which has the name somewhere; those of ``mysql`` and ``sys`` are the
        server's own."""
        views = "SELECT table_name FROM information_schema.views WHERE instr(view_definition, %s) \
            AND table_schema NOT IN ('mysql', 'sys')"
        hanging = [f"view {name}" for (name,) in self.rows(views, (column or table.last,))]
        hanging += [f"a reference from {found.table}" for found in self.references(table)]
        if column:
            sql = f"SELECT index_name FROM information_schema.statistics WHERE {_MINE} AND column_name = %s"
            hanging += [f"index {name}" for (name,) in self.rows(sql, (*_place(table), column))]
        return hanging

    def take_out(self, table: Name, column: str = "") -> str:
        """Nobody writes the table between the look and the drop."""
        if hanging := self.dependants(table, column):
            return f"it has {', '.join(hanging)}"
        d, named = self.dialect, self.dialect.name(table)
        some = f"{d.quote(column)} IS NOT NULL" if column else "1 = 1"
        self.execute(f"LOCK TABLES {named} WRITE")  # commits, as DDL does: so look again
        try:
            if self.rows(f"SELECT 1 FROM {named} WHERE {some} LIMIT 1"):
                return "another program has written it meanwhile"
            self.execute(d.drop_column(table, column) if column else d.drop_table(table))
        finally:
            self.execute("UNLOCK TABLES")
        return ""

    def hold(self, table: Name) -> None:
        """Locks every row; new ones may come until the transaction ends."""
        self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)} FOR UPDATE")

    def references(self, table: Name) -> list[Reference]:
        """InnoDB checks each row at once. By ON: the server (10.11.19) dies of the same join written with USING."""
        names = (
            "k.table_schema, k.table_name, k.constraint_name, k.column_name, k.referenced_column_name, r.delete_rule"
        )
        same = " AND ".join(f"r.{n} = k.{n}" for n in ("constraint_schema", "constraint_name", "table_name"))
        sql = f"SELECT {names} FROM information_schema.key_column_usage AS k \
            JOIN information_schema.referential_constraints AS r ON {same} \
            WHERE k.referenced_table_schema = coalesce(%s, database()) AND k.referenced_table_name = %s \
            ORDER BY 1, 2, 3, k.ordinal_position"
        found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for schema, name, constraint, mine, theirs, rule in self.rows(sql, _place(table)):
            found.setdefault((schema, name, constraint, rule), []).append((mine, theirs))
        return [
            Reference(Name((schema, name)), tuple(pairs), rule in ("CASCADE", "SET NULL"), immediate=True)
            for (schema, name, _, rule), pairs in found.items()
        ]


def _place(table: Name) -> tuple[str | None, str]:
    return (table.parts[-2] if len(table.parts) > 1 else None, table.last)
