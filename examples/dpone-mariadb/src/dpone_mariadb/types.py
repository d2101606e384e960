"""MariaDB's types and Arrow's, and values of the one as values of the other.

An instant is a DATETIME in UTC whose column says so in its comment: TIMESTAMP ends in 2038
(https://mariadb.com/kb/en/timestamp/).
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dpone.formats.json_text import has_members
from dpone.model.evolution import Stored
from dpone.model.types import JSON, standard
from dpone.sql import values
from dpone.sql.cursor import Row
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


def reads(native: str) -> pa.DataType | None:
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


def encode(array: pa.Array, type: pa.DataType) -> list[Any]:
    """Values to bind, NULL as None. Raises Refused."""
    if pa.types.is_floating(type):
        array = values.fitted(array, type)
        if pc.any(pc.invert(pc.is_finite(array))).as_py():
            raise Unstorable("NaN or an infinity, which MariaDB cannot keep", 0)
    return values.encode(array, JSON if pa.types.is_string(type) and has_members(array.type) else type, zone="")


def decode(given: Row, type: pa.DataType) -> pa.Array:
    """Of what the server sends: texts, and bytes for binary columns. Raises Refused."""
    t = pa.types
    if t.is_binary(type):
        given = [v.encode() if isinstance(v, str) else v for v in given]
    elif t.is_boolean(type):
        given = [None if v is None else v not in (b"\0", "\0", "0") for v in given]
    elif t.is_timestamp(type) and type.tz:
        return values.decode(given, pa.timestamp("us")).cast(type)
    return values.decode(given, type)
