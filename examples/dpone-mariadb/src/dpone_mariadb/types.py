"""MariaDB's types and Arrow's, and values of the one as values of the other.

An instant is a DATETIME in UTC whose column says so in its comment: TIMESTAMP ends in 2038
(https://mariadb.com/kb/en/timestamp/).
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dpone.errors import ConfigError
from dpone.evolution import Stored, plain
from dpone.jsontext import has_members
from dpone.sql import types as common
from dpone.sql import values
from dpone.sql.cursor import Row
from dpone.sql.types import JSON, UUID
from dpone.sql.values import Refused

UTC = "UTC"
TEXT = "longtext COLLATE utf8mb4_nopad_bin"  # by characters, blanks at the end included
_INSTANT = pa.timestamp("us", "UTC")
_INTEGERS = {
    pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
    pa.uint8(): "tinyint unsigned", pa.uint16(): "smallint unsigned", pa.uint32(): "int unsigned",
    pa.uint64(): "bigint unsigned",
}  # fmt: skip
_READS = {name: type_ for type_, name in _INTEGERS.items()} | {
    "mediumint": pa.int32(), "mediumint unsigned": pa.uint32(), "year": pa.int16(), "double": pa.float64(),
    "float": pa.float32(), "date": pa.date32(), "time": pa.time64("us"), "timestamp": _INSTANT, "uuid": UUID,
    "inet4": pa.string(), "inet6": pa.string(), "enum": pa.string(), "set": pa.string(),
}  # fmt: skip
_COLUMN = re.compile(r"(\w+)(?:\((\d+)(?:,(\d+))?\)|\(.*\))?( unsigned)?.*", re.DOTALL)
_KEPT = {
    "boolean": Stored("bit(1)", pa.bool_()),
    "floating": Stored("double", pa.float64(), "checked"),  # no NaN, no infinity; FLOAT is shown with six digits
    "date": Stored("date", pa.date32(), "checked"),
    "timestamp": Stored("datetime(6)", pa.timestamp("us"), "checked"),
    "instant": Stored(f"datetime(6) COMMENT '{UTC}'", _INSTANT, "checked"),
    "uuid": Stored("uuid", UUID),
    "json": Stored(TEXT, pa.string(), "checked"),
    "binary": Stored("longblob", pa.binary()),
    "text": Stored(TEXT, pa.string()),
}


def stores(type: pa.DataType) -> Stored:
    """Raises ConfigError for what MariaDB cannot keep."""
    type = plain(type)
    kind = common.kind(type)
    if type in _INTEGERS:
        return Stored(_INTEGERS[type], type)
    if kind == "decimal" and type.precision <= 65 and 0 <= type.scale <= 38:
        wide = pa.decimal256 if type.precision > 38 else pa.decimal128
        return Stored(f"decimal({type.precision},{type.scale})", wide(type.precision, type.scale))
    if kind == "time":
        return Stored("time(6)", pa.time64("us"), "checked" if type == pa.time64("ns") else "exact")
    if kind not in _KEPT:
        raise ConfigError(f"keep {type}", "MariaDB has no such type", "cast the column in the source")
    return _KEPT[kind]


def reads(native: str) -> pa.DataType | None:
    """Of a COLUMN_TYPE of the catalogue, with the comment of an instant; None: no such type."""
    match = _COLUMN.fullmatch(native.lower())
    if match is None:
        return None
    word, size, scale = match[1], int(match[2] or 0), int(match[3] or 0)
    if found := _READS.get(word + (match[4] or "")):
        return found
    if word == "decimal":
        return pa.decimal256(size, scale) if size > 38 else pa.decimal128(size, scale)
    if word == "datetime":
        return _INSTANT if native.endswith(f"COMMENT '{UTC}'") else pa.timestamp("us")
    if word == "bit" and size == 1:
        return pa.bool_()
    if word.endswith(("text", "char")):
        return pa.string()
    return pa.binary() if word.endswith(("blob", "binary")) else None


def encode(array: pa.Array, type: pa.DataType) -> list[Any]:
    """Values to bind, NULL as None. Raises Refused."""
    if pa.types.is_floating(type):
        array = values.fitted(array, type)
        if pc.any(pc.invert(pc.is_finite(array))).as_py():
            raise Refused("NaN or an infinity, which MariaDB cannot keep", 0)
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
