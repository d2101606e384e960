"""Names of column types, as people and catalogues write them, and what they are in Arrow."""

from __future__ import annotations

import re

import pyarrow as pa

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
    "blob": pa.binary(), "bytea": pa.binary(), "image": pa.binary(), "date": pa.date32(),
    "datetime": pa.timestamp("us"), "smalldatetime": pa.timestamp("us"),
    "json": JSON, "jsonb": JSON, "uuid": UUID, "uniqueidentifier": UUID,
}  # fmt: skip
_TEXT = ("char", "character", "nchar", "varchar", "nvarchar", "character varying", "char varying", "bpchar")
_BINARY = ("binary", "varbinary", "binary varying")
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
