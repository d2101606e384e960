"""Columns of a driver's values as Arrow."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dpone.model.types import JSON, UUID
from dpone.sql.values import Unstorable, decode

AT = dt.datetime(2026, 1, 31, 10, 30, 0, 5)
ID = uuid.UUID("00000000-0000-7000-8000-000000000001")
GIVEN = [
    (pa.int64(), [2**53 + 1, None], None),
    (pa.int64(), ["9007199254740993", None], [2**53 + 1, None]),
    (pa.bool_(), [None, 0, 1], [None, False, True]),
    (pa.bool_(), [None, True], None),
    (pa.float64(), ["0.1"], [0.1]),
    (pa.float32(), [0.5, None], None),
    (pa.decimal128(38, 2), [Decimal("1.5"), 2, "3.25", None], [Decimal("1.50"), Decimal(2), Decimal("3.25"), None]),
    (pa.decimal128(20, 10), [Decimal("1E-10")], None),
    (pa.date32(), [AT.date(), None], None),
    (pa.date32(), ["2026-01-31"], [AT.date()]),
    (pa.timestamp("us"), [None, AT], None),
    (pa.timestamp("us"), ["2026-01-31 10:30:00.000005", None], [AT, None]),
    (pa.timestamp("us", "UTC"), [AT.replace(tzinfo=dt.UTC)], None),
    (pa.time64("us"), [AT.time()], None),
    (pa.time64("us"), [None, "10:30:00.000005"], [None, AT.time()]),
    (UUID, [ID, str(ID), None], [ID, ID, None]),
    (JSON, ['{"a": 1}', None], None),
    (pa.binary(), [b"\0\xff", None], None),
    (pa.string(), ["", "a", None], None),
    (pa.string(), [None, None], None),
]


@pytest.mark.parametrize(("type_", "given", "expected"), GIVEN, ids=[f"{i} {t}" for i, (t, *_) in enumerate(GIVEN)])
def test_values_become_arrow(type_: pa.DataType, given: list[Any], expected: list[Any] | None) -> None:
    """Python's own types and texts, NULL wherever it stands."""
    found = decode(given, type_)
    assert found.type == type_
    assert found.to_pylist() == (given if expected is None else expected)


@pytest.mark.parametrize(
    ("type_", "wrong"),
    [
        (pa.int64(), "x1"),
        (pa.int64(), 2**63),
        (pa.int8(), 300),
        (pa.int64(), 1.5),
        (pa.int64(), Decimal("1.5")),
        (pa.bool_(), 0.5),
        (pa.date32(), AT),
        (pa.bool_(), 2),
        (pa.float32(), 0.1),
        (pa.decimal128(5, 2), Decimal("1.234")),
        (pa.date32(), "2026-13-01"),
        (pa.timestamp("us"), "yesterday"),
        (pa.time64("us"), "25:00"),
        (UUID, "x1"),
        (JSON, "{"),
        (pa.binary(), 5),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_refused_by_its_row(type_: pa.DataType, wrong: Any) -> None:
    """The first one is named, and nothing shows the value."""
    with pytest.raises(Unstorable) as caught:
        decode([None, None, wrong, wrong, None], type_)
    assert caught.value.row == 2
    assert caught.value.__suppress_context__
    assert str(wrong) not in caught.value.reason.replace(str(type_), "")
