"""Parquet: types are in the file; row groups are streamed page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dpone.connectors.file.text import Input, check_names
from dpone.connectors.file.types import require_declared
from dpone.errors import DataError
from dpone.evolution import join, plain
from dpone.schema import NATIVE

_BATCH_ROWS = 1 << 14
_TODO = "write or fetch the file again; nothing of it was loaded"
_BUFFER = 1 << 18  # bytes read ahead per column; without it a whole column chunk is held


class Parquet:
    """Reads Parquet files. ``columns`` are the declared types; a value that does not fit one is an error."""

    def __init__(self, columns: Mapping[str, pa.DataType]) -> None:
        self._columns = columns

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """Columns of all the files by name; of different types the one that holds both."""
        fields: dict[str, pa.Field] = {}
        for i, file in enumerate(files):
            own = self._fields(file)
            for field in own:
                known = fields.get(field.name, field if i == 0 else field.with_nullable(True))
                fields[field.name] = _joined(file, known, field)
            lacking = fields.keys() - {field.name for field in own}
            fields.update({name: fields[name].with_nullable(True) for name in lacking})
        require_declared(self._columns, set(fields), files[0].label if len(files) == 1 else f"{len(files)} files")
        return pa.schema([f.with_type(self._columns.get(f.name, f.type)) for f in fields.values()])

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with file.failing(), self._open(file) as opened:
            groups = range(*(file.span or (0, opened.num_row_groups)))
            for batch in _checked(file, opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=list(groups))):
                columns = [_column(file, batch, field) for field in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Row groups at which pieces begin."""
        with file.failing(), self._open(file) as opened:
            groups = opened.num_row_groups
        return sorted({groups * i // pieces for i in range(1, pieces)} - {0, groups})

    def end(self, file: Input) -> int:
        with file.failing(), self._open(file) as opened:
            return int(opened.num_row_groups)

    def _open(self, file: Input) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(str(file.path), buffer_size=_BUFFER, pre_buffer=False)
        except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter from a column's name
            found = "the file is empty (0 bytes)" if not file.path.stat().st_size else "not a whole Parquet file"
            raise file.bad(found, _TODO) from error
        except OSError as error:
            if error.errno is None:  # from the library, not from the system
                raise file.bad("not a whole Parquet file", _TODO) from error
            raise

    def _fields(self, file: Input) -> list[pa.Field]:
        with file.failing(), self._open(file) as opened:
            fields = list(opened.schema_arrow)
        check_names(file, [field.name for field in fields])
        return [_bare(field) for field in fields]


def _checked(file: Input, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches whose values are what their types say. The library hands over text that is not UTF-8, and decimals with
    too many digits, as they stand in the file."""
    try:
        for batch in batches:
            batch.validate(full=True)
            yield batch
    except (pa.ArrowException, OSError):
        # The library's text quotes the value, so it is not chained.
        raise file.bad("the Parquet data is truncated or damaged", _TODO) from None


def _bare(field: pa.Field) -> pa.Field:
    """Without the writer's own notes, but with the native type that a source of ours noted."""
    native = (field.metadata or {}).get(NATIVE)
    return pa.field(field.name, plain(field.type), field.nullable, {NATIVE: native} if native else None)


def _joined(file: Input, left: pa.Field, right: pa.Field) -> pa.Field:
    type_ = join(left.type, right.type)
    if type_ is None:
        found = f"column {left.name!r} is {right.type} here and {left.type} in a file before it"
        raise file.bad(found, f"declare the column in the source's options, as in columns: {{{left.name}: string}}")
    return left.with_type(type_).with_nullable(left.nullable or right.nullable)


def _column(file: Input, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    at = batch.schema.get_field_index(field.name)
    if at < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(at)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException:
        # The driver's text quotes the value, so it is not chained.
        found = f"column {field.name!r} is {column.type}, with a value that {field.type} does not hold"
        raise DataError(f"read {file.label}", found, "declare a wider type in the source's options") from None
