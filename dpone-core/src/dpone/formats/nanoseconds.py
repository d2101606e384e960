"""``sink.options.nanoseconds: cut``: times of nanoseconds become times of microseconds, for targets that have no more.

Digits are dropped, nothing is rounded: 23:59:59.999999999 stays on its day. Without the option a target refuses what it
does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from dpone.contract import Stream


def misfit(have: pa.DataType, wanted: pa.DataType) -> str:
    """Why a cast to a type of the target was refused; names the option where it helps."""
    found = f"a value of type {have} does not fit {wanted}"
    fine = getattr(have, "unit", "") == "ns" and getattr(wanted, "unit", "") == "us"
    return f"{found}; it would with sink.options.nanoseconds: cut, which drops nanoseconds" if fine else found


def cut(schema: pa.Schema) -> pa.Schema:
    """The schema of ``Cut``."""
    return pa.schema([field.with_type(_cut_type(field.type)) for field in schema], schema.metadata)


class Cut:
    """A stream without nanoseconds. See ``dpone.contract.Stream``."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self.schema = stream, cut(stream.schema)
        self.native = stream.native if self.schema == stream.schema else ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stream.batches():
            schema = cut(batch.schema)
            columns = [_cut(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _cut_type(type_: pa.DataType) -> pa.DataType:
    """Structs too: a change has its key and its values before in such."""
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", type_.tz)
    if type_ == pa.time64("ns"):
        return pa.time64("us")
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_cut_type(field.type)) for field in type_])
    return type_


def _cut(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    if values.type == wanted:
        return values
    if pa.types.is_struct(wanted):
        members = [_cut(one, field.type) for one, field in zip(values.flatten(), wanted, strict=True)]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=values.is_null())
    numbers = np.floor_divide(values.cast(pa.int64()).fill_null(0).to_numpy(), 1000)
    return pa.array(numbers, mask=values.is_null().to_numpy(zero_copy_only=False)).cast(wanted)
