"""Converts PostgreSQL's binary COPY to Arrow and back, a column at a time: no Python object per value.

The format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format); of the values, the send and receive
functions of each type (``numeric_recv``, ``timestamp_recv`` ...), the same since PostgreSQL 9. A value is a length of
four bytes, -1 for NULL, and that many bytes; times count microseconds from 2000-01-01; everything is big-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dpone.sql.values import Unstorable

FORMAT = "postgres-binary-copy"  # of a stream: header, rows and trailer
HEADER = b"PGCOPY\n\377\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_DAYS, _MICROSECONDS = 10_957, 946_684_800_000_000  # 2000-01-01, from 1970-01-01
_INT = np.iinfo(np.int64)
_NAN, _NEGATIVE, _POSITIVE = 0xC000, 0x4000, 0x0000  # signs of a numeric (utils/adt/numeric.c)


# ---- COPY to Arrow


@frozen
class _Cells:
    """One column of a block of rows: where each value begins, how long it is (-1: NULL)."""

    data: bytes | memoryview
    at: Any
    length: Any

    @property
    def valid(self) -> Any:
        return self.length >= 0

    def numbers(self, dtype: str, shift: int = 0) -> Any:
        """The number at byte ``shift`` of each cell. For a NULL it is arbitrary: the bytes that follow."""
        view = np.ndarray((len(self.data) - 31,), dtype, self.data, strides=(1,))
        at = np.minimum(self.at + shift, len(view) - 1) if shift else self.at
        return view[at].astype(dtype.lstrip(">"), copy=False)

    def array(self, values: Any, type: pa.DataType) -> pa.Array:
        valid = self.valid
        mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        return pa.Array.from_buffers(type, len(values), [mask, pa.py_buffer(np.ascontiguousarray(values))])


def _fixed(dtype: str) -> Callable[[_Cells, pa.DataType], pa.Array]:
    return lambda cells, type: cells.array(cells.numbers(dtype), type)


def _bool(cells: _Cells, type: pa.DataType) -> pa.Array:
    return pa.array(cells.numbers("u1") != 0, type, mask=~cells.valid)


def _date(cells: _Cells, type: pa.DataType) -> pa.Array:
    days = cells.numbers(">i4")
    _refuse_infinity(cells, (days == np.iinfo(np.int32).max) | (days == np.iinfo(np.int32).min))
    return cells.array((days.astype(np.int64) + _DAYS).astype(np.int32), type)


def _timestamp(cells: _Cells, type: pa.DataType) -> pa.Array:
    moments = cells.numbers(">i8")
    _refuse_infinity(cells, (moments == _INT.max) | (moments == _INT.min))
    if (late := cells.valid & (moments > _INT.max - _MICROSECONDS)).any():
        raise Unstorable("a time beyond the year 294246, which Arrow cannot hold", int(late.argmax()))
    return cells.array(moments + _MICROSECONDS, type)


def _refuse_infinity(cells: _Cells, infinite: Any) -> None:
    if (bad := infinite & cells.valid).any():
        raise Unstorable("infinity, which Arrow cannot hold", int(bad.argmax()))


def _time(cells: _Cells, type: pa.DataType) -> pa.Array:
    moments = cells.numbers(">i8")
    if (bad := cells.valid & (moments >= 86_400_000_000)).any():
        raise Unstorable("24:00, which Arrow cannot hold", int(bad.argmax()))
    return cells.array(moments, type)


def _uuid(cells: _Cells, type: pa.DataType) -> pa.Array:
    storage = cells.array(cells.numbers("V16"), pa.binary(16))
    return pa.ExtensionArray.from_storage(type, storage)


def _bytes(cells: _Cells, type: pa.DataType, skip: int = 0) -> pa.Array:
    """The values are in order in one buffer, with other bytes between: one Arrow array over values and gaps, of which
    every second slot is taken."""
    storage = type.storage_type if isinstance(type, pa.BaseExtensionType) else type
    bounds = np.empty(2 * len(cells.at), np.int32)
    bounds[0::2] = cells.at + np.where(cells.valid, skip, 0)
    bounds[1::2] = cells.at + np.maximum(cells.length, 0)
    slots = pa.Array.from_buffers(storage, len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(cells.data)])
    every_second = np.arange(0, len(bounds), 2)
    valid = cells.valid
    values = slots.take(pa.array(every_second, mask=None if valid.all() else ~valid))
    return pa.ExtensionArray.from_storage(type, values) if storage is not type else values


def _jsonb(cells: _Cells, type: pa.DataType) -> pa.Array:
    """A version byte, 1, then the text."""
    return _bytes(cells, type, skip=1)


def _numeric(cells: _Cells, type: pa.DataType) -> pa.Array:
    """``ndigits weight sign dscale`` and digits of base 10,000, the first of which counts 10,000 ** weight."""
    valid, sign = cells.valid, cells.numbers(">u2", 4)
    if (bad := valid & (sign != _POSITIVE) & (sign != _NEGATIVE)).any():
        raise Unstorable("NaN or infinity, which an Arrow decimal cannot hold", int(bad.argmax()))
    count = np.where(valid, cells.numbers(">i2"), 0)
    weight = cells.numbers(">i2", 2).astype(np.int64)
    if type.precision <= 18:
        return _small_numeric(cells, type, count, weight, sign)
    return _large_numeric(cells, type, count, weight, sign)


_TENS = 10 ** np.arange(19, dtype=np.int64)


def _small_numeric(cells: _Cells, type: pa.DataType, count: Any, weight: Any, sign: Any) -> pa.Array:
    total = np.zeros(len(count), np.int64)
    for k in range(int(count.max(initial=0))):
        there = k < count
        digit = np.where(there, cells.numbers(">i2", 8 + 2 * k), 0).astype(np.int64)
        exponent = 4 * (weight - k) + type.scale
        _require_digits(there & (digit != 0), exponent, digit, type)
        up = _TENS[np.clip(exponent, 0, 18)]
        down = _TENS[np.clip(-exponent, 0, 18)]
        total += digit * up // down
    total = np.where(sign == _NEGATIVE, -total, total)
    both = np.empty((len(total), 2), np.int64)
    both[:, 0], both[:, 1] = total, total >> 63
    return cells.array(both, type)


def _require_digits(there: Any, exponent: Any, digit: Any, type: pa.DataType) -> None:
    """``exponent``: of the last decimal place of the digit, in units of the type's scale."""
    lost = there & (exponent < 0) & ((exponent < -3) | (digit % _TENS[np.clip(-exponent, 0, 4)] != 0))
    big = there & (
        exponent + np.where(digit > 999, 4, np.where(digit > 99, 3, np.where(digit > 9, 2, 1))) > type.precision
    )
    if (bad := lost | big).any():
        raise Unstorable(f"a number that does not fit {type}", int(bad.argmax()))


def _large_numeric(cells: _Cells, type: pa.DataType, count: Any, weight: Any, sign: Any) -> pa.Array:
    """Digits are gathered four at a time (10 ** 16 each); Arrow's wide decimals add them up, exactly."""
    places = -(-type.scale // 4)
    groups = -(-(-(-(type.precision - type.scale) // 4) + places) // 4)
    sums = np.zeros((groups, len(count)), np.int64)
    for k in range(int(count.max(initial=0))):
        there = k < count
        digit = np.where(there, cells.numbers(">i2", 8 + 2 * k), 0).astype(np.int64)
        _require_digits(there & (digit != 0), 4 * (weight - k) + type.scale, digit, type)
        place = np.where(digit != 0, weight - k + places, 0)
        sums[place // 4, np.arange(len(count))] += digit * _TENS[4 * (place % 4)]
    total = None
    for group, part in enumerate(sums):
        part = np.where(sign == _NEGATIVE, -part, part)
        limbs = np.empty((len(part), 4), np.int64)
        limbs[:, 0], limbs[:, 1:] = part, (part >> 63)[:, None]
        wide = pa.Array.from_buffers(pa.decimal256(17, 0), len(part), [None, pa.py_buffer(limbs)])
        one = pa.scalar(10 ** (16 * group), pa.decimal256(16 * group + 1, 0))
        shifted = pc.multiply(wide, one) if group else wide
        total = shifted if total is None else pc.add(total, shifted)
    assert total is not None
    # The same integers, read as numbers with 4 * places decimals.
    scaled = pa.Array.from_buffers(pa.decimal256(76, 4 * places), len(total), total.buffers())
    exact = scaled.cast(type)
    valid = cells.valid
    return exact if valid.all() else pc.if_else(pa.array(valid), exact, pa.scalar(None, type))


_DECODERS: dict[str, Callable[[_Cells, pa.DataType], pa.Array]] = {
    "bool": _bool, "int2": _fixed(">i2"), "int4": _fixed(">i4"), "int8": _fixed(">i8"), "oid": _fixed(">u4"),
    "float4": _fixed(">f4"), "float8": _fixed(">f8"), "date": _date, "time": _time,
    "timestamp": _timestamp, "timestamptz": _timestamp, "uuid": _uuid, "numeric": _numeric,
    "text": _bytes, "bytea": _bytes, "json": _bytes, "jsonb": _jsonb,
}  # fmt: skip


def decode(rows: Sequence[bytes], schema: pa.Schema, kinds: Sequence[str]) -> pa.RecordBatch:
    """Rows of binary COPY, each one message without file header, as a batch. ``kinds``: of each column, a key of
    ``_DECODERS``. Raises Refused."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    data = b"".join((*rows, bytes(32)))  # the tail allows reading a number at the end, where the last value is NULL
    at = np.cumsum(lengths) - lengths + 2
    lengths_view = np.ndarray((len(data) - 31,), ">i4", data, strides=(1,))
    columns = []
    for field, kind in zip(schema, kinds, strict=True):
        length = lengths_view[at].astype(np.int64)
        at = at + 4
        try:
            columns.append(_DECODERS[kind](_Cells(data, at, length), field.type))
        except Unstorable as error:
            error.column = field.name
            raise
        at = at + np.maximum(length, 0)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


_WIDTHS = {"bool": 1, "int2": 2, "int4": 4, "oid": 4, "float4": 4, "date": 4, "uuid": 16}


@frozen
class _Regular(_Cells):
    """Cells of the same length without NULL, so they are at equal distances."""

    def numbers(self, dtype: str, shift: int = 0) -> Any:
        step = 4 + int(self.length[0])
        view: Any = np.ndarray((len(self.at),), dtype, self.data, int(self.at[0]) + shift, (step,))
        return view.astype(dtype.lstrip(">"), copy=False)


def array(image: memoryview, rows: int, type: pa.DataType, kind: str) -> pa.Array:
    """An array of one dimension and at least one value, of a type of fixed width, as ``array_send`` writes it: number
    of dimensions, a flag for NULLs, oid of the type, length and lower bound; then the values. Raises Refused."""
    width = _WIDTHS.get(kind, 8)
    if image[7]:
        data = bytes(image[20:]) + bytes(32)
        at = _places(data, rows, width)
        length = np.ndarray((len(data) - 31,), ">i4", data, strides=(1,))[at].astype(np.int64)
        return _DECODERS[kind](_Cells(data, at + 4, length), type)
    at = np.arange(24, 24 + rows * (4 + width), 4 + width)
    return _DECODERS[kind](_Regular(image, at, np.full(rows, width)), type)


def _places(data: bytes, rows: int, width: int) -> Any:
    """Where each value begins, though a NULL is shorter: of all places where one could, the next and, by steps that
    double, those 2, 4, 8 ... values on."""
    unit = min(width & -width, 4)
    places = (len(data) - 32) // unit
    lengths: Any = np.ndarray((places,), ">i4", data, strides=(unit,))
    on = np.where(lengths < 0, 4, 4 + width) // unit
    jump = np.minimum(np.arange(places) + on, places - 1)
    at = np.zeros(1, np.int64)
    while len(at) < rows:
        at = np.concatenate([at, jump[at]])
        jump = jump[jump]
    return at[:rows] * unit


# ---- Arrow to COPY


def _words(array: pa.Array, dtype: Any, width: int) -> Any:
    """The buffer of values of a fixed-width array, NULLs included."""
    buffer = array.buffers()[1]
    return np.frombuffer(buffer, dtype, count=len(array), offset=array.offset * width)


def _number(dtype: str, width: int, add: int = 0) -> Callable[[pa.Array], Any]:
    def encode(array: pa.Array) -> Any:
        values = _words(array, dtype, width)
        if add:
            values = values - np.asarray(add, dtype)
        return values.astype(">" + dtype, copy=False).view(np.uint8).reshape(len(array), width)

    return encode


def _encode_bool(array: pa.Array) -> Any:
    return np.asarray(array.fill_null(False).cast(pa.uint8())).reshape(len(array), 1)


def _encode_timestamp(array: pa.Array) -> Any:
    values = _words(array, "i8", 8)
    valid = np.asarray(array.is_valid())
    if (bad := valid & (values < _INT.min + 2 * _MICROSECONDS)).any() or (
        bad := valid & (values < -210_866_803_200_000_000)
    ).any():
        raise Unstorable("a time before 4714-11-24 BC, the first day of PostgreSQL's calendar", int(bad.argmax()))
    return (np.where(valid, values, 0) - _MICROSECONDS).astype(">i8").view(np.uint8).reshape(len(array), 8)


def _encode_date(array: pa.Array) -> Any:
    values = _words(array, "i4", 4).astype(np.int64)
    valid = np.asarray(array.is_valid())
    if (bad := valid & ((values < -2_440_588) | (values > 2_145_042_905))).any():
        raise Unstorable("a date outside PostgreSQL's calendar", int(bad.argmax()))
    return (np.where(valid, values, 0) - _DAYS).astype(">i4").view(np.uint8).reshape(len(array), 4)


def _encode_uuid(array: pa.Array) -> Any:
    return _words(array.storage, np.dtype("V16"), 16).view(np.uint8).reshape(len(array), 16)


def _encode_numeric(array: pa.Array) -> Any:
    """All digits the type can have; ``numeric_recv`` strips the zeros at both ends."""
    type = array.type
    places, whole = -(-max(type.scale, 0) // 4), -(-(type.precision - type.scale) // 4)
    if type.precision <= 18 - 3:
        digits, negative = _small_digits(array, places, whole)
    else:
        digits, negative = _large_digits(array, places, whole)
    cells = np.empty((len(array), 4 + whole + places), ">i2")
    cells[:, 0], cells[:, 1] = whole + places, whole - 1
    cells[:, 2] = np.where(negative, _NEGATIVE, _POSITIVE)
    cells[:, 3] = max(type.scale, 0)
    cells[:, 4:] = digits
    return cells.view(np.uint8)


def _small_digits(array: pa.Array, places: int, whole: int) -> tuple[Any, Any]:
    value = _words(array, np.dtype([("low", "i8"), ("high", "i8")]), 16)["low"]
    if array.null_count:
        value = np.where(np.asarray(array.is_valid()), value, 0)
    negative = value < 0
    rest = np.abs(value) * 10 ** (4 * places - array.type.scale)
    digits = np.empty((len(array), whole + places), np.int64)
    for k in range(whole + places - 1, -1, -1):
        rest, digits[:, k] = np.divmod(rest, 10_000)
    return digits, negative


def _large_digits(array: pa.Array, places: int, whole: int) -> tuple[Any, Any]:
    """Long division by 10,000 over limbs of 32 bits, of the absolute value with four-digit decimals."""
    padded = array.fill_null(pa.scalar(0, array.type)) if array.null_count else array
    wide = padded.cast(pa.decimal256(76, 4 * places))
    limbs = np.frombuffer(wide.buffers()[1], "<u4", 8 * len(array), 32 * wide.offset).reshape(len(array), 8)
    negative = limbs[:, 7] >= 1 << 31
    limbs = _absolute(limbs.astype(np.uint64), negative)
    digits = np.empty((len(array), whole + places), np.int64)
    for k in range(whole + places - 1, -1, -1):
        rest = np.zeros(len(array), np.uint64)
        for i in range(7, -1, -1):
            limbs[:, i], rest = np.divmod((rest << np.uint64(32)) | limbs[:, i], np.uint64(10_000))
        digits[:, k] = rest
    return digits, negative


def _absolute(limbs: Any, negative: Any) -> Any:
    """Two's complement, in place."""
    full = np.uint64(0xFFFFFFFF)
    carry = negative.astype(np.uint64)
    for i in range(8):
        turned = np.where(negative, limbs[:, i] ^ full, limbs[:, i]) + carry
        limbs[:, i], carry = turned & full, turned >> np.uint64(32)
    return limbs


# name of the type: values of an array of the fitting Arrow type, as rows of bytes
_ENCODERS: dict[str, Callable[[pa.Array], Any]] = {
    "bool": _encode_bool, "int2": _number("i2", 2), "int4": _number("i4", 4), "int8": _number("i8", 8),
    "oid": _number("u4", 4), "float4": _number("f4", 4), "float8": _number("f8", 8), "date": _encode_date,
    "time": _number("i8", 8), "timestamp": _encode_timestamp, "timestamptz": _encode_timestamp,
    "uuid": _encode_uuid, "numeric": _encode_numeric,
}  # fmt: skip
_TEXTS = {"text": b"", "bytea": b"", "json": b"", "jsonb": b"\x01"}
KINDS = frozenset(_DECODERS)


def encode(columns: Sequence[pa.Array], kinds: Sequence[str], names: Sequence[str]) -> pa.Buffer:
    """Rows of binary COPY, without header and trailer. Each column has the Arrow type of its kind. Raises Refused."""
    rows = len(columns[0])
    pieces: list[pa.Array] = []
    fixed: list[Any] = [np.broadcast_to(np.frombuffer(len(columns).to_bytes(2, "big"), np.uint8), (rows, 2))]

    def flush() -> None:
        if fixed:
            pieces.append(_binary(np.concatenate(fixed, axis=1)))
            fixed.clear()

    for column, kind, name in zip(columns, kinds, names, strict=True):
        if kind in _TEXTS:
            fixed.append(_text_lengths(column, len(_TEXTS[kind])))
            flush()
            pieces.append(_payload(column, _TEXTS[kind]))
            continue
        try:
            values = _ENCODERS[kind](column)
        except Unstorable as error:
            error.column = name
            raise
        length = np.broadcast_to(np.frombuffer(values.shape[1].to_bytes(4, "big"), np.uint8), (rows, 4))
        if column.null_count == 0:
            fixed += [length, values]
            continue
        flush()
        cell = _binary(np.concatenate([length, values], axis=1))
        pieces.append(pc.if_else(column.is_valid(), cell, pa.scalar(_NULL)))
    flush()
    joined = pc.binary_join_element_wise(*pieces, b"")
    offsets = np.frombuffer(joined.buffers()[1], np.int32, rows + 1)
    return joined.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def _binary(rows: Any) -> pa.Array:
    """Rows of equally many bytes."""
    count, width = rows.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    )


def _text_lengths(column: pa.Array, extra: int) -> Any:
    sizes = np.asarray(pc.binary_length(_storage(column)).fill_null(-1 - extra)) + extra
    return sizes.astype(">i4").view(np.uint8).reshape(len(column), 4)


def _payload(column: pa.Array, prefix: bytes) -> pa.Array:
    texts = _storage(column).cast(pa.binary())
    if prefix:
        texts = pc.binary_join_element_wise(pa.scalar(prefix), texts, b"")
    return texts.fill_null(b"") if texts.null_count else texts


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def rows(blocks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Blocks of messages of COPY TO without the file's header and trailer."""
    first = True
    for block in blocks:
        if first and block:
            first = False
            block[0] = block[0][len(HEADER) :]
        if block and len(block[-1]) == len(TRAILER):
            block.pop()
        if block and not block[0]:
            del block[0]
        if block:
            yield block
