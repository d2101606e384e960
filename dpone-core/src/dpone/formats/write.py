"""Writing one part: Parquet, CSV or JSON Lines, with the lineage columns."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dpone.contract import Stream
from dpone.errors import DataError
from dpone.formats.json_text import (
    NotJson,
    has_members,
    has_union,
    json_texts,
)
from dpone.formats.nanoseconds import misfit
from dpone.formats.options import WriteOptions
from dpone.formats.types import first_without_text, is_text
from dpone.model.evolution import canonical_type
from dpone.model.schema import LOADED_AT
from dpone.model.types import JSON, UUID

GROUP_ROWS = 1 << 17  # rows of a Parquet row group, unless the bytes below come first
GROUP_BYTES = 8 << 20  # Arrow bytes held before a row group is written


def refused(format: str, type_: pa.DataType) -> str:
    """Why a format cannot store a type; empty if it can."""
    if pa.types.is_run_end_encoded(type_) or has_union(type_):
        return f"{format} does not have this type"
    if isinstance(type_, pa.BaseExtensionType) and type_ not in (JSON, UUID):
        return refused(format, type_.storage_type)
    if format == "parquet":
        return _refused_by_parquet(type_)
    type_ = canonical_type(type_)
    if format == "csv" and (pa.types.is_nested(type_) or pa.types.is_interval(type_)):
        return "a CSV value is not nested"
    if format == "csv" and type_ != UUID and (pa.types.is_binary(type_) or _bytes_of_another_kind(type_)):
        return "CSV holds text, not bytes"
    return ""


def _refused_by_parquet(type_: pa.DataType) -> str:
    t = pa.types
    if t.is_interval(type_):
        return "Parquet has no intervals"
    if t.is_string_view(type_) or t.is_binary_view(type_) or t.is_list_view(type_) or t.is_large_list_view(type_):
        return "Parquet has no views"
    if t.is_struct(type_) and not type_.num_fields:
        return "Parquet has no empty structs"
    if t.is_dictionary(type_):
        return "Parquet has no dictionaries of nested values" if t.is_nested(type_.value_type) else ""
    inner = [type_.field(i).type for i in range(type_.num_fields)] if t.is_nested(type_) else []
    return next(filter(None, (refused("parquet", one) for one in inner)), "")


def _bytes_of_another_kind(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_) or pa.types.is_binary_view(type_)
    )


def write(
    to: pa.NativeFile, stream: Stream, schema: pa.Schema, constants: Mapping[str, Any], options: WriteOptions
) -> tuple[int, int]:
    """Write a stream to ``to``. Returns the number of rows and their Arrow bytes. constants: columns of ``schema`` that
    have the same value in all rows. On return the content is complete but not durable: the caller must close ``to`` and
    flush it to disk. Raises DataError."""
    rows = size = 0
    with _WRITERS[options.format](to, schema, options) as append:
        for batch in _complete(stream, schema, constants):
            if options.format != "parquet":
                _require_text(batch)
            append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
    return rows, size


def _complete(stream: Stream, schema: pa.Schema, constants: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """Batches in the form of the target: its columns in order, its types, constants filled in."""
    given = [field for field in schema if field.name not in constants]
    filled = _Constants([field for field in schema if field.name in constants], constants)
    for batch in stream.batches():
        columns = [_column(batch, field) for field in given]
        yield pa.RecordBatch.from_arrays([*columns, *filled.arrays(batch.num_rows)], schema=schema)


def _require_text(batch: pa.RecordBatch) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if first_without_text(column) >= 0:
            raise DataError(
                f"write column {name}", "a year beyond 32767, which text cannot represent", "use format: parquet"
            )


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    at = batch.schema.get_field_index(field.name)
    if at < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(at)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException:
        # pyarrow's message quotes the value, so it is not chained.
        todo = f"declare the column as {field.type} in the source, or change the target's column"
        found = misfit(column.type, field.type)
        raise DataError(f"write column {field.name}", found, todo) from None


class _Constants:
    """Constant columns, made once and sliced, so that there is no allocation per batch."""

    def __init__(self, fields: list[pa.Field], values: Mapping[str, Any]) -> None:
        self._values = [pa.scalar(values[field.name], field.type) for field in fields]
        self._made: list[pa.Array] = []

    def arrays(self, rows: int) -> list[pa.Array]:
        if self._values and (not self._made or len(self._made[0]) < rows):
            self._made = [pa.repeat(value, rows) for value in self._values]
        return [array.slice(0, rows) for array in self._made]


@contextlib.contextmanager
def _parquet(to: pa.NativeFile, schema: pa.Schema, options: WriteOptions) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Row groups of a bounded size, whatever the batches are: small groups are slow to read, large ones need memory."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    writer: pq.ParquetWriter | None = None

    def write(batch: pa.RecordBatch) -> None:
        nonlocal rows, size
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            flush()

    def flush() -> None:
        nonlocal rows, size, writer
        table = pa.Table.from_batches(held, schema)
        if writer is None:
            level = 1 if options.codec == "zstd" else None
            writer = pq.ParquetWriter(
                to, schema, compression=options.codec, compression_level=level, use_dictionary=_repetitive(table)
            )
        # One group of what is held, unless a batch was large: a remainder would make a group of a few rows.
        writer.write_table(table, row_group_size=GROUP_ROWS if rows >= 2 * GROUP_ROWS else max(rows, 1))
        held.clear()
        rows = size = 0

    try:
        yield write
        if held or writer is None:
            flush()
    finally:
        if writer is not None:
            writer.close()


def _repetitive(table: pa.Table) -> list[str]:
    """Text columns whose values repeat. For any other column a dictionary would be built and then discarded."""
    sample = table.slice(0, 8192)
    worth = []
    for field in table.schema:
        column = sample.column(field.name)
        if is_text(field.type) and column.num_chunks and pc.count_distinct(column).as_py() <= len(column) // 4:
            worth.append(field.name)
    return [*worth, *(n for n in (LOADED_AT,) if n in table.schema.names)]


@contextlib.contextmanager
def _packed(to: pa.NativeFile, codec: str) -> Iterator[pa.NativeFile]:
    if codec == "none":
        yield to
        return
    with pa.CompressedOutputStream(to, codec) as packed:
        yield packed


@contextlib.contextmanager
def _csv(to: pa.NativeFile, schema: pa.Schema, options: WriteOptions) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """NULL is an empty field, the empty text is quoted, so the two stay distinct."""
    texts = pa.schema([pa.field(f.name, pa.string() if f.type in (JSON, UUID) else _in_csv(f.type)) for f in schema])
    with _packed(to, options.codec) as file, pyarrow.csv.CSVWriter(file, texts) as writer:
        yield lambda batch: writer.write_batch(
            pa.RecordBatch.from_arrays([_csv_column(column) for column in batch.columns], schema=texts)
        )


def _csv_column(column: pa.Array) -> pa.Array:
    if column.type == UUID:
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    return column.cast(_in_csv(column.type))


def _in_csv(type_: pa.DataType) -> pa.DataType:
    return _in_utc(canonical_type(type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_))


def _in_utc(type_: pa.DataType) -> pa.DataType:
    """Instants are written in UTC: offsets are written in whole minutes, but those of old local times have seconds."""
    return pa.timestamp(type_.unit, "UTC") if pa.types.is_timestamp(type_) and type_.tz else type_


@contextlib.contextmanager
def _jsonl(to: pa.NativeFile, schema: pa.Schema, options: WriteOptions) -> Iterator[Callable[[pa.RecordBatch], None]]:
    names = [json.dumps(name, ensure_ascii=False) + ":" for name in schema.names]
    with _packed(to, options.codec) as file:

        def write(batch: pa.RecordBatch) -> None:
            columns = [_json_texts(column, name) for column, name in zip(batch.columns, schema.names, strict=True)]
            lines = ("{" + ",".join(map(str.__add__, names, row)) + "}\n" for row in zip(*columns, strict=True))
            file.write("".join(lines).encode())

        yield write


def _json_texts(column: pa.Array, name: str) -> list[str]:
    """The JSON text of every value of a column; numbers keep all digits. Raises DataError."""
    type_ = column.type
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_):
        return [text or "null" for text in pc.cast(column, pa.string()).to_pylist()]
    if type_ == JSON:
        # A line break between tokens is not part of the value, and would end the line.
        return [_one_line(text) for text in column.storage.fill_null("null").to_pylist()]
    if has_members(type_) or pa.types.is_interval(type_):
        return _nested_texts(column, name)
    if pa.types.is_temporal(type_):
        is_duration = pa.types.is_duration(type_)
        column = column.cast(pa.int64()) if is_duration else column.cast(_in_utc(type_)).cast(pa.string())
    return [_json_text(value, name) for value in column.to_pylist()]


def _nested_texts(column: pa.Array, name: str) -> list[str]:
    try:
        return [_one_line(text) for text in json_texts(column).fill_null("null").to_pylist()]
    except NotJson as error:
        found = f"column {name} has {error.reason}, which JSON cannot represent"
        raise DataError("write JSON Lines", found, "use format: parquet") from None


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _json_text(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_odd)
    except ValueError:
        found = f"column {name} has NaN or infinity, which JSON cannot represent"
        raise DataError("write JSON Lines", found, "use format: parquet or csv") from None


def _odd(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return str(value)


_WRITERS = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
