"""SQLite's declared types and Arrow's.

SQLite types values, not columns: a declared type is a preference ("affinity",
https://www.sqlite.org/datatype3.html). The sink declares types whose affinity keeps what is written byte for byte:
DECIMAL_TEXT, not DECIMAL, since NUMERIC affinity would turn exact digits into a double.
"""

from __future__ import annotations

import re

import pyarrow as pa

from dpone.model import types as common
from dpone.model.evolution import Stored, canonical_type

JSON, UUID = common.JSON, common.UUID
_TIMESTAMP, _INSTANT, _TIME = pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.time64("us")


def stores(type: pa.DataType) -> Stored:
    """Dates and times are ISO texts of fixed width, so that their order as text is their order in time."""
    type = canonical_type(type)
    t = pa.types
    if t.is_boolean(type):
        return Stored("BOOLEAN", pa.bool_())
    if t.is_integer(type):
        return Stored("INTEGER", pa.int64(), "checked" if type == pa.uint64() else "exact")
    if t.is_floating(type):
        return Stored("REAL", pa.float64(), "checked")  # SQLite has no NaN
    if t.is_decimal(type):
        wide = pa.decimal256 if type.precision > 38 else pa.decimal128
        return Stored(f"DECIMAL_TEXT({type.precision},{type.scale})", wide(type.precision, type.scale))
    if t.is_date(type):
        return Stored("DATE", pa.date32(), "checked")  # years 0001 to 9999
    if t.is_timestamp(type):
        return Stored("TIMESTAMPTZ", _INSTANT, "checked") if type.tz else Stored("TIMESTAMP", _TIMESTAMP, "checked")
    if t.is_time(type):
        return Stored("TIME_TEXT", _TIME, "checked" if type == pa.time64("ns") else "exact")
    if t.is_duration(type):
        return Stored("DURATION_US", pa.duration("us"), "checked" if type.unit == "ns" else "exact")
    if type == UUID:
        return Stored("UUID_TEXT", UUID)
    if type == JSON and isinstance(type, pa.BaseExtensionType):
        return Stored("JSON_TEXT", JSON)
    if t.is_nested(type):
        return Stored("JSON_TEXT" if pa.string() != JSON else "TEXT", JSON, "checked")
    if isinstance(type, pa.BaseExtensionType):
        return stores(type.storage_type)
    if t.is_binary(type) or t.is_large_binary(type) or t.is_binary_view(type) or t.is_fixed_size_binary(type):
        return Stored("BLOB", pa.binary())
    return Stored("TEXT", pa.string())


_DECLARED = re.compile(r"\s*([^()]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*")
_NAMED: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(), "DATE": pa.date32(), "TIMESTAMP": _TIMESTAMP, "DATETIME": _TIMESTAMP,
    "TIMESTAMPTZ": _INSTANT, "TIMESTAMP WITH TIME ZONE": _INSTANT, "TIME_TEXT": _TIME, "TIME": _TIME,
    "JSON_TEXT": JSON, "JSON": JSON, "UUID_TEXT": UUID, "UUID": UUID, "DURATION_US": pa.duration("us"),
}  # fmt: skip


def declared(text: str) -> pa.DataType | None:
    """The Arrow type of a declared type; None if it depends on the values (no type, NUMERIC, an unknown name)."""
    match = _DECLARED.fullmatch(text.upper())
    if match is None:
        return None
    name, precision, scale = match[1], int(match[2] or 0), int(match[3] or 0)
    if name in _NAMED:
        return _NAMED[name]
    if name in ("DECIMAL_TEXT", "DECIMAL", "NUMERIC") and 0 < precision <= 76 and scale <= precision:
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    for words, type_ in (
        (("INT",), pa.int64()),
        (("CHAR", "CLOB", "TEXT"), pa.string()),
        (("BLOB",), pa.binary()),
        (("REAL", "FLOA", "DOUB"), pa.float64()),
    ):  # fmt: skip  (SQLite's own rules, in its order)
        if any(word in name for word in words):
            return type_
    return None


def has_affinity(text: str) -> bool:
    """False where SQLite keeps values in the form in which they came (BLOB affinity)."""
    return bool(text.strip()) and declared(text) != pa.binary()


def own(text: str) -> pa.DataType | None:
    """The Arrow type of a name that ``stores`` returns, or None; SQLite itself accepts any word as a type."""
    match = _DECLARED.fullmatch(text.upper())
    name = match[1] if match else ""
    return declared(text) if name in _NAMED or name == "DECIMAL_TEXT" else None


def writable(text: str) -> pa.DataType:
    """As ``declared``, for a target: the type that such a column stores exactly."""
    type_ = declared(text)
    if type_ is None:
        return pa.float64() if text.strip() else pa.binary()
    keeps_double = pa.types.is_decimal(type_) and not text.upper().strip().startswith("DECIMAL_TEXT")
    return pa.float64() if keeps_double and type_.precision > 15 else type_
