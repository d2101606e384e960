"""Columns of change batches, cast to the types of their table."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dpone.cdc.batch import cast_column
from dpone.errors import DataError

BATCH = pa.RecordBatch.from_pydict({"a": pa.array([1, None], pa.int32()), "b": ["x", "y"], "c": [2.5, 3.5]})


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        (pa.field("a", pa.int64()), [1, None]),
        (pa.field("b", pa.large_string()), ["x", "y"]),
        (pa.field("c", pa.float64()), [2.5, 3.5]),
        (pa.field("d", pa.int16()), [None, None]),
        (pa.field("d", pa.struct([("e", pa.string())])), [None, None]),
    ],
    ids=["first", "middle", "last", "missing", "missing struct"],
)
def test_a_column_is_found_wherever_it_is(wanted: pa.Field, values: list[object]) -> None:
    """Its values have the wanted type, whatever its number, also 0; only a column that is missing is NULL."""
    made = cast_column(BATCH, wanted)
    assert (made.type, made.to_pylist()) == (wanted.type, values)


def test_a_value_that_does_not_fit_is_named_by_its_column() -> None:
    """The error has the column and the types, and not the value."""
    with pytest.raises(DataError, match="column c has a double value that does not fit int64") as caught:
        cast_column(BATCH, pa.field("c", pa.int64()))
    assert "2.5" not in str(caught.value)
