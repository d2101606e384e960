"""Converts Arrow columns to the types of a table's columns, and to CSV where dpone has no binary encoding."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from dpone.formats.json_text import has_members
from dpone.sql.values import Unstorable, as_json, fitted, unpacked
from dpone_postgres.types import JSON, UUID

_PIECE_BYTES = 8_000_000


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of about 8 MB, whatever the width of the rows."""
    rows = max(1, min(batch.num_rows, _PIECE_BYTES * batch.num_rows // max(batch.nbytes, 1)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def as_type(array: pa.Array, type: pa.DataType) -> pa.Array:
    """The same values as ``type``, the type of a column (``types.Column.arrow``). Raises Refused."""
    array = unpacked(array)
    if type == JSON and isinstance(type, pa.BaseExtensionType):
        texts = as_json(array) if has_members(array.type) else _storage(array).cast(pa.string())
        return pa.ExtensionArray.from_storage(type, texts)
    if type == pa.string() and (pa.types.is_duration(array.type) or pa.types.is_interval(array.type)):
        return _interval_texts(array)
    if array.type == type:
        return array
    if type == UUID:
        return pa.ExtensionArray.from_storage(UUID, fitted(array, pa.binary(16)))
    return fitted(array, type)


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def _interval_texts(array: pa.Array) -> pa.Array:
    """Texts that PostgreSQL parses as intervals. Its smallest unit is the microsecond. Raises Refused."""
    if pa.types.is_duration(array.type):
        number = fitted(array, pa.duration("us")).cast(pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(number, "microseconds", " ")
    texts: list[str | None] = []
    for row, value in enumerate(array.to_pylist()):
        if value is not None and value.nanoseconds % 1000:
            raise Unstorable("an interval with a fraction of a microsecond", row)
        text = (
            None if value is None else f"{value.months} mons {value.days} days {value.nanoseconds // 1000} microseconds"
        )
        texts.append(text)
    return pa.array(texts, pa.string())


# ---- CSV


def csv(columns: Sequence[pa.Array], names: Sequence[str]) -> bytes:
    """Rows of CSV as COPY reads them: texts quoted, NULL as an empty field, '' as a pair of quotes. Raises Refused."""
    texts = []
    for column, name in zip(columns, names, strict=True):
        try:
            texts.append(_text(column))
        except Unstorable as error:
            error.column = name
            raise
    out = io.BytesIO()
    options = pacsv.WriteOptions(include_header=False, quoting_style="needed")
    pacsv.write_csv(pa.RecordBatch.from_arrays(texts, [str(i) for i in range(len(texts))]), out, options)
    return out.getvalue()


def _text(column: pa.Array) -> pa.Array:
    type = column.type
    if type == UUID:
        return pa.array(
            [None if v is None else str(uuid.UUID(bytes=v)) for v in column.storage.to_pylist()], pa.string()
        )
    column = _storage(column)
    if pa.types.is_binary(column.type):
        return pa.array([None if v is None else "\\x" + v.hex() for v in column.to_pylist()], pa.string())
    if pa.types.is_floating(type):  # the shortest text that is exact
        return pa.array([None if v is None else repr(v) for v in column.cast(pa.float64()).to_pylist()], pa.string())
    if pa.types.is_date(type) or pa.types.is_timestamp(type):
        return _calendar(column)
    return column.cast(pa.string())


def _calendar(column: pa.Array) -> pa.Array:
    """Arrow writes years before 1 with a minus sign, PostgreSQL reads them with BC. Raises Refused for these."""
    zone = "+00" if pa.types.is_timestamp(column.type) and column.type.tz else ""
    bare = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
    texts = bare.cast(pa.string())
    if (ancient := pc.match_substring_regex(texts, "^-|^0000")) and pc.any(ancient).as_py():
        raise Unstorable("a time before the year 1, in a row that is sent as text", ancient.index(True).as_py())
    return pc.binary_join_element_wise(texts, zone, "") if zone else texts
