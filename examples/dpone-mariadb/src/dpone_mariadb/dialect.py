"""MariaDB's SQL, its types and Arrow's, and values of the one as values of the other.

An instant is a DATETIME in UTC whose column says so in its comment: TIMESTAMP ends in 2038
(https://mariadb.com/kb/en/timestamp/).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dpone.errors import ConfigError
from dpone.formats.json_text import has_members
from dpone.model.evolution import Stored, canonical_type
from dpone.model.schema import Name
from dpone.model.types import JSON, standard
from dpone.sql import values
from dpone.sql.dialect import Dialect
from dpone.sql.values import Unstorable

UTC = "UTC"
TEXT = "longtext COLLATE utf8mb4_nopad_bin"  # by characters, blanks at the end included
_INSTANT = pa.timestamp("us", "UTC")
INTEGERS = {
    pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
    pa.uint8(): "tinyint unsigned", pa.uint16(): "smallint unsigned", pa.uint32(): "int unsigned",
    pa.uint64(): "bigint unsigned",
}  # fmt: skip
_READS = {name: type_ for type_, name in INTEGERS.items()} | {
    "mediumint": pa.int32(), "mediumint unsigned": pa.uint32(), "year": pa.int16(), "double": pa.float64(),
    "float": pa.float32(), "float unsigned": pa.float32(), "timestamp": _INSTANT,
    **dict.fromkeys(("inet4", "inet6", "enum", "set"), pa.string()),
}  # fmt: skip
_COLUMN = re.compile(r"(\w+)(\(.*?\))?( unsigned)?.*", re.DOTALL)
KEPT: dict[str, str | Stored] = {
    "boolean": "bit(1)", "decimal": "decimal({},{})", "floating": "double", "date": "date", "timestamp": "datetime(6)",
    "instant": f"datetime(6) COMMENT '{UTC}'", "time": "time(6)", "uuid": "uuid", "binary": "longblob", "text": TEXT,
    "json": Stored(TEXT, pa.string(), "checked"),
}  # fmt: skip


class MariadbDialect(Dialect):
    quotes = ("`", "`")
    placeholder = "%s"
    levels = ("database", "name")
    kept = KEPT
    decimals = (65, 38)
    unit = "characters"
    max_identifier = 64
    max_key = 3072 // 4  # https://mariadb.com/kb/en/innodb-limitations/
    text_index = "{}({})"  # its begin
    max_columns = 1017  # of InnoDB
    altering = "MODIFY COLUMN {} {}"
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
        return Stored(INTEGERS[type], type) if type in INTEGERS else super().stores(type)

    def reads(self, native: str) -> pa.DataType | None:
        """Of a COLUMN_TYPE of the catalogue, with the comment of an instant; None: no such type."""
        match = _COLUMN.fullmatch(native.lower())
        if match is None:
            return None
        word, digits, unsigned = match.groups("")
        if found := _READS.get(word + unsigned):
            return found
        if word == "datetime":
            return _INSTANT if native.endswith(f"COMMENT '{UTC}'") else pa.timestamp("us")
        if word.endswith(("text", "blob")):  # of four sizes
            return pa.string() if word.endswith("text") else pa.binary()
        return pa.bool_() if word + digits == "bit(1)" else standard(word + digits)

    def encode(self, given: pa.Array, type: pa.DataType) -> list[Any]:
        if pa.types.is_floating(type):
            given = values.fitted(given, type)
            if pc.any(pc.invert(pc.is_finite(given))).as_py():
                raise Unstorable("NaN or an infinity, which MariaDB cannot keep", 0)
        text_of_json = pa.types.is_string(type) and has_members(given.type)
        return values.encode(given, JSON if text_of_json else type, zone="")

    def decode(self, given: Sequence[Any], type: pa.DataType) -> pa.Array:
        """Of what the server sends: texts, and bytes for binary columns."""
        t = pa.types
        if t.is_binary(type):
            given = [v.encode() if isinstance(v, str) else v for v in given]
        elif t.is_boolean(type):
            given = [None if v is None else v not in (b"\0", "\0", "0") for v in given]
        elif t.is_timestamp(type) and type.tz:
            return values.decode(given, pa.timestamp("us")).cast(type)
        return values.decode(given, type)

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

    def delete_from(self, target: Name, where: str) -> str:
        return f"DELETE t FROM {self.name(target)} AS t WHERE {where}"

    def delete_keys(self, target: Name, source: str, schema: pa.Schema, key: Sequence[str]) -> str:
        return f"DELETE t FROM {self.name(target)} AS t JOIN {source} AS s ON {self.same(schema, key)}"

    def update_from(self, target: Name, source: str, values: Mapping[str, str], where: str) -> str:
        sets = ", ".join(f"t.{self.quote(column)} = {value}" for column, value in values.items())
        return f"UPDATE {self.name(target)} AS t, {source} AS s SET {sets} WHERE {where}"
