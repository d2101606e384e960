"""The database of a target, as the shared SQL layer needs it. DDL commits by itself here, so nothing is swapped."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from dpone.errors import Category, ConfigError, SinkError
from dpone.model.evolution import Stored, canonical_type
from dpone.model.schema import Name
from dpone.sql.address import Server
from dpone.sql.catalog import Catalog, foreign_keys
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Dialect, Reference
from dpone_mariadb import types
from dpone_mariadb.connect import connect, failing

_INSTANT = {FIELD_TYPE.DATETIME: lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC)}


class MariadbDialect(Dialect):
    quotes = ("`", "`")
    placeholder = "%s"
    levels = ("database", "name")
    kept = types.KEPT
    decimals = (65, 38)
    unit = "characters"
    max_identifier = 64
    max_key = 3072 // 4  # https://mariadb.com/kb/en/innodb-limitations/
    text_index = "{}({})"  # its begin
    max_columns = 1017  # of InnoDB
    on_conflict = False
    ddl_commits = True
    holds_new_rows = False  # locks of InnoDB are of rows; LOCK TABLES would commit

    def quote(self, identifier: str) -> str:
        """Characters of the basic plane, none of them a blank at the end."""
        if identifier.endswith(" ") or any(ord(c) > 0xFFFF for c in identifier):
            found = f"{identifier[:40]!a}: a name has no character beyond U+FFFF and no blank at the end"
            raise ConfigError("quote an identifier", found, "rename the table or column")
        return super().quote(identifier)

    def stores(self, type: pa.DataType) -> Stored:
        type = canonical_type(type)
        return Stored(types.INTEGERS[type], type) if type in types.INTEGERS else super().stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        return types.reads(native)

    def parameter(self, value: Any, type: pa.DataType) -> Any:
        return types.encode(pa.array([str(value)]), type)[0]

    def skip_existing(self, key: Sequence[str]) -> str:
        return f" ON DUPLICATE KEY UPDATE {self.quote(key[0])} = {self.quote(key[0])}"

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


class MariadbDatabase(Catalog, DbapiDatabase):
    home = "database()"
    native = f"concat(i.column_type, if(i.column_comment = BINARY '{types.UTC}', ' COMMENT ''{types.UTC}''', ''))"
    filled = "coalesce(i.column_default, 'NULL') <> 'NULL' OR instr(i.extra, 'auto_increment') > 0"
    writable = "i.generation_expression IS NULL"

    def __init__(self, where: Server) -> None:
        super().__init__(MariadbDialect(), where.database)
        self._where, self._lock = where, ""

    def connect(self) -> pymysql.connections.Connection[Any]:
        return connect(self._where, SinkError, {**conversions, **_INSTANT})

    def failing(self, failed: str) -> AbstractContextManager[None]:
        return failing(SinkError, failed)

    # ---- transactions: a commit is durable with innodb_flush_log_at_trx_commit=1, which is the default

    def start(self, lock: str) -> None:
        """The lock is the session's (https://mariadb.com/kb/en/get_lock/), of 64 characters at most."""
        self._lock = f"dpone {hashlib.sha256(f'{self.place} {lock}'.encode()).hexdigest()[:40]}"
        if self.rows("SELECT GET_LOCK(%s, 50)", (self._lock,)) != [(1,)]:
            busy = SinkError("begin a transaction", "another run holds the lock", "let it finish, then run again")
            busy.category = Category.TRANSIENT
            raise busy
        self.execute("SET autocommit = 0")  # what follows DDL is a transaction again
        self.execute("START TRANSACTION")

    def unlock(self) -> None:
        """The lock of a connection that is closed is free."""
        if self._db is not None:
            self.execute("SET autocommit = 1")
            self.rows("SELECT RELEASE_LOCK(%s)", (self._lock,))

    def encode(self, given: pa.Array, type: pa.DataType) -> list[Any]:
        return types.encode(given, type)

    def hold(self, table: Name) -> None:
        """Locks every row; new ones may come until the transaction ends."""
        self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)} FOR UPDATE")

    # ---- the catalogue

    def keys(self, table: Name) -> list[tuple[str, str, bool]]:
        """Unique indexes of whole columns that are NOT NULL."""
        columns = "i.index_name, i.column_name, i.sub_part IS NOT NULL OR i.nullable = 'YES'"
        more = " AND i.non_unique = 0 ORDER BY i.index_name, i.seq_in_index"
        found = self.lines("statistics AS i", columns, table, more)
        loose = {index for index, _, partly in found if partly}
        return [(index, column, index == "PRIMARY") for index, column, _ in found if index not in loose]

    def unfit(self, table: Name, by: Collection[str]) -> tuple[str, str] | None:
        """CHAR loses blanks at the end and BINARY gains zeros: a key that was written is not met again."""
        if self.lines("columns AS i", "1", table, " AND NOT i.collation_name REGEXP '_nopad_bin$' LIMIT 1"):
            return "a column has a collation that is not exact", "give its texts COLLATE utf8mb4_nopad_bin"
        padded = self.lines("columns AS i", "i.column_name", table, " AND i.data_type IN ('char', 'binary')")
        for (name,) in padded:
            if name in by:
                found = f"column {name}, by which it goes, gives back other values than it was given"
                return found, "make it a varchar or varbinary, which keep blanks and zeros at the end"
        return None

    def references(self, table: Name) -> list[Reference]:
        """InnoDB checks each row at once. By ON: the server (10.11.19) dies of the same join written with USING."""
        same = " AND ".join(f"r.{n} = k.{n}" for n in ("constraint_schema", "constraint_name", "table_name"))
        home, named = self.within(table)
        names = (
            "k.table_schema, k.table_name, k.constraint_name, r.delete_rule, k.column_name, k.referenced_column_name"
        )
        sql = f"SELECT {names} FROM information_schema.key_column_usage AS k \
            JOIN information_schema.referential_constraints AS r ON {same} \
            WHERE {home.replace('i.table_schema', 'k.referenced_table_schema')} AND k.referenced_table_name = %s \
            ORDER BY 1, 2, 3, k.ordinal_position"
        return foreign_keys(self.rows(sql, (*named, table.last)))

    def identity(self, table: Name, column: str = "") -> str:
        """A table by its text."""
        return "" if column else str(self.rows(f"SHOW CREATE TABLE {self.dialect.name(table)}")[0][1])

    def attached(self, table: Name, column: str = "") -> list[str]:
        indexes = self.lines("statistics AS i", "i.index_name", table, " AND i.column_name = %s", (column,))
        return [f"index {name}" for (name,) in indexes]

    @contextmanager
    def alone(self, table: Name) -> Iterator[None]:
        self.execute(f"LOCK TABLES {self.dialect.name(table)} WRITE")
        try:
            yield
        finally:
            self.execute("UNLOCK TABLES")
