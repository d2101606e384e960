"""Reads Parquet: types are in the file; row groups are streamed page by page.

INT96 is the timestamp type of old writers: a day and nanoseconds. pyarrow reads it into 64-bit nanoseconds, where years
before 1677 and after 2262 wrap around, or into microseconds, where nanoseconds are cut off; it reports neither. So it
is read both ways, and the difference shows what microseconds lose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dpone.errors import counted
from dpone.formats.input import Input
from dpone.formats.json_text import has_members
from dpone.formats.text import check_names, require_kin
from dpone.formats.types import BadValue, exactly, is_text, require_declared, restored
from dpone.model.evolution import EXACT_IN_DOUBLE, canonical_type, united
from dpone.model.schema import NATIVE
from dpone.model.types import JSON

_NANOSECONDS = pa.timestamp("ns")
_BATCH_ROWS = 1 << 14
_TODO = "write or fetch the file again; nothing of it was loaded"
_BUFFER = 1 << 18  # bytes read ahead per column; without it a whole column chunk is held


class Parquet:
    """Reads Parquet files. ``columns`` are the declared types; a value that does not fit raises DataError."""

    def __init__(self, columns: Mapping[str, pa.DataType]) -> None:
        self._columns = columns
        self.given: Sequence[Collection[str]] = ()

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """The columns of all files, by name; different types are joined to one that holds both. Raises DataError if
        there is none, ConfigError."""
        fields: dict[str, pa.Field] = {}
        all_fields = [self._fields(file) for file in files]
        self.given = [[field.name for field in own] for own in all_fields]
        require_kin(files, self.given)
        for i, (file, own) in enumerate(zip(files, all_fields, strict=True)):
            for field in own:
                known = fields.get(field.name, field if i == 0 else field.with_nullable(True))
                fields[field.name] = _joined(file, known, field)
            lacking = fields.keys() - {field.name for field in own}
            fields.update({name: fields[name].with_nullable(True) for name in lacking})
        where = files[0].label if len(files) == 1 else counted(len(files), "file")
        require_declared(self._columns, {*fields}, where, expected)
        if expected is not None and _NANOSECONDS in expected.types:
            int96 = set[str]()
            for file in files:
                with file.failing(), self._open(file) as opened:
                    int96.update(self._int96(file, opened))
            fields.update({name: _as_the_target(fields[name], expected) for name in int96 - self._columns.keys()})
        return pa.schema(list(fields.values()))

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with file.failing(), self._open(file) as opened:
            int96 = [name for name in self._int96(file, opened) if name in schema.names]
            groups = list(range(*(file.span or (0, opened.num_row_groups))))
            if int96:
                yield from self._with_int96(file, opened, groups, schema, int96)
                return
            for batch in _checked(file, opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups)):
                columns = [_column(file, batch, field) for field in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _with_int96(
        self, file: Input, opened: pq.ParquetFile, groups: Sequence[int], schema: pa.Schema, int96: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        with self._open(file, "ns") as other:
            for group in groups:
                (precise,) = _checked(file, iter([_one_batch(other, group, int96)]))
                at = 0
                for batch in _checked(file, opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])):
                    rows = precise.slice(at, batch.num_rows)
                    at += batch.num_rows
                    columns = [
                        _instants(file, field, batch.column(field.name), rows.column(field.name))
                        if field.name in int96
                        else _column(file, batch, field)
                        for field in schema
                    ]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _int96(self, file: Input, opened: pq.ParquetFile) -> list[str]:
        """Columns that are INT96 or contain it: those whose type depends on the unit in which they are read."""
        leaves = opened.schema
        if all(leaves.column(i).physical_type != "INT96" for i in range(len(leaves))):
            return []
        with self._open(file, "ns") as other:
            pairs = zip(opened.schema_arrow, other.schema_arrow, strict=True)
            return [one.name for one, two in pairs if one.type != two.type]

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """The indexes of the row groups at which the pieces begin."""
        with file.failing(), self._open(file) as opened:
            groups = opened.num_row_groups
        return sorted({groups * i // pieces for i in range(1, pieces)} - {0, groups})

    def end(self, file: Input) -> int:
        with file.failing(), self._open(file) as opened:
            return int(opened.num_row_groups)

    @contextlib.contextmanager
    def _open(self, file: Input, int96: str = "us") -> Iterator[pq.ParquetFile]:
        """int96: the unit in which INT96 columns are read, ``us`` or ``ns``."""
        with file.stored() as stored:
            try:
                # pre_buffer is for file systems with a high latency (pyarrow's documentation).
                opened = pq.ParquetFile(
                    stored, buffer_size=_BUFFER, pre_buffer=False, coerce_int96_timestamp_unit=int96
                )
            except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter from a column's name
                found = "the file is empty (0 bytes)" if not stored.size() else "not a whole Parquet file"
                raise file.bad(found, _TODO) from error
            except OSError as error:
                if error.errno is None:  # from the library, not from the system
                    raise file.bad("not a whole Parquet file", _TODO) from error
                raise
            yield opened

    def _fields(self, file: Input) -> list[pa.Field]:
        with file.failing(), self._open(file) as opened:
            fields = list(opened.schema_arrow)
        check_names(file, [field.name for field in fields], "column")
        return [_bare(field, self._columns.get(field.name)) for field in fields]


def _checked(file: Input, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Validates batches: pyarrow does not check that text is UTF-8, or that decimals have no more digits than their
    type. Raises DataError."""
    try:
        for batch in batches:
            batch.validate(full=True)
            yield batch
    except (pa.ArrowException, OSError):
        # The library's text quotes the value, so it is not chained.
        raise file.bad("the Parquet data is truncated or damaged", _TODO) from None


def _bare(field: pa.Field, declared: pa.DataType | None) -> pa.Field:
    """As declared; else without the writer's metadata, except the native type that a dpone source recorded."""
    if declared is not None:
        return pa.field(field.name, declared, field.nullable)
    native = (field.metadata or {}).get(NATIVE)
    return pa.field(field.name, canonical_type(field.type), field.nullable, {NATIVE: native} if native else None)


def _joined(file: Input, left: pa.Field, right: pa.Field) -> pa.Field:
    type_ = united(left.type, right.type)
    if type_ is None:
        found = f"column {left.name!r} is {right.type} here and {left.type} in an earlier file"
        kind = _widest(left.type, right.type)
        raise file.bad(found, f"declare the column in the source's options, as in columns: {{{left.name}: {kind}}}")
    metadata = left.metadata if left.metadata == right.metadata else None
    return pa.field(left.name, type_, left.nullable or right.nullable, metadata)


def _column(file: Input, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    at = batch.schema.get_field_index(field.name)
    if at < 0:
        return pa.nulls(batch.num_rows, field.type)
    return _cast(file, batch.column(at), field)


def _cast(file: Input, column: pa.Array, field: pa.Field) -> pa.Array:
    if column.type == field.type and field.type != JSON:
        return column
    try:
        return restored(column.storage, JSON) if column.type == JSON == field.type else exactly(column, field.type)
    except (pa.ArrowException, BadValue):
        if column.type == JSON == field.type:
            found = f"column {field.name!r} has a text that is not JSON"
            raise file.bad(found, f"declare the column, as in columns: {{{field.name}: string}}") from None
        # The driver's text quotes the value, so it is not chained.
        found = f"column {field.name!r} is {column.type}, with a value that {field.type} cannot hold"
        raise file.bad(found, _wider(column.type, field)) from None


def _wider(have: pa.DataType, field: pa.Field) -> str:
    if pa.types.is_timestamp(have) and have.unit == "ns" and pa.types.is_timestamp(field.type):
        return _in_nanoseconds(field)
    kind = _widest(have)
    return f"declare a wider type in the source's options, as in columns: {{{field.name}: {kind}}}"


_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def _widest(*types: pa.DataType) -> str:
    """The name of a type that can hold every value of the given types."""
    if any(has_members(type_) for type_ in types):
        return "json"
    bytes_ = [type_ for type_ in types if any(is_one(type_) for is_one in _BYTES)]
    # Any text is bytes; bytes need not be text.
    return "bytea" if bytes_ and all(type_ in bytes_ or is_text(type_) for type_ in types) else "string"


def _in_nanoseconds(field: pa.Field) -> str:
    kind = "timestamptz(9)" if pa.types.is_timestamp(field.type) and field.type.tz else "timestamp_ns"
    cut = "with sink.options.nanoseconds: cut to drop what the target cannot hold"
    return f"declare the column, as in columns: {{{field.name}: {kind}}}, {cut}, or {{{field.name}: string}}"


def _one_batch(opened: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.RecordBatch:
    table = opened.read_row_group(group, columns=columns).combine_chunks()
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _as_the_target(field: pa.Field, expected: pa.Schema) -> pa.Field:
    """An INT96 column is read in nanoseconds if the target has it in nanoseconds: earlier loads read it that way."""
    at = expected.get_field_index(field.name)
    there = at >= 0 and expected.field(at).type == _NANOSECONDS
    return field.with_type(_NANOSECONDS) if there and field.type == pa.timestamp("us") else field


def _instants(file: Input, field: pa.Field, coarse: pa.Array, precise: pa.Array) -> pa.Array:
    """An INT96 column, read in microseconds and in nanoseconds, as the type of ``field``. Raises DataError if a value
    would change."""
    lost = [_lost(one, two) for one, two in zip(_timestamps(coarse), _timestamps(precise), strict=True)]
    if not any(pc.any(pc.not_equal(one, 0)).as_py() for one in lost):
        return _cast(file, coarse, field)
    if pa.types.is_timestamp(coarse.type) and is_text(field.type):
        digits = pc.if_else(pc.equal(lost[0], 0), "", pc.utf8_lpad(lost[0].cast(pa.string()), 3, "0"))
        return pc.binary_join_element_wise(coarse.cast(pa.string()), digits, "").cast(field.type)
    if field.type == precise.type and pa.types.is_timestamp(field.type):
        _cast(file, coarse, field)  # refuses years that nanoseconds cannot hold
        return precise
    todo = _in_nanoseconds(field)
    if pa.types.is_nested(field.type):
        todo = "write the file with timestamps in microseconds"
    raise file.bad(f"column {field.name!r} has nanoseconds, which {field.type} would cut off", todo)


def _timestamps(values: pa.Array) -> Iterator[pa.Array]:
    """The timestamp arrays of a column, including nested ones."""
    if pa.types.is_timestamp(values.type):
        yield values
    elif pa.types.is_struct(values.type):
        for child in values.flatten():
            yield from _timestamps(child)
    elif pa.types.is_map(values.type):
        yield from _timestamps(pa.StructArray.from_arrays([values.keys, values.items], ["key", "value"]))
    elif pa.types.is_nested(values.type):
        yield from _timestamps(values.flatten())


def _lost(coarse: pa.Array, precise: pa.Array) -> pa.Array:
    """The nanoseconds of each value that microseconds lose, 0 to 999. The reading and this arithmetic both wrap around
    at 64 bits, so the result is exact even if the nanoseconds do not fit."""
    return pc.subtract(precise.cast(pa.int64()), pc.multiply(coarse.cast(pa.int64()), 1000))


def beyond_double(file: Input, column: str) -> int:
    """The number of integers in a column that a double may not hold exactly."""
    lost = 0
    with file.stored() as stored, pq.ParquetFile(stored) as part:
        at = part.schema_arrow.get_field_index(column)
        type_ = canonical_type(part.schema_arrow.field(at).type) if at >= 0 else pa.null()
        if type_ not in (pa.int64(), pa.uint64()):
            return 0
        least = pa.scalar(-EXACT_IN_DOUBLE if type_ == pa.int64() else 0, type_)
        for batch in part.iter_batches(columns=[column]):
            values = batch.column(0).cast(type_)
            beyond = pc.or_(pc.less(values, least), pc.greater(values, pa.scalar(EXACT_IN_DOUBLE, type_)))
            lost += pc.sum(beyond).as_py() or 0
    return lost
