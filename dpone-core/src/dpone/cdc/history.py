"""Changes as rows: what ``append`` stores for a change stream."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dpone.cdc.batch import either, storage_of
from dpone.errors import DataError
from dpone.model.changes import DELETE, IDENTITY, KEY, OPERATION, UNCHANGED, UPDATE, ChangeTable
from dpone.model.schema import PREFIX

OLD_KEY = PREFIX + "old_key"


def history_schema(table: ChangeTable) -> pa.Schema:
    """The columns that ``append`` stores for a change: its identity, the table's columns, the names of the columns that
    the log left out, separated by commas, and the key before an update that changed it, as a JSON object."""
    values = [f.with_nullable(True) for f in table.values]
    return pa.schema([*IDENTITY, *values, pa.field(UNCHANGED, pa.string()), pa.field(OLD_KEY, pa.string())])


def as_history(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    keys = dict(zip((f.name for f in batch.schema.field(KEY).type), batch.column(KEY).flatten(), strict=True))
    deleted = pc.equal(batch.column(OPERATION), DELETE)
    columns = []
    for f in schema:
        if f.name == OLD_KEY:
            columns.append(_old_keys(batch, keys))
            continue
        column = batch.column(f.name)
        if f.name == UNCHANGED:
            column = _names_of(column)
        elif f.name in keys:  # a delete has no values; its key says which row it was
            column = either(deleted, keys[f.name], column)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _old_keys(batch: pa.RecordBatch, keys: Mapping[str, pa.Array]) -> pa.Array:
    """The old keys of updates that changed a key column. There are few of them, so they are made one by one."""
    updates = pc.and_(pc.equal(batch.column(OPERATION), UPDATE), batch.column(KEY).is_valid())
    moved: pa.Array = pa.repeat(False, batch.num_rows)
    for name, old in keys.items():
        new = batch.column(name)
        other = pc.coalesce(pc.not_equal(storage_of(old), storage_of(new)), pc.not_equal(old.is_null(), new.is_null()))
        kept = pc.struct_field(batch.column(UNCHANGED), [name]).fill_null(False)
        # A key column that the log left out is NULL here and did not change.
        moved = pc.or_(moved, pc.and_(updates, pc.and_not(other, kept)))
    rows = pc.indices_nonzero(moved)
    texts: list[str | None] = [None] * batch.num_rows
    for i, key in zip(rows.to_pylist(), batch.column(KEY).take(rows), strict=True):
        texts[i] = json.dumps(
            {name: _value(one) for name, one in key.items()}, default=_json_default, ensure_ascii=False
        )
    return pa.array(texts, pa.string())


def _value(scalar: pa.Scalar) -> Any:
    """The value in Python; a time that Python cannot hold, as Arrow's text. Raises DataError for a time without a
    text."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):  # nanoseconds, or a year after 9999
        zone = getattr(scalar.type, "tz", None)
        text = str((scalar.cast(pa.timestamp(scalar.type.unit)) if zone else scalar).cast(pa.string()).as_py())
    if text.startswith("<value out of range"):  # a year beyond 32767 (pyarrow 26)
        raise DataError(
            "keep the old key of an update",
            f"a {scalar.type} value of the key cannot be written as text",
            "fix the source",
        )
    return f"{text}+00:00" if zone else text


def _json_default(value: Any) -> str:
    """Values that JSON does not have: bytes as base64, anything else as its text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _names_of(mask: pa.StructArray) -> pa.Array:
    """``note,photo``; NULL where the log gave every value."""
    if mask.null_count == len(mask):
        return pa.nulls(len(mask), pa.string())
    pairs = zip(mask.type, mask.flatten(), strict=True)
    # No NULL among the parts: with null_handling="skip" pyarrow 26 leaves rows of nothing but NULL out of the answer.
    names = [pc.if_else(column.fill_null(False), f"{f.name},", "") for f, column in pairs]
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*names, ""), 0, -1)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)
