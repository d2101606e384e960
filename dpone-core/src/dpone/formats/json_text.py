"""Any Arrow value as JSON text, exactly. Nested columns become this in a system that has json but no nested types.

Types that JSON lacks have one form each: decimals and bytes (base64) are texts, dates and times ISO 8601 with instants
in UTC, durations numbers of seconds, intervals ISO 8601 with months, days and seconds apart, maps objects. A JSON value
inside stays as it is. Columns are built by Arrow's kernels; only values of rare types are made one by one.
"""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.model.types import JSON, UUID

_ESCAPED = r'["\\\x00-\x1f]'
_DAYS = (-719162, 2932896)  # 0001-01-01 and 9999-12-31, from 1970-01-01
_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class NotJson(ValueError):
    """A value that has no JSON text. ``reason`` does not show it; ``row`` counts from 0."""

    def __init__(self, reason: str, row: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.row = reason, row


def has_members(type_: pa.DataType) -> bool:
    """True for a nested type, encoded or wrapped in an extension type or not."""
    while True:
        if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
            type_ = type_.value_type
        elif isinstance(type_, pa.BaseExtensionType):
            type_ = type_.storage_type
        else:
            return bool(pa.types.is_nested(type_))


def has_union(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return has_union(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        return has_union(type_.storage_type)
    if not pa.types.is_nested(type_):
        return False
    return pa.types.is_union(type_) or any(has_union(type_.field(i).type) for i in range(type_.num_fields))


def json_texts(values: pa.Array) -> pa.Array:
    """The text of each value, NULL where it is NULL. Raises NotJson with the row of the first that has none."""
    if has_union(values.type):  # Arrow's kernels do not support all of their members; some end the process
        raise NotJson("a union")
    if pa.types.is_run_end_encoded(values.type):  # its is_valid is wrong before Arrow 26
        return json_texts(pc.run_end_decode(values))
    try:
        texts = _texts(values)
    except NotJson as error:
        raise NotJson(error.reason, _first_bad(values)) from None
    except pa.ArrowNotImplementedError as error:
        raise NotJson("an encoding that Arrow cannot decode") from error
    return pc.if_else(values.is_valid(), texts, None)


def _first_bad(values: pa.Array) -> int:
    """The first value that fails, found by halving."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _texts(values.slice(low, middle - low))
            low = middle
        except NotJson:
            high = middle
    return low


def _texts(values: pa.Array) -> pa.Array:
    """``null`` where there is no value."""
    type_, t = values.type, pa.types
    if t.is_dictionary(type_):
        return _texts(values.dictionary_decode())
    if t.is_run_end_encoded(type_):
        return _texts(pc.run_end_decode(values))
    if isinstance(type_, pa.BaseExtensionType):
        return _extension(values)
    if t.is_struct(type_):
        texts = _objects(values)
    elif t.is_map(type_):
        texts = _maps(values)
    elif t.is_nested(type_):
        texts = _lists(values)
    else:
        return _scalars(values).fill_null("null")
    return pc.if_else(values.is_valid(), texts, "null")


def _objects(values: pa.Array) -> pa.Array:
    names = [field.name for field in values.type]
    if len({*names}) < len(names):
        raise NotJson("two members with the same name")
    pieces: list[Any] = []
    for name, member in zip(names, values.flatten(), strict=True):
        pieces += [f"{', ' if pieces else '{'}{json.dumps(name, ensure_ascii=False)}: ", _texts(member)]
    if not pieces:
        return pa.repeat("{}", len(values))
    return pc.binary_join_element_wise(*pieces, "}", "")


def _lists(values: pa.Array) -> pa.Array:
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lengths, [members] = _slices(values, values.values)
    else:
        lengths, members = pc.list_value_length(values).fill_null(0).to_numpy(), pc.list_flatten(values)
    return _joined("[", _texts(members), "]", lengths)


def _slices(values: pa.Array, *children: pa.Array) -> tuple[Any, list[pa.Array]]:
    """How many members each value has, and those of all of them; the children of a slice are those of the whole."""
    offsets = values.offsets.to_numpy()
    start, lengths = int(offsets[0]) if len(offsets) else 0, np.diff(offsets)
    return lengths, [child.slice(start, int(lengths.sum())) for child in children]


def _maps(values: pa.Array) -> pa.Array:
    lengths, [keys, items] = _slices(values, values.keys, values.items)
    if has_members(keys.type) or keys.type == JSON:
        raise NotJson("a map whose keys are nested")
    names = _texts(keys)
    if not pc.all(pc.starts_with(names, '"')).as_py():
        names = pc.binary_join_element_wise('"', names, '"', "")
    rows = pa.table({"row": np.repeat(np.arange(len(lengths)), lengths), "name": names})
    if rows.group_by(["row", "name"]).aggregate([]).num_rows < rows.num_rows:
        raise NotJson("a map with a duplicate key")
    return _joined("{", pc.binary_join_element_wise(names, _texts(items), ": "), "}", lengths)


def _joined(opening: str, texts: pa.Array, closing: str, lengths: Any) -> pa.Array:
    """lengths: how many of the texts each value has."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), ", ")
    return pc.binary_join_element_wise(opening, joined, closing, "")


def _extension(values: pa.Array) -> pa.Array:
    if values.type == UUID:
        return _each(values.storage, lambda value: f'"{uuid.UUID(bytes=value)}"')
    return _each(values.storage, _embedded) if values.type == JSON else _texts(values.storage)


def _embedded(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise NotJson("a string that is not valid JSON") from None
    return text


def _each(values: pa.Array, text: Callable[[Any], str]) -> pa.Array:
    return pa.array(["null" if value is None else text(value) for value in values.to_pylist()], pa.string())


def _scalars(values: pa.Array) -> pa.Array:
    type_, t = values.type, pa.types
    if t.is_null(type_):
        return values.cast(pa.string())
    if t.is_boolean(type_):
        return pc.if_else(values, "true", "false")
    if t.is_integer(type_):
        return values.cast(pa.string())
    if t.is_floating(type_):
        return _each(values, _float)
    if t.is_decimal(type_):
        return _each(values.cast(pa.string()), lambda digits: f'"{format(Decimal(digits), "f")}"')
    if t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_):
        return _quoted(values.cast(pa.string()))
    if t.is_date(type_):
        return _quoted(_in_range(values.cast(pa.date32()), 1).cast(pa.string()))
    if t.is_timestamp(type_):
        return _quoted(_timestamps(values))
    if t.is_time(type_):
        return _quoted(_shortened(values if type_.unit == "ns" else values.cast(pa.time64("us"))))
    if t.is_duration(type_):
        second = _SECOND[type_.unit]
        return _each(values.cast(pa.int64()), lambda number: _seconds(number, second))
    if type_ == pa.month_day_nano_interval():
        return _each(values, lambda value: f'"{interval_text(value)}"')
    if t.is_binary(type_) or t.is_large_binary(type_) or t.is_binary_view(type_) or t.is_fixed_size_binary(type_):
        return _each(values, lambda value: f'"{base64.b64encode(value).decode()}"')
    raise NotJson(f"a value of {type_}")


def _quoted(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _ESCAPED)).as_py():
        return _each(texts, lambda text: json.dumps(text, ensure_ascii=False))
    return pc.binary_join_element_wise('"', texts, '"', "")


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise NotJson("NaN or an infinity")
    return repr(float(value))


def _timestamps(values: pa.Array) -> pa.Array:
    """Whole seconds without a fraction, else with six digits, or the nine of nanoseconds."""
    type_ = values.type
    numbers = _in_range(values.cast(pa.int64()), 86_400 * _SECOND[type_.unit])
    naive = numbers.cast(pa.timestamp(type_.unit))
    texts = _shortened(naive if type_.unit == "ns" else naive.cast(pa.timestamp("us")))
    texts = pc.replace_substring(texts, " ", "T")
    return pc.binary_join_element_wise(texts, "+00:00", "") if type_.tz else texts


def _shortened(values: pa.Array) -> pa.Array:
    texts = pc.replace_substring_regex(values.cast(pa.string()), r"(\.\d{6})000$", r"\1")
    return pc.replace_substring_regex(texts, r"\.0+$", "")


def _in_range(values: pa.Array, day: int) -> pa.Array:
    """Dates or numbers of which a day has so many. ISO 8601 has four digits for a year, and none before 1."""
    ends = pc.min_max(values.cast(pa.int32()) if pa.types.is_date(values.type) else values).as_py()
    if ends["min"] is not None and not _DAYS[0] * day <= ends["min"] <= ends["max"] < (_DAYS[1] + 1) * day:
        raise NotJson("a year outside 0001 to 9999")
    return values


def _seconds(number: int, second: int) -> str:
    whole, part = divmod(abs(number), second)
    fraction = str(second + part)[1:].rstrip("0") or "0"
    return f"{'-' if number < 0 else ''}{whole}.{fraction}"


def interval_text(value: Any) -> str:
    """ISO 8601 with the nanoseconds as a fraction of a second; months, days and seconds are kept apart."""
    sign, nanoseconds = ("-" if value.nanoseconds < 0 else ""), abs(value.nanoseconds)
    return f"P{value.months}M{value.days}DT{sign}{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}S"
