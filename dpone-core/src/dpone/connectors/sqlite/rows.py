"""Columns of Arrow to Python values as sqlite3 binds them, and back: a column at a time, never a row."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.connectors.sqlite.types import JSON, UUID
from dpone.jsontext import NotJson, has_members, interval_text, json_texts
from dpone.nanoseconds import misfit

_EPOCH = date(1970, 1, 1)
_DAYS = ((date.min - _EPOCH).days, (date.max - _EPOCH).days)
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)


class Refused(ValueError):
    """A value that has no place on the other side. ``reason`` does not show it; ``row`` counts from 0. todo: what
    to do, if there is more than to correct it."""

    def __init__(self, reason: str, row: int, todo: str = "") -> None:
        super().__init__(reason)
        self.reason, self.row, self.todo = reason, row, todo


# ---- Arrow to SQLite


def encode(array: pa.Array, type: pa.DataType, *, nan_to_null: bool = False) -> list[Any]:
    """Values of a column whose Arrow type is ``type`` (one that ``stores`` gives), NULL as None. Raises Refused."""
    array = _plain(array)
    if type == JSON and has_members(array.type):
        return _objects(_json_texts(array))
    if pa.types.is_interval(array.type):
        return [None if v is None else interval_text(v) for v in array.to_pylist()]
    if isinstance(array.type, pa.BaseExtensionType) and array.type != type:
        array = array.storage
    array = _cast(array, type)
    if isinstance(type, pa.BaseExtensionType):
        array = array.storage
    t = pa.types
    if type == UUID:
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in array.to_pylist()]
    if t.is_integer(type):
        return _numbers(array)
    if t.is_floating(type):
        return _floats(array, nan_to_null)
    if t.is_boolean(type):
        return _numbers(array.cast(pa.uint8()))
    if t.is_duration(type):
        return _numbers(array.cast(pa.int64()))
    if t.is_decimal(type):
        return _decimals(array)
    if t.is_date(type):
        _require_range(array.cast(pa.int32()), _DAYS)
        return _objects(array.cast(pa.string()))
    if t.is_timestamp(type):
        return _timestamps(array)
    return _objects(array.cast(pa.string()) if t.is_time(type) else array)


def _plain(array: pa.Array) -> pa.Array:
    while True:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def _cast(array: pa.Array, type: pa.DataType) -> pa.Array:
    """A checked cast; the error names the first row that does not fit."""
    if array.type == type:
        return array
    try:
        return array.cast(type)
    except pa.ArrowNotImplementedError:
        raise Refused(f"{array.type} has no form as {type}", 0) from None
    except pa.ArrowInvalid:
        row = _first_bad(array, lambda piece: piece.cast(type))
        raise Refused(misfit(array.type, type), row) from None


def _first_bad(values: Any, attempt: Callable[[Any], Any]) -> int:
    """Index of the first value at which ``attempt`` of a slice raises, by halving."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(values[low:middle])
            low = middle
        except (pa.ArrowException, ValueError, OverflowError):
            high = middle
    return low


def _objects(array: pa.Array) -> list[Any]:
    values: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _numbers(array: pa.Array) -> list[Any]:
    """Exact also beside NULLs: numpy would make the whole column float."""
    if not array.null_count:
        return _objects(array)
    values = _objects(array.fill_null(0))
    for i in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[i] = None
    return values


def _floats(array: pa.Array, nan_to_null: bool) -> list[Any]:
    nan = pc.is_nan(array)
    if pc.any(nan).as_py() and not nan_to_null:
        todo = 'correct the value, or set sink.options.nan: "null" to load NaN as NULL'
        raise Refused("NaN, which SQLite would turn into NULL", nan.index(True).as_py(), todo)
    return _numbers(array)


def _decimals(array: pa.Array) -> list[Any]:
    """Plain digits with the column's scale: one text per value, whatever its size."""
    values = _objects(array.cast(pa.string()))
    if "E" in "".join(filter(None, values)):  # Arrow writes small ones as 1E-10
        return [format(Decimal(v), "f") if v is not None and "E" in v else v for v in values]
    return values


def _timestamps(array: pa.Array) -> list[Any]:
    numbers = array.cast(pa.int64())
    _require_range(numbers, _MICROSECONDS)
    texts = numbers.cast(pa.timestamp("us")).cast(pa.string())
    if array.type.tz:
        texts = pc.binary_join_element_wise(texts, "+00:00", "")
    return _objects(texts)


def _require_range(numbers: pa.Array, bounds: tuple[int, int]) -> None:
    span = pc.min_max(numbers).as_py()
    if span["min"] is not None and (span["min"] < bounds[0] or span["max"] > bounds[1]):
        outside = pc.or_(pc.less(numbers, bounds[0]), pc.greater(numbers, bounds[1]))
        raise Refused("a year outside 0001 to 9999", outside.index(True).as_py())


def _json_texts(array: pa.Array) -> pa.Array:
    try:
        return json_texts(array)
    except NotJson as error:
        raise Refused(f"{error.reason} in a value of {array.type}, which has no form in JSON", error.row) from None


# ---- SQLite to Arrow


def decode(values: Sequence[Any], type: pa.DataType, *, as_text: bool = False) -> pa.Array:
    """One column as fetched, as an array of ``type``. Raises Refused where a value is of another kind. as_text: numbers
    are written out, as a person asked for."""
    if as_text:
        values = [v if v is None or v.__class__ in (str, bytes) else repr(v) for v in values]
    allowed = _allowed(type)
    if not set(map(_kind, values)) <= allowed:
        row = next(i for i, v in enumerate(values) if _kind(v) not in allowed)
        raise Refused(f"{_KINDS[_kind(values[row])]} where {type} is declared", row)
    try:
        return _array(values, type)
    except (pa.ArrowException, ValueError, OverflowError, ArithmeticError):
        row = _first_bad(values, lambda piece: _array(piece, type))
        raise Refused(f"a value that is not a valid {type}", row) from None


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


def _array(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    t = pa.types
    if t.is_boolean(type):
        numbers = pa.array(values, pa.int64())
        _require_range(numbers, (0, 1))
        return numbers.cast(pa.bool_())
    if t.is_decimal(type):
        texts = [v if v is None or v.__class__ is str else repr(v) for v in values]
        return pa.array(texts, pa.string()).cast(type)
    if type == UUID:
        return pa.array([None if v is None else uuid.UUID(v).bytes for v in values], pa.binary(16)).cast(UUID)
    if isinstance(type, pa.BaseExtensionType):
        for text in values:
            if text is not None:
                _require_json(text)
        return pa.array(values, type.storage_type).cast(type)
    if t.is_floating(type) and type != pa.float64():
        doubles = pa.array(values, pa.float64())
        shorter = doubles.cast(type)
        if not shorter.cast(pa.float64()).equals(doubles):  # Arrow rounds without a word
            raise ValueError
        return shorter
    if t.is_time(type):
        days = [None if v is None else "1970-01-01 " + v for v in values]
        return pa.array(days, pa.string()).cast(pa.timestamp(type.unit)).cast(type)
    if t.is_date(type) or t.is_timestamp(type):
        return pa.array(values, pa.string()).cast(type)
    return pa.array(values, type)


def _require_json(text: str) -> None:
    """A text that is not JSON would spoil a file of JSON Lines. Raises ValueError."""
    try:
        json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
