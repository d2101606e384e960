"""Bounds survive JSON exactly, and splits hold every value once."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.partition.stores import manifest

from dpone.model.bounds import (
    Bounds,
    bound_from_json,
    bound_to_json,
    ranges,
    split,
)
from dpone.partition import Partition, PartitionManifest

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False),
    "float": st.floats(allow_nan=False),
    "date": st.dates(),
    "timestamp": st.datetimes(),
    "timestamptz": st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES),
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "uuid": st.uuids(),
    "bytes": st.binary(),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_bound_survives_json_with_its_type(kind: str, data: st.DataObject) -> None:
    """What comes back is the same value of the same type, told by its name; digits, microseconds and instants stay."""
    value = data.draw(KINDS[kind])
    written = json.loads(json.dumps(bound_to_json(value)))
    assert written["type"] == kind
    back = bound_from_json(written)
    assert (type(back), back) == (type(value), value)
    if kind == "decimal":
        assert str(back) == str(value)


@pytest.mark.parametrize("value", [True, None, float("nan"), [1]], ids=repr)
def test_what_is_no_bound(value: Any) -> None:
    """A boolean is no integer; NaN keeps being NaN."""
    if isinstance(value, float):
        assert str(bound_from_json(bound_to_json(value))) == "nan"
    else:
        with pytest.raises(TypeError):
            bound_to_json(value)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), n=st.integers(1, 12), nulls=st.booleans())
def test_a_split_holds_every_value_once(kind: str, data: st.DataObject, n: int, nulls: bool) -> None:
    """Each value from the lowest to the highest, ends and NULL included, is in one range and in no other."""
    values = data.draw(st.lists(KINDS[kind], min_size=1, max_size=12))
    low, high = min(values), max(values)
    parts = split("c", low, high, n, nulls=nulls)
    assert 1 <= len(parts) <= n + nulls
    ends = [end for part in parts for end in (part.lower, part.upper) if end is not None]
    for value in [*values, *ends]:
        assert sum(part.holds(value) for part in parts) == 1
    assert sum(part.holds(None) for part in parts) == nulls
    assert tuple(Bounds.from_json(json.loads(json.dumps(part.to_json()))) for part in parts) == parts


def test_an_infinite_end_makes_no_more_parts_than_were_asked_for() -> None:
    """The middle of an endless distance is no reason for a second part where one was wanted."""
    assert split("c", float("-inf"), 1.0, 1) == (Bounds("c", float("-inf"), 1.0, upper_inclusive=True),)
    assert [part.upper for part in split("c", float("-inf"), 1.0, 2)] == [0.0, 1.0]


DAYS = [date(2026, 1, day) for day in (1, 3, 5)]
UUIDS = [uuid.UUID(int=i) for i in (0, 4, 8)]
CASES = [
    (0, 100, 4, [(0, 25), (25, 50), (50, 75), (75, 100)]),
    (5, 5, 4, [(5, 5)]),
    (1, 3, 10, [(1, 2), (2, 3)]),
    (DAYS[0], DAYS[2], 2, [(DAYS[0], DAYS[1]), (DAYS[1], DAYS[2])]),
    (Decimal("1"), Decimal("2"), 2, [(Decimal("1"), Decimal("1.5")), (Decimal("1.5"), Decimal("2"))]),
    (b"\x00", b"\x80", 2, [(b"\x00", b"\x40"), (b"\x40", b"\x80")]),
    (UUIDS[0], UUIDS[2], 2, [(UUIDS[0], UUIDS[1]), (UUIDS[1], UUIDS[2])]),
    ("a", "c", 2, [("a", "b"), ("b", "c")]),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high", "n", "wanted"), CASES, ids=str)
def test_MF_05_ranges_are_half_open_and_the_last_is_closed(low: Any, high: Any, n: int, wanted: Any) -> None:
    """Equal ends give one range, more parts than values give fewer, and only the last range has its upper end."""
    parts = split("c", low, high, n)
    assert [(part.lower, part.upper) for part in parts] == wanted
    assert [part.upper_inclusive for part in parts] == [False] * (len(wanted) - 1) + [True]


def test_MF_05_a_value_at_an_edge_however_often_is_in_one_range() -> None:
    """Of rows that share an edge all are in the upper range; a range without rows is a range all the same."""
    parts = split("c", 0, 100, 4)
    rows = [0, 25, 25, 25, 100, 100]
    assert [sum(part.holds(row) for row in rows) for part in parts] == [1, 3, 0, 2]


def test_MF_05_a_row_that_came_after_the_plan_is_in_no_range() -> None:
    """Beyond the ends that were fixed before the read there is nothing to read: the next window has it."""
    parts = split("c", 10, 20, 2, nulls=True)
    assert not any(part.holds(value) for part in parts for value in (9, 21))


def test_MF_05_a_column_of_nothing_but_nulls_is_one_bucket() -> None:
    """Without a lowest value there is the NULL bucket alone, or nothing."""
    assert split("c", None, None, 4, nulls=True) == (Bounds("c", null=True),)
    assert split("c", None, None, 4) == ()
    assert ranges("c", (7,)) == (Bounds("c", 7, 7, upper_inclusive=True),)


@given(st.data())
def test_a_manifest_survives_json(data: st.DataObject) -> None:
    """Every field of manifest and partitions comes back as it was."""
    text = st.none() | st.text()
    partition = st.builds(
        Partition,
        id=st.text(),
        bounds=st.none() | st.one_of(*KINDS.values()).map(lambda v: Bounds("c", v, None)),
        status=st.sampled_from(["pending", "running", "success", "failed", "skipped"]),
        rows_extracted=st.integers(0),
        rows_loaded=st.integers(0),
        bytes=st.integers(0),
        attempts=st.integers(0),
        artifact=text, checksum=text, error=text, reason=text, owner=text,
        expires_at=st.none() | st.floats(0, 1e12),
    )  # fmt: skip
    partitions = data.draw(st.lists(partition, max_size=4, unique_by=lambda p: p.id))
    one = manifest(partitions=tuple(partitions), position=data.draw(st.sampled_from([None, {"kind": "x"}])))
    assert PartitionManifest.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.created_at.tzinfo is UTC
