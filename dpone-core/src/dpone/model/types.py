"""Names of column types, as people and catalogues write them, and their Arrow types. Every option that takes a type
reads it with ``named``; docs/guide/pipeline.md has the table."""

from __future__ import annotations

import difflib
import re
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from dpone.errors import ConfigError
from dpone.model.schema import NATIVE, TYPE_NAMES

JSON: pa.DataType = pa.json_() if hasattr(pa, "json_") else pa.string()
UUID: pa.DataType = pa.uuid()

_PLAIN: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "bool": pa.bool_(), "bit": pa.bool_(),
    "tinyint": pa.uint8(), "smallint": pa.int16(), "int2": pa.int16(), "int": pa.int32(), "integer": pa.int32(),
    "int4": pa.int32(), "bigint": pa.int64(),
    "real": pa.float32(), "float4": pa.float32(), "float": pa.float64(), "float8": pa.float64(),
    "double": pa.float64(), "double precision": pa.float64(),
    "money": pa.decimal128(19, 4), "smallmoney": pa.decimal128(10, 4),
    "text": pa.string(), "ntext": pa.string(), "clob": pa.string(), "xml": pa.string(),
    "blob": pa.binary(), "bytea": pa.binary(), "bytes": pa.binary(), "image": pa.binary(), "date": pa.date32(),
    "datetime": pa.timestamp("us"), "smalldatetime": pa.timestamp("us"), "timestamp_ns": pa.timestamp("ns"),
    "json": JSON, "jsonb": JSON, "uuid": UUID, "uniqueidentifier": UUID,
}  # fmt: skip
_TEXT = (
    "string", "char", "character", "nchar", "varchar", "nvarchar", "character varying", "char varying", "bpchar",
    "character large object", "char large object",
)  # fmt: skip
_BINARY = ("binary", "varbinary", "binary varying", "binary large object")
_CLOCKS: dict[str, tuple[str, str | None]] = {
    "timestamp": ("timestamp", None), "timestamp without time zone": ("timestamp", None),
    "datetime2": ("timestamp", None), "timestamptz": ("timestamp", "UTC"),
    "timestamp with time zone": ("timestamp", "UTC"), "datetimeoffset": ("timestamp", "UTC"),
    "time": ("time", None), "time without time zone": ("time", None),
}  # fmt: skip
_SIZED = re.compile(
    r"([a-z][a-z0-9_ ]*?)\s*(?:\(\s*(\d{1,5}|max)\s*(?:,\s*(\d{1,5})\s*)?\))?( with(?:out)? time zone)?"
)
_ARROW_DECIMAL = re.compile(r"decimal(128|256)\((\d{1,2}),\s*(\d{1,2})\)")
_ARROW_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), (?:tz=)?([\w+:/-]+)\]")
_ARROW_OTHER = {"extension<arrow.json>": JSON, "extension<arrow.uuid>": UUID}


def standard(text: str) -> pa.DataType | None:
    """``numeric(10,2)``, ``varchar(50)``, ``timestamp(6) with time zone``; None if it is none of them. A decimal needs
    its precision: without it servers mean different things."""
    match = _SIZED.fullmatch(" ".join(text.lower().split()))
    if match is None:
        return None
    word, size, scale, zone = match[1] + (match[4] or ""), match[2], match[3], match[4]
    if word in ("numeric", "decimal", "dec"):
        return _decimal(size, scale)
    if scale is not None:
        return None
    if word in _TEXT or word in _BINARY:
        return pa.string() if word in _TEXT else pa.binary()
    if size == "max":
        return None
    if word in _CLOCKS:
        return _clock(*_CLOCKS[word], int(size or 6))
    if word == "float" and size is not None:
        return pa.float32() if int(size) <= 24 else pa.float64()
    return _PLAIN.get(word) if size is None and zone is None else None


def kind(type: pa.DataType) -> str:
    """What a type is in one word, whatever its width, unit or layout, so that a dialect can say by a table how it keeps
    each: boolean, integer, floating, decimal, date, timestamp, instant (a timestamp of a zone), time, duration, uuid,
    json (nested types too), text (NULL alone too), binary. An extension is what it is stored as. Empty: any other."""
    t = pa.types
    if type == UUID:
        return "uuid"
    if t.is_nested(type) or (type == JSON and isinstance(type, pa.BaseExtensionType)):
        return "json"
    if isinstance(type, pa.BaseExtensionType):
        return kind(type.storage_type)
    if t.is_timestamp(type):
        return "instant" if type.tz else "timestamp"
    return next((word for word, tests in _KINDS.items() if any(is_kind(type) for is_kind in tests)), "")


_KINDS = {
    "boolean": (pa.types.is_boolean,), "integer": (pa.types.is_integer,), "floating": (pa.types.is_floating,),
    "decimal": (pa.types.is_decimal,), "date": (pa.types.is_date,), "time": (pa.types.is_time,),
    "duration": (pa.types.is_duration,),
    "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
    "binary": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
}  # fmt: skip


# By kind: what a column of it is read as where it has one width, and whether every value has a place there, but for
# times in nanoseconds (``evolution.Stored``).
BACK: dict[str, tuple[pa.DataType, Literal["exact", "checked"]]] = {
    "boolean": (pa.bool_(), "exact"), "integer": (pa.int64(), "checked"), "floating": (pa.float64(), "checked"),
    "date": (pa.date32(), "checked"), "timestamp": (pa.timestamp("us"), "checked"),
    "instant": (pa.timestamp("us", "UTC"), "checked"), "time": (pa.time64("us"), "exact"), "uuid": (UUID, "exact"),
    "json": (JSON, "checked"), "binary": (pa.binary(), "exact"), "text": (pa.string(), "exact"),
}  # fmt: skip


def named(text: str, failed: str) -> pa.DataType:
    """The type for a name of SQL or Arrow. Raises ConfigError for an unknown name; ``failed`` is the first part of its
    message."""
    found = standard(text) or arrow(text)
    if found is not None and limit(text) != 0:
        return found
    raise ConfigError(failed, f"unknown type {text!r}", instead(text))


def instead(text: str) -> str:
    """What to write in place of an unknown name."""
    word = text.lower().partition("(")[0].strip()
    if word in ("numeric", "decimal", "dec"):
        return "write its digits, as in numeric(18,2): at most 76 in all, of which 2 are after the point"
    near = difflib.get_close_matches(word, [name.partition("(")[0] for name in TYPE_NAMES], 1, 0.0)
    return f"write {near[0] if near else 'text'}, or another of {', '.join(TYPE_NAMES)}"


def limit(text: str) -> int | None:
    """The n of ``varchar(n)``, at most so many characters; None for any other type, and for a text without limit.
    ``char(n)`` is the same here: nothing is padded."""
    match = _SIZED.fullmatch(" ".join(text.lower().split()))
    sized = match is not None and match[1] in _TEXT and match[2] is not None and match[2].isdigit()
    return int(match[2]) if match is not None and sized else None


def limited(field: pa.Field, text: str) -> pa.Field:
    """A column declared as ``text``: its length goes with it, to the targets that have one."""
    most = limit(text)
    return field if most is None else field.with_metadata({**(field.metadata or {}), NATIVE: b"varchar(%d)" % most})


def limit_of(field: pa.Field) -> int | None:
    """As ``limit``, of a column of text that says its type in the words of its source."""
    is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    return limit((field.metadata or {}).get(NATIVE, b"").decode(errors="replace")) if is_text else None


def first_longer(texts: pa.Array, most: int) -> int:
    """The index of the first text of more characters; -1 if there is none."""
    return int(pc.index(pc.greater(pc.utf8_length(texts), most), True).as_py())


def first_finer(times: pa.Array, digits: int) -> int:
    """The index of the first time in microseconds with more digits of a second; -1 if there is none."""
    counts, step = times.cast(pa.int64()), 10 ** (6 - digits)
    return int(pc.index(pc.not_equal(pc.multiply(pc.divide(counts, step), step), counts), True).as_py())


def _decimal(size: str | None, scale: str | None) -> pa.DataType | None:
    if size is None or not size.isdigit():
        return None
    precision, digits = int(size), int(scale or 0)
    if not 0 < precision <= 76 or digits > precision:
        return None
    return pa.decimal128(precision, digits) if precision <= 38 else pa.decimal256(precision, digits)


def _clock(kind: str, zone: str | None, digits: int) -> pa.DataType | None:
    if digits > 9:
        return None
    unit = "us" if digits <= 6 else "ns"
    return pa.time64(unit) if kind == "time" else pa.timestamp(unit, zone)


def arrow(text: str) -> pa.DataType | None:
    """A type by the name Arrow gives it: ``int64``, ``decimal128(10, 2)``, ``timestamp[us, tz=UTC]``. Scalars only."""
    if text in _ARROW_OTHER:
        return _ARROW_OTHER[text]
    if match := _ARROW_DECIMAL.fullmatch(text):
        wide = match[1] == "256"
        found = _decimal(match[2], match[3])
        if found is None or (not wide and found.precision > 38):
            return None
        return pa.decimal256(found.precision, found.scale) if wide else found
    if match := _ARROW_ZONED.fullmatch(text):
        return pa.timestamp(match[1], match[2])
    try:
        return pa.type_for_alias(text)
    except ValueError:
        return None
