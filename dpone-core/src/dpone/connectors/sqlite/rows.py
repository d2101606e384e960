"""Columns of Arrow to Python values as sqlite3 binds them, and back: what SQLite adds to ``dpone.sql.values``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dpone.sql import values as common
from dpone.sql.values import Unstorable as Unstorable


def encode(array: pa.Array, type: pa.DataType, *, nan_to_null: bool = False) -> list[Any]:
    """Values of a column whose Arrow type is ``type`` (one that ``stores`` gives), NULL as None. Raises Refused."""
    if pa.types.is_floating(type) and not nan_to_null:
        array = common.fitted(array, type)
        nan = pc.is_nan(array)
        if pc.any(nan).as_py():
            todo = 'fix the value, or set sink.options.nan: "null" to load NaN as NULL'
            raise Unstorable("NaN, which SQLite would store as NULL", nan.index(True).as_py(), todo)
    return common.encode(array, type)


def decode(values: Sequence[Any], type: pa.DataType, *, as_text: bool = False) -> pa.Array:
    """One column as fetched, as an array of ``type``. Raises Refused where a value is of another kind. as_text: numbers
    become text, as set in the options."""
    if as_text:
        values = [v if v is None or v.__class__ in (str, bytes) else repr(v) for v in values]
    allowed, kinds = _allowed(type), set(map(_kind, values))
    if not kinds <= allowed:
        row = next(i for i, v in enumerate(values) if _kind(v) not in allowed)
        raise Unstorable(f"{_KINDS[_kind(values[row])]} in a column declared {type}", row)
    return common.decode(values, type, kinds)


_kind: Any = type  # the builtin; in these functions ``type`` is Arrow's
_NONE: Any = type(None)
_KINDS = {int: "an integer", float: "a real", str: "a text", bytes: "a blob"}


def _allowed(type: pa.DataType) -> set[Any]:
    t = pa.types
    if t.is_boolean(type) or t.is_integer(type) or t.is_duration(type):
        return {int, _NONE}
    if t.is_floating(type):
        return {int, float, _NONE}
    if t.is_decimal(type):
        return {int, float, str, _NONE}
    if t.is_binary(type) or t.is_large_binary(type):
        return {bytes, _NONE}
    return {str, _NONE}
