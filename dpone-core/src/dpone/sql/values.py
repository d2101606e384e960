"""Converts Arrow columns to Python values as a driver binds them, and back: one column at a time, never one row."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.formats.json_text import (
    NotJson,
    has_members,
    interval_text,
    json_texts,
)
from dpone.formats.nanoseconds import misfit
from dpone.model.types import JSON, UUID

_EPOCH = date(1970, 1, 1)
_DAYS = ((date.min - _EPOCH).days, (date.max - _EPOCH).days)
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)
_YEARS = "a year outside 0001 to 9999"

_WRONG = (pa.ArrowException, TypeError, ValueError, OverflowError, ArithmeticError)


class Unstorable(ValueError):
    """A value that the other side cannot store. ``reason`` does not contain it; ``row`` counts from 0. todo: the fix,
    unless it is to correct the value. column: its name, if known."""

    def __init__(self, reason: str, row: int, todo: str = "") -> None:
        super().__init__(reason)
        self.reason, self.row, self.todo, self.column = reason, row, todo, ""


def first_bad(values: Any, attempt: Callable[[Any], Any]) -> int:
    """The index of the first value for which ``attempt`` raises, found by bisection; ``attempt`` takes a slice."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(values[low:middle])
            low = middle
        except _WRONG:
            high = middle
    return low


def require_range(numbers: pa.Array, bounds: tuple[int, int], reason: str = "a number out of range") -> None:
    """Raises Unstorable."""
    span = pc.min_max(numbers).as_py()
    if span["min"] is not None and (span["min"] < bounds[0] or span["max"] > bounds[1]):
        outside = pc.or_(pc.less(numbers, bounds[0]), pc.greater(numbers, bounds[1]))
        raise Unstorable(reason, outside.index(True).as_py())


# ---- Arrow to a driver


def encode(array: pa.Array, type: pa.DataType, *, zone: str = "+00:00") -> list[Any]:
    """The values of a column as a driver binds them, NULL as None: numbers, booleans as 0 and 1, bytes, and texts.
    Decimals and times are texts too, so that no digit is lost. type: an Arrow type that ``Dialect.stores`` returns.
    zone: the suffix of the text of an instant. Raises Unstorable."""
    array = unpacked(array)
    if type == JSON and has_members(array.type):
        return _objects(as_json(array))
    if pa.types.is_interval(array.type):
        return [None if v is None else interval_text(v) for v in array.to_pylist()]
    array = fitted(array, type)
    if isinstance(type, pa.BaseExtensionType):
        array = array.storage
    t = pa.types
    if type == UUID:
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in array.to_pylist()]
    if t.is_integer(type) or t.is_floating(type):
        return _numbers(array)
    if t.is_boolean(type):
        return _numbers(array.cast(pa.uint8()))
    if t.is_duration(type):
        return _numbers(array.cast(pa.int64()))
    if t.is_decimal(type):
        return _decimals(array)
    if t.is_date(type):
        require_range(array.cast(pa.int32()), _DAYS, _YEARS)
        return _objects(array.cast(pa.string()))
    if t.is_timestamp(type):
        return _timestamps(array, zone)
    return _objects(array.cast(pa.string()) if t.is_time(type) else array)


def unpacked(array: pa.Array) -> pa.Array:
    """The array without dictionary and run-end encoding."""
    while True:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def fitted(array: pa.Array, type: pa.DataType) -> pa.Array:
    """A checked cast. Raises Unstorable with the first row that does not fit."""
    array = unpacked(array)
    if isinstance(array.type, pa.BaseExtensionType) and array.type != type:
        array = array.storage
    if array.type == type:
        return array
    try:
        return array.cast(type)
    except pa.ArrowNotImplementedError:
        raise Unstorable(f"{array.type} cannot be converted to {type}", 0) from None
    except pa.ArrowInvalid:
        row = first_bad(array, lambda piece: piece.cast(type))
        raise Unstorable(misfit(array.type, type), row) from None


def _objects(array: pa.Array) -> list[Any]:
    values: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _numbers(array: pa.Array) -> list[Any]:
    """Exact even with NULLs, for which numpy would convert the whole column to floats."""
    if not array.null_count:
        return _objects(array)
    values = _objects(array.fill_null(0))
    for i in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[i] = None
    return values


def _decimals(array: pa.Array) -> list[Any]:
    """Plain digits with the scale of the column, never an exponent."""
    values = _objects(array.cast(pa.string()))
    if "E" in "".join(filter(None, values)):  # Arrow writes small ones as 1E-10
        return [format(Decimal(v), "f") if v is not None and "E" in v else v for v in values]
    return values


def _timestamps(array: pa.Array, zone: str) -> list[Any]:
    numbers = array.cast(pa.int64())
    require_range(numbers, _MICROSECONDS, _YEARS)
    texts = numbers.cast(pa.timestamp("us")).cast(pa.string())
    if array.type.tz and zone:
        texts = pc.binary_join_element_wise(texts, zone, "")
    return _objects(texts)


def as_json(array: pa.Array) -> pa.Array:
    """Structs, lists and maps as JSON texts. Raises Unstorable."""
    try:
        return json_texts(array)
    except NotJson as error:
        raise Unstorable(f"{error.reason} in a value of {array.type}, which JSON cannot represent", error.row) from None


# ---- a driver to Arrow


def decode(given: Sequence[Any], type: pa.DataType, kinds: Set[Any] | None = None) -> pa.Array:
    """One column as an array of ``type``, None as NULL. The values have the Python type that Arrow uses for it, or are
    texts that Arrow parses; a boolean may be 0 or 1. kinds: their Python types, if the caller knows them. Raises
    Unstorable, which does not contain the value."""
    try:
        return _array(given, type, _kinds(given) if kinds is None else kinds)
    except _WRONG:
        row = first_bad(given, lambda piece: _array(piece, type, _kinds(piece)))
        raise Unstorable(f"a value that is not a valid {type}", row) from None


def _kinds(given: Sequence[Any]) -> Set[Any]:
    return set(map(type, given))


def _array(values: Sequence[Any], type: pa.DataType, kinds: Set[Any]) -> pa.Array:
    t, texts = pa.types, str in kinds
    if t.is_decimal(type):
        digits = [v if v is None or v.__class__ is str else str(v) for v in values]
        return pa.array(digits, pa.string()).cast(type)
    if type == UUID:
        made = [None if v is None else (v if v.__class__ is uuid.UUID else uuid.UUID(v)).bytes for v in values]
        return pa.array(made, pa.binary(16)).cast(UUID)
    if isinstance(type, pa.BaseExtensionType):
        for text in values:
            if text is not None:
                _require_json(text)
        return pa.array(values, type.storage_type).cast(type)
    if texts and t.is_time(type):
        days = [None if v is None else "1970-01-01 " + v for v in values]
        return pa.array(days, pa.string()).cast(pa.timestamp(type.unit)).cast(type)
    if texts and not (t.is_binary(type) or t.is_large_binary(type)):
        return pa.array(values, pa.string()).cast(type)
    dropped = {datetime} if t.is_date(type) else {float, Decimal} if t.is_integer(type) or t.is_boolean(type) else set()
    if kinds & dropped:
        raise ValueError  # Arrow drops the fraction, or the time, silently
    if t.is_boolean(type) and bool not in kinds:
        numbers = pa.array(values, pa.int64())
        require_range(numbers, (0, 1))
        return numbers.cast(pa.bool_())
    if t.is_floating(type) and type != pa.float64():
        doubles = pa.array(values, pa.float64())
        shorter = doubles.cast(type)
        if not shorter.cast(pa.float64()).equals(doubles):  # Arrow rounds silently
            raise ValueError
        return shorter
    return pa.array(values, type)


def _require_json(text: str) -> None:
    """Raises ValueError for a text that is not JSON, which would corrupt a file of JSON Lines."""
    try:
        json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
