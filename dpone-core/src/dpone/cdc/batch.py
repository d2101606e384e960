"""Change batches of several shapes: united, cast, renamed."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dpone.errors import DataError
from dpone.model.changes import (
    BEFORE,
    INSERT,
    KEY,
    OPERATION,
    UNCHANGED,
    UPDATE,
    ChangeTable,
    batch_schema,
)
from dpone.model.evolution import join


def unite(left: ChangeTable, right: ChangeTable) -> ChangeTable | None:
    """One shape for rows of both, or None. Columns keep their order; one that only one side has is nullable."""
    # A fold by key cannot combine changes whose rows are identified by different columns.
    if left.key != right.key:
        return None
    names = [*left.values.names, *(n for n in right.values.names if n not in left.values.names)]
    fields = [_united(_field(left.values, name), _field(right.values, name)) for name in names]
    given = [f for f in fields if f is not None]
    return ChangeTable(pa.schema(given), left.key) if len(given) == len(fields) else None


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    at = schema.get_field_index(name)
    return schema.field(at) if at >= 0 else None


def _united(left: pa.Field | None, right: pa.Field | None) -> pa.Field | None:
    if left is None or right is None:
        one = left if right is None else right
        return None if one is None else one.with_nullable(True)
    if (type_ := join(left.type, right.type)) is None:
        return None
    metadata = left.metadata if left.metadata == right.metadata else None
    return pa.field(left.name, type_, left.nullable or right.nullable, metadata)


def conformed(batch: pa.RecordBatch, shape: ChangeTable, table: ChangeTable) -> pa.RecordBatch:
    """Convert a batch of ``shape`` to ``table``, which unites it with other shapes. Columns that the shape did not have
    are marked as unchanged, because the change says nothing about them."""
    schema = batch_schema(table)
    if batch.schema.equals(schema):
        return batch
    unchanged = _mask(batch, shape.values.names, table.values.names)
    columns = [unchanged if f.name == UNCHANGED else cast_column(batch, f) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _mask(batch: pa.RecordBatch, had: Sequence[str], names: Sequence[str]) -> pa.StructArray:
    given = dict(zip(had, batch.column(UNCHANGED).flatten(), strict=True))
    says = pc.is_in(batch.column(OPERATION), pa.array([INSERT, UPDATE]))
    # PG-09, PG-18: a column that the shape did not have is unknown, not NULL. As NULL it would overwrite the value in
    # the target. A delete says nothing about values.
    columns = [given[name].fill_null(False) if name in given else says for name in names]
    return mask_of(names, columns, batch.num_rows)


def mask_of(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.StructArray:
    """The mask of unchanged columns, from one array of booleans for each column; NULL for a row without an unchanged
    column."""
    any_: pa.Array = pa.repeat(False, rows)
    for column in columns:
        any_ = pc.or_(any_, column)
    return pa.StructArray.from_arrays(columns, fields=[pa.field(n, pa.bool_()) for n in names], mask=pc.invert(any_))


def cast_column(batch: pa.RecordBatch, wanted: pa.Field) -> pa.Array:
    at = batch.schema.get_field_index(wanted.name)
    return pa.nulls(batch.num_rows, wanted.type) if at < 0 else cast(batch.column(at), wanted.type, wanted.name)


def cast(column: pa.Array, type_: pa.DataType, name: str) -> pa.Array:
    """The column converted to a wider type, structs field by field, missing fields as NULL. Raises DataError."""
    if column.type == type_:
        return column
    if pa.types.is_struct(type_):
        # flatten() makes the members of a NULL struct NULL; field() would return whatever is stored there.
        have = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
        missing = pa.nulls(len(column), pa.null())
        children = [cast(have.get(f.name, missing), f.type, f.name) for f in type_]
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=column.is_null())
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), type_)
    try:
        return column.cast(type_)
    except pa.ArrowException:  # pyarrow's message quotes the value, so it is not chained
        found = f"column {name} has a {column.type} value that does not fit {type_}"
        raise DataError("combine the changes of a table", found, "declare the column's type in the source") from None


def either(first: pa.Array, left: pa.Array, right: pa.Array) -> pa.Array:
    """``left`` where ``first`` is true, else ``right``. Arrow's kernels do not take extension types (uuid), so the
    choice is made on their storage, and the type is restored."""
    return pc.if_else(first, storage_of(left), storage_of(right)).cast(right.type)


def storage_of(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def renamed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rename the columns of a change batch to those of the target, also inside the structs."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for f, column in zip(schema, batch.columns, strict=True):
        if f.name == KEY and len(column.type) == 0:  # the log has no key; the pipeline states it
            column = pa.nulls(len(column), f.type)
        elif f.name in (KEY, UNCHANGED, BEFORE):
            column = pa.StructArray.from_arrays(column.flatten(), fields=list(f.type), mask=column.is_null())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
