"""Options of the sink that no broker is needed to refuse, and what they say of deliveries."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dpone.errors import ConfigError, DataError, DponeError
from dpone.plugins import discover
from dpone_kafka.encode import Encoder
from dpone_kafka.sink_options import KafkaSinkOptions, Key, Partition, Value


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (Key, {}, "no columns; name them, as in key"),
        (Key, {"columns": ("a", "b"), "format": "text"}, "format text with 2 columns, whose values could not be told"),
        (Value, {"column": "a"}, "column with format json"),
        (Partition, {"by": "column"}, "by: column and column: none; write partition"),
        (Partition, {"column": "a"}, "by: key and column: a"),
    ],
)
def test_options_that_contradict_each_other_are_refused(make: Any, given: dict[str, Any], says: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match=says):
        make(**given)


@pytest.mark.parametrize("delivery", ["at_least_once", "idempotent", "transactional"])
def test_only_transactional_is_exactly_once(delivery: Any) -> None:
    """The plugin says by which option a run is exactly once, and a run says what it is."""
    sink = discover().get("sink", "kafka")
    assert sink.delivery == "exactly once with delivery: transactional"
    expected = "exactly once" if delivery == "transactional" else "at least once"
    assert sink.delivers(KafkaSinkOptions(delivery=delivery)) == expected
    assert discover().get("sink", "sqlite").delivers(KafkaSinkOptions()) == "exactly once"


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ([1.0, float("nan")], DataError, "row 12 of part p has NaN or an infinity in column x"),
        ([None, None], None, ""),
        ([1.5, -0.0], None, ""),
    ],
)
def test_a_value_that_json_lacks_is_named_by_its_row(
    values: list[Any], error: type[DponeError] | None, says: str
) -> None:
    """Rows count on from the batch before, and the value itself is not shown."""
    batch = pa.RecordBatch.from_pydict({"id": [1, 2], "x": pa.array(values, pa.float64())})
    encoder = Encoder(KafkaSinkOptions(key=Key(("id",))), batch.schema, "topic t")
    if error is None:
        assert encoder.values(batch, "p", 10).null_count == 0
        assert encoder.keys(batch, "p", 10).to_pylist() == [b'{"id": 1}', b'{"id": 2}']
        return
    with pytest.raises(error, match=says):
        encoder.values(batch, "p", 10)
