"""Parses values in PostgreSQL's text form (the output function of their type) to Arrow, a column at a time.

The texts depend on the session settings of ``connect``: DateStyle ISO, UTC, the shortest exact form of a float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.sql.values import Unstorable
from dpone_postgres.types import INSTANT, MOMENT, TIME

_HEX = np.full(256, 255, np.uint8)
for _digit, _sign in enumerate(b"0123456789abcdef"):
    _HEX[_sign] = _digit


def parse(texts: pa.Array, type: pa.DataType, kind: str | None) -> pa.Array:
    """``kind``: as ``types.Column.kind``. Raises Refused for a value that the Arrow type cannot hold."""
    if type == pa.string():
        return texts
    if isinstance(type, pa.BaseExtensionType) and type.storage_type == pa.string():
        return pa.ExtensionArray.from_storage(type, texts)
    try:
        return _PARSERS.get(kind or "", _cast)(texts, type)
    except pa.ArrowInvalid:  # its text quotes the value
        raise Unstorable(f"a value that {type} cannot hold", _first_bad(texts, type, kind)) from None


def _first_bad(texts: pa.Array, type: pa.DataType, kind: str | None) -> int:
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _PARSERS.get(kind or "", _cast)(texts[low:middle], type)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _cast(texts: pa.Array, type: pa.DataType) -> pa.Array:
    return texts.cast(type)


def _bool(texts: pa.Array, type: pa.DataType) -> pa.Array:
    return pc.equal(texts, "t")


def _time(texts: pa.Array, type: pa.DataType) -> pa.Array:
    """pyarrow does not parse a time of day, so the text is parsed as a timestamp of 1970-01-01."""
    moments = pc.binary_join_element_wise("1970-01-01", texts, " ").cast(MOMENT)
    return moments.cast(pa.int64()).cast(TIME)


def _instant(texts: pa.Array, type: pa.DataType) -> pa.Array:
    return texts.cast(INSTANT)


def _bytea(texts: pa.Array, type: pa.DataType) -> pa.Array:
    # Not binary_slice, which fails at a NULL in pyarrow 26 ("negative buffer resize").
    return _hex(pc.utf8_slice_codeunits(texts, 2).cast(pa.binary()), pa.binary())


def _uuid(texts: pa.Array, type: pa.DataType) -> pa.Array:
    digits = pc.replace_substring(texts, "-", "").cast(pa.binary())
    return pa.ExtensionArray.from_storage(type, _hex(digits, pa.binary()).cast(pa.binary(16)))


def _hex(texts: pa.Array, type: pa.DataType) -> pa.Array:
    """Hexadecimal digits, in pairs."""
    texts = pa.concat_arrays([texts]) if texts.offset else texts
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    first, last = int(offsets[0]), int(offsets[-1])
    digits: Any = _HEX[np.frombuffer(texts.buffers()[2] or b"", np.uint8, last - first, first)]
    if (digits == 255).any() or (offsets % 2 != first % 2).any():
        raise pa.ArrowInvalid("no hexadecimal digits")
    values = digits[0::2] << 4 | digits[1::2]
    bounds = ((offsets - first) // 2).astype(np.int32)
    buffers = [texts.buffers()[0], pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(type, len(texts), buffers)


_PARSERS: dict[str, Callable[[pa.Array, pa.DataType], pa.Array]] = {
    "bool": _bool, "time": _time, "timestamptz": _instant, "bytea": _bytea, "uuid": _uuid,
}  # fmt: skip
