"""Envelopes of Debezium connectors, by hand after its documentation; those of its engine: test_debezium_engine."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from tests.kafka.reading import Run
from tests.kafka.test_changes import DEBEZIUM, changes, lay, send, table, topic

from dpone.errors import ConfigError, DataError
from dpone_kafka.config import Layout
from dpone_kafka.testing import KafkaHarness

PLACEHOLDER = "__debezium_unavailable_value"
ID = {"type": "int64", "optional": False, "field": "id"}
NAME = {"type": "string", "optional": True, "field": "name"}
BARE = {"value": Layout("debezium", columns={"id": "bigint", "name": "text"})}
OF_ENVELOPES = "value: {format: debezium}"


def schema(*fields: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = [{"type": "struct", "fields": list(fields), "optional": True, "field": part} for part in ("before", "after")]
    return {"type": "struct", "fields": [*rows, {"type": "string", "field": "op"}], "name": "s.public.t.Envelope"}


def envelope(op: str, row: Any = None, before: Any = None, at: int = 1_700_000_000_000) -> dict[str, Any]:
    """As the PostgreSQL connector writes it; that of SQL Server has other members in ``source``."""
    source = {"version": "3.6.3.Final", "connector": "postgresql", "ts_ms": at, "lsn": 1, "table": "t"}
    return {"before": before, "after": row, "source": source, "op": op, "ts_ms": at + 5, "transaction": None}


def event(
    op: str, id: int | None, row: Any = None, *fields: Mapping[str, Any], before: Any = None
) -> tuple[Any, dict[str, Any]]:
    """Key and value with their schemas."""
    key = None if id is None else {"schema": {"type": "struct", "fields": [ID]}, "payload": {"id": id}}
    return key, {"schema": schema(*(fields or (ID, NAME))), "payload": envelope(op, row, before)}


def test_each_operation_is_its_change(harness: KafkaHarness) -> None:
    """Snapshot rows and inserts, updates, deletes with the tombstones after them, truncates; a logical message is no
    change. The time is that of the source's commit."""
    topic(harness)
    message = {"schema": schema(ID, NAME), "payload": {"op": "m", "ts_ms": 1, "source": {}, "message": {"prefix": "p"}}}
    send(
        harness,
        event("r", 1, {"id": 1, "name": "a"}),
        event("c", 2, {"id": 2, "name": "b"}),
        event("u", 1, {"id": 1, "name": "c"}, before={"id": 1, "name": "a"}),
        event("d", 2, before={"id": 2, "name": None}),
        ({"schema": None, "payload": {"id": 2}}, None),
        ({"schema": None, "payload": {"prefix": "p"}}, message),
        event("t", None),
        event("c", 3, {"id": 3, "name": None}),
    )
    found = changes(harness, **DEBEZIUM)
    assert found.short("id", "name") == [
        ("insert", None, 1, "a"), ("insert", None, 2, "b"), ("update", 1, 1, "c"), ("delete", 2, None, None),
        ("truncate", None, None, None), ("insert", None, 3, None),
    ]  # fmt: skip
    assert {row["__dpone__committed_at"] for row in found.rows} == {datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}
    assert "skipped 2 records without a change" in found.window.proof
    assert found.window.position.value["key"] == ["id"]


def test_a_truncate_alone_has_the_key_of_earlier_windows(harness: KafkaHarness) -> None:
    """Its record has no key; the position keeps the columns."""
    topic(harness)
    send(harness, event("c", 1, {"id": 1, "name": "a"}))
    position = changes(harness, **DEBEZIUM).window.position
    send(harness, event("t", None))
    [one] = changes(harness, position, **DEBEZIUM).window.tables.values()
    assert one.key == ("id",)


@pytest.mark.parametrize(
    ("type_", "given", "expected"),
    [
        ({"type": "int32", "name": "io.debezium.time.Date"}, 19_000, date(2022, 1, 8)),
        ({"type": "int32", "name": "io.debezium.time.Time"}, 3_600_001, time(1, 0, 0, 1000)),
        ({"type": "int64", "name": "io.debezium.time.MicroTime"}, 3_600_000_001, time(1, 0, 0, 1)),
        ({"type": "int64", "name": "io.debezium.time.Timestamp"}, 1500, datetime(1970, 1, 1, 0, 0, 1, 500_000)),
        ({"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, -1, datetime(1969, 12, 31, 23, 59, 59, 999_999)),
        ({"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "2020-01-01T00:00:00.5Z",
         datetime(2020, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ({"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "2020-01-01T02:00:00.1234560+02:00",
         datetime(2020, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)),
        ({"type": "int32", "name": "org.apache.kafka.connect.data.Date"}, -1, date(1969, 12, 31)),
        ({"type": "string", "name": "io.debezium.data.Uuid"}, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
        ({"type": "string", "name": "io.debezium.data.Json"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "string", "name": "io.debezium.data.Enum", "parameters": {"allowed": "a,b"}}, "a", "a"),
        ({"type": "bytes"}, "AP8=", b"\x00\xff"),
        ({"type": "boolean"}, True, True),
        ({"type": "int16"}, -32768, -32768),
        ({"type": "double"}, "NaN", "nan"),
        ({"type": "double"}, 0.1, 0.1),
        ({"type": "array", "items": {"type": "int32"}}, [1, None], "[1,null]"),
        ({"type": "struct", "fields": []}, {"x": 1.5}, '{"x":1.5}'),
    ],
)  # fmt: skip
def test_a_type_of_the_schema_is_a_column(harness: KafkaHarness, type_: Any, given: Any, expected: Any) -> None:
    """Each type of Connect and Debezium has the value that it means, and NULL is NULL."""
    topic(harness)
    field = {**type_, "field": "v", "optional": True}
    send(harness, event("c", 1, {"id": 1, "v": given}, ID, field), event("c", 2, {"id": 2, "v": None}, ID, field))
    first, second = (row["v"] for row in changes(harness, **DEBEZIUM).rows)
    assert (str(first) if expected == "nan" else first, second) == (expected, None)


@pytest.mark.parametrize(
    ("digits", "scale", "precision", "expected"),
    [
        (12_345, 2, 10, Decimal("123.45")),
        (-1, 2, 10, Decimal("-0.01")),
        (10**37 + 1, 0, 38, Decimal(10**37 + 1)),
        (-(10**70) - 1, 3, 76, Decimal("-" + "1" + "0" * 67 + ".001")),
        (12_345, 2, None, "123.45"),
        (10**80, 0, 90, "1" + "0" * 80),
    ],
)
def test_a_decimal_is_exact(
    harness: KafkaHarness, digits: int, scale: int, precision: int | None, expected: Decimal | str
) -> None:
    """Two's complement in base64, with the scale in the schema; what no Arrow type holds is text."""
    topic(harness)
    parameters = {"scale": str(scale), **({"connect.decimal.precision": str(precision)} if precision else {})}
    field = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": parameters, "field": "v"}
    send(harness, event("c", 1, {"id": 1, "v": _base64(digits)}, ID, field))
    [row] = changes(harness, **DEBEZIUM).rows
    assert (row["v"], type(row["v"])) == (expected, type(expected))


def _base64(digits: int) -> str:
    return base64.b64encode(digits.to_bytes(40, "big", signed=True)).decode()


def test_a_decimal_of_any_scale_is_text(harness: KafkaHarness) -> None:
    """VariableScaleDecimal: each value has its own scale."""
    topic(harness)
    field = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "field": "v"}
    values = [{"scale": scale, "value": _base64(12_345)} for scale in (0, 2, 7)]
    send(harness, *(event("c", n, {"id": n, "v": value}, ID, field) for n, value in enumerate(values)))
    assert [row["v"] for row in changes(harness, **DEBEZIUM).rows] == ["12345", "123.45", "0.0012345"]


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        ({"type": "string"}, PLACEHOLDER),
        ({"type": "bytes"}, base64.b64encode(PLACEHOLDER.encode()).decode()),
        ({"type": "array"}, [PLACEHOLDER]),
        ({"type": "array"}, list(PLACEHOLDER.encode())),
        ({"type": "map"}, {PLACEHOLDER: PLACEHOLDER}),
    ],
)
def test_PG_09_a_value_that_did_not_come_is_unchanged(harness: KafkaHarness, type_: Any, given: Any) -> None:
    """The placeholder for a large value that did not change is marked, and is never the value; NULL is NULL."""
    topic(harness)
    field = {**type_, "field": "v", "optional": True}
    rows = ({"id": 1, "v": given}, {"id": 1, "v": None})
    send(harness, *(event("u", 1, row, ID, field) for row in rows))
    kept, null = changes(harness, **DEBEZIUM).rows
    assert (kept["v"], kept["__dpone__unchanged"]) == (None, {"id": False, "v": True})
    assert (null["v"], null["__dpone__unchanged"]) == (None, None)


def test_PG_09_a_new_row_without_a_value_is_refused(harness: KafkaHarness) -> None:
    """A key change is a delete and an insert, which lacks the large value that did not change: nothing has it then."""
    topic(harness)
    row = {"id": 2, "name": PLACEHOLDER}
    send(harness, event("d", 1, before={"id": 1, "name": None}), event("c", 2, row))
    with pytest.raises(DataError, match="a new row lacks the value of column 'name'") as caught:
        changes(harness, **DEBEZIUM)
    assert "offset 1" in caught.value.failed
    assert PLACEHOLDER not in str(caught.value)


def test_envelopes_without_schema_have_declared_columns(harness: KafkaHarness) -> None:
    """Key and value without their schemas, as the converter writes them with schemas.enable=false. A member that is
    missing is unknown, and one that is not declared is not read."""
    topic(harness)
    send(
        harness,
        ({"id": 1}, envelope("c", {"id": 1, "name": "a", "more": 1})),
        ({"id": 1}, envelope("u", {"id": 1})),
        ({"id": 1}, envelope("d", None, {"id": 1})),
        ({"id": 1}, None),
    )
    found = changes(harness, **BARE)
    assert found.short("id", "name") == [("insert", None, 1, "a"), ("update", 1, 1, None), ("delete", 1, None, None)]
    assert found.rows[1]["__dpone__unchanged"] == {"id": False, "name": True}
    with pytest.raises(DataError, match="the envelope has no schema") as caught:
        changes(harness, **DEBEZIUM)
    assert "columns: {id: bigint}" in caught.value.todo


def test_declared_numbers_are_exact_and_times_are_refused(harness: KafkaHarness) -> None:
    """A number keeps its digits. A text may be digits or base64 of them, and a number may be a time of any unit: those
    are refused."""
    topic(harness)
    columns = Layout("debezium", columns={"id": "bigint", "v": "numeric(30,10)"})
    harness.send(
        harness.topic("t"),
        [(b'{"id": 1}', b'{"op": "c", "after": {"id": 1, "v": 12345678901234567890.0123456789}}', 0)],
    )
    assert [row["v"] for row in changes(harness, value=columns).rows] == [Decimal("12345678901234567890.0123456789")]
    send(harness, ({"id": 2}, envelope("c", {"id": 2, "v": "1234"})))
    with pytest.raises(DataError, match=r"column 'v' is not a valid decimal128\(30, 10\)"):
        changes(harness, value=columns)
    with pytest.raises(ConfigError, match=r"an envelope without schema has no timestamp\[us\]"):
        changes(harness, value=Layout("debezium", columns={"at": "timestamp"}))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"id": 1}, "the value has no op"),
        ([1], "the value is not a JSON object"),
        (event("c", 1)[1], "op c has no 'after'"),
        (event("c", 1, {"id": "x", "name": None})[1], "column 'id' is not a valid int64"),
        (event("c", 1, {"a": 1}, {**ID, "field": "a"})[1], "key column 'id' is not a column of the table"),
        (event("c", 1, {"id": 1}, ID, {**ID, "field": "ID"})[1], "columns differ only by case"),
        (event("c", 1, {"id": 1}, {"type": "what", "field": "id"})[1], "or a type that is not known"),
        (event("c", 1, {"id": 1, "v": "2020-01-01T00:00:00.1234567Z"}, ID,
               {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "field": "v"})[1], "column 'v'"),
    ],
)  # fmt: skip
def test_what_is_not_an_envelope_stops_the_stream(harness: KafkaHarness, value: Any, found: str) -> None:
    """With its place and what is wrong."""
    topic(harness)
    send(harness, ({"id": 1}, value))
    with pytest.raises(DataError, match=found) as caught:
        changes(harness, **DEBEZIUM)
    assert "partition 0, offset 0" in caught.value.failed


def test_a_truncate_in_a_topic_of_several_partitions_is_refused(harness: KafkaHarness) -> None:
    """Nobody knows which records of the other partitions came before it."""
    topic(harness, 2)
    send(harness, event("t", None))
    with pytest.raises(DataError, match="whose order is unknown"):
        changes(harness, **DEBEZIUM)


def test_columns_that_change_are_united_or_end_the_window(harness: KafkaHarness) -> None:
    """A new column is marked in the rows before it. A type that has no common one with that before ends the window:
    the next begins there, and no record is lost."""
    topic(harness, 2)
    more = {"type": "string", "field": "more", "optional": True}
    send(
        harness,
        event("c", 1, {"id": 1, "name": "a"}),
        event("c", 2, {"id": 2, "name": "b", "more": "x"}, ID, NAME, more),
    )
    send(harness, event("c", 3, {"id": 3, "name": True}, ID, {**NAME, "type": "boolean"}))
    send(harness, event("c", 4, {"id": 4, "name": False}, ID, {**NAME, "type": "boolean"}), partition=1)
    first = changes(harness, **DEBEZIUM)
    assert first.short("id", "more") == [("insert", None, 1, None), ("insert", None, 2, "x")]
    assert first.rows[0]["__dpone__unchanged"]["more"] is True
    assert not first.window.caught_up
    second = changes(harness, first.window.position, **DEBEZIUM)
    assert second.short("id", "name") == [("insert", None, 3, True), ("insert", None, 4, False)]
    assert second.window.caught_up


def test_the_target_follows_the_table(run: Run, harness: KafkaHarness) -> None:
    """Inserts, updates with values left out, changed keys, new columns and deletes, in one window and in several: the
    target has the rows of the source."""
    topic(harness)
    pipeline = lay(harness, OF_ENVELOPES)
    send(harness, event("r", 1, {"id": 1, "name": "large"}), event("r", 2, {"id": 2, "name": "b"}))
    assert run(pipeline)["code"] == 0
    size = {"type": "int32", "field": "size", "optional": True}
    send(
        harness,
        event("u", 1, {"id": 1, "name": PLACEHOLDER, "size": 7}, ID, NAME, size),
        event("d", 2, None, ID, NAME, size, before={"id": 2}),
        ({"schema": None, "payload": {"id": 2}}, None),
        event("c", 3, {"id": 3, "name": "b", "size": None}, ID, NAME, size),
    )
    done = run(pipeline)
    assert done["code"] == 0, done
    assert table(harness, "id, name, size") == [(1, "large", 7), (3, "b", None)]
    assert json.dumps(table(harness)).count(PLACEHOLDER) == 0
