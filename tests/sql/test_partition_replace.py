"""partition_replace against a plain Python model, and the rules it keeps."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sql.test_finalize import PLAIN, Row, free, ordered, table
from tests.sqlite.target import KEY, MEMORY, Target, at, load, rows

from dpone.contract import Part
from dpone.errors import ConfigError, Conflict, DataError
from dpone.model.strategy import Strategy

BY_REGION = Strategy("partition_replace", partition="region")
BY_SEEN = Strategy("partition_replace", partition="seen")


@settings(max_examples=50)
@given(st.lists(free, min_size=1, max_size=5), st.booleans(), st.sampled_from([("region", 1), ("seen", 3)]))
def test_the_partitions_read_are_replaced(batches: list[list[Row]], existing: bool, by: tuple[str, int]) -> None:
    """After each load the partitions that it brought hold its rows alone, and the others are as before."""
    name, index = by
    strategy = Strategy("partition_replace", partition=name)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        if existing:
            target.run(
                "CREATE TABLE orders (id INT, region VARCHAR(9) COLLATE NOCASE, amount DOUBLE, seen BIGINT)",
                "CREATE INDEX i ON orders (region)",
            )
        kept: list[Row] = []
        for batch in batches:
            receipt = target.load(table(*batch), strategy, lineage=PLAIN)
            gone = [r for r in kept if r[index] in {new[index] for new in batch}]
            kept = [r for r in kept if r not in gone] + batch
            assert ordered(target.rows()) == ordered(kept)
            assert (receipt.inserted, receipt.deleted) == (len(batch), len(gone))


@settings(max_examples=50)
@given(free, free, st.integers(-1, 4), st.integers(1, 5))
def test_LS_11_partitions_of_the_window_are_emptied(before: list[Row], new: list[Row], low: int, width: int) -> None:
    """Of a stated window every partition holds what was read of it, which may be nothing; the rest is as before."""
    high = low + width
    new = [r for r in new if r[3] is not None and low <= r[3] < high]
    window = Strategy("partition_replace", partition="seen", where={"seen": {"from": low, "to": high}})
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        target.load(table(*before), Strategy("append"), lineage=PLAIN)
        target.load(table(*new), window, lineage=PLAIN)
        outside = [r for r in before if not new or r[3] is None or not low <= r[3] < high]
        assert ordered(target.rows()) == ordered(outside + new)


def test_LS_11_null_is_a_partition(target: Target) -> None:
    """Rows without a partition value are replaced by those of the next load, and touched by no other."""
    target.load(table((1, None, 1.0, 1), (2, "a", 1.0, 1)), BY_REGION, lineage=PLAIN)
    target.load(table((3, "a", 1.0, 1)), BY_REGION, lineage=PLAIN)
    assert target.rows("id") == [(1,), (3,)]
    target.load(table((4, None, 1.0, 1), (5, None, 1.0, 1)), BY_REGION, lineage=PLAIN)
    assert target.rows("id") == [(3,), (4,), (5,)]


def test_LS_11_bounds_are_half_open(target: Target) -> None:
    """The lower bound is in the window; the upper one, and NULL, are not: such rows are refused by name."""
    window = Strategy("partition_replace", partition="seen", where={"seen": {"from": 1, "to": 3}})
    target.load(table(*((i, "a", 1.0, i) for i in range(5))), Strategy("append"), lineage=PLAIN)
    before = target.dump()
    for outside in (3, 0, None):
        with pytest.raises(DataError, match=r"1 of 2 rows do not match strategy.where \(seen\)"):
            target.load(table((9, "a", 1.0, 1), (9, "a", 1.0, outside)), window, lineage=PLAIN)
    assert target.dump() == before
    target.load(table((9, "a", 1.0, 1)), window, lineage=PLAIN)
    assert target.rows("id") == [(0,), (3,), (4,), (9,)]


def test_LS_11_an_empty_window_needs_allow_empty(target: Target) -> None:
    """No row in the whole window leaves the target, unless that may be; without a window nothing is named to empty."""
    where = {"seen": {"from": 1, "to": 3}}
    target.load(table(*((i, "a", 1.0, i) for i in range(5))), Strategy("append"), lineage=PLAIN)
    target.load(table(), Strategy("partition_replace", partition="seen", where=where), lineage=PLAIN)
    target.load(table(), Strategy("partition_replace", partition="seen", allow_empty=True), lineage=PLAIN)
    assert len(target.rows()) == 5
    empty = Strategy("partition_replace", partition="seen", where=where, allow_empty=True)
    assert target.load(table(), empty, lineage=PLAIN).deleted == 2
    assert target.rows("seen") == [(0,), (3,), (4,)]


def test_LS_11_a_load_that_fails_replaces_no_partition(target: Target) -> None:
    """Three partitions are one load: where the commit fails half way, all of them are as before."""
    target.load(table(*((i, "a", 1.0, i) for i in range(3))), BY_SEEN)
    target.run("CREATE UNIQUE INDEX one ON orders (id)")
    before = target.dump()
    with pytest.raises(DataError):
        target.load(table((7, "b", 1.0, 0), (8, "b", 1.0, 1), (8, "b", 1.0, 2)), BY_SEEN)
    assert target.dump() == before


@pytest.mark.parametrize("same", [False, True], ids=["two streams", "one stream"])
def test_LS_11_two_loads_at_once(target: Target, same: bool) -> None:
    """Loads of two streams on two partitions both stay; of two runs of one stream the second is a Conflict."""
    target.load(table((1, "a", 1.0, 1), (2, "b", 1.0, 1)), BY_REGION, lineage=PLAIN)
    first, second = (target.sink(BY_REGION, lineage=PLAIN) for _ in range(2))
    other = KEY if same else "other"
    with closing(first), closing(second):
        head, theirs = first.journal(KEY), second.journal(other)
        one = first.open(load(table().schema, BY_REGION))
        one.stage(Part("x"), rows(table((10, "a", 1.0, 1))))
        if same:  # its staging is swept by the one that comes later
            two = second.open(load(table().schema, BY_REGION))
            two.stage(Part("x"), rows(table((20, "b", 1.0, 1))))
            two.commit(theirs, at(2))
            with pytest.raises(Conflict):
                one.commit(head, at(1))
        else:
            two = second.open(load(table().schema, BY_REGION, key="other"))
            two.stage(Part("x"), rows(table((20, "b", 1.0, 1))))
            one.commit(head, at(1))
            two.commit(theirs, at(2))
    assert target.rows("id", "id") == ([(1,), (20,)] if same else [(10,), (20,)])
    assert not target.stages()


def test_partitions_are_exact_under_any_collation(target: Target) -> None:
    """In a column with COLLATE NOCASE, partition 'A' does not take the rows of 'a' with it."""
    target.run("CREATE TABLE orders (id INTEGER, region TEXT COLLATE NOCASE, amount REAL, seen INTEGER)")
    target.load(table((1, "a", 1.0, 1), (2, "A", 1.0, 1)), BY_REGION, lineage=PLAIN)
    target.load(table((3, "A", 1.0, 1)), BY_REGION, lineage=PLAIN)
    assert target.rows("id") == [(1,), (3,)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "partition: None; set partition: column for partition_replace, and for no other mode"),
        ({"partition": "day", "where": {"id": 1}}, "where: {'id': 1}; write where: {day: {from: a, to: b}}"),
        ({"partition": "day", "where": {"day": {"since": 1}}}, "where.day has the keys ['since']; write from"),
        ({"partition": "day", "deletes": "close"}, "option deletes does not belong to this mode; remove it"),
    ],
)
def test_what_it_lacks_is_said_at_once(options: dict[str, Any], found: str) -> None:
    """The column is required, and a window is one of that column."""
    with pytest.raises(ConfigError) as caught:
        Strategy("partition_replace", **options)
    assert found in str(caught.value)


def test_a_partition_column_that_the_rows_lack(target: Target) -> None:
    """A partition column that is not in the rows is one clear line, and no table is created."""
    with pytest.raises(ConfigError, match=r"strategy.partition names nope, but the rows have id, region, amount, seen"):
        target.load(table((1, "a", 1.0, 1)), Strategy("partition_replace", partition="nope"))
    assert not target.path.exists() or not target.tables()
