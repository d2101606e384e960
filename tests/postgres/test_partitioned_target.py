"""Every strategy on a declaratively partitioned table: the server routes the rows, nothing takes the table's place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from tests.postgres.target import Target
from tests.postgres.test_postgres_sink import staged
from tests.sqlite.target import KEY, at

from dpone.errors import DataError, SinkError
from dpone.model.pipeline import Lineage
from dpone.model.strategy import Strategy

pytestmark = pytest.mark.postgres
BARE: Mapping[str, Any] = {"lineage": Lineage(False), "adopt_existing": True}
SHAPE = (
    "CREATE TABLE orders (id bigint NOT NULL, day int NOT NULL, v text, PRIMARY KEY (id, day)) PARTITION BY LIST (day)",
    "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)",
    "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2) PARTITION BY HASH (id)",
    "CREATE TABLE orders_2a PARTITION OF orders_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE orders_2b PARTITION OF orders_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
)
BEFORE = [(1, 1, "a"), (2, 1, "a"), (3, 2, "a"), (4, 2, "a")]
KEYED = {"key": ["id", "day"]}
# strategy -> rows read, rows of the target afterwards
LOADS: dict[str, tuple[Strategy, list[tuple[int, int, str]], list[tuple[int, int, str]]]] = {
    "full_refresh": (Strategy("full_refresh", **KEYED), [(1, 1, "b"), (9, 2, "b")], [(1, 1, "b"), (9, 2, "b")]),
    "append": (Strategy("append"), [(5, 1, "b"), (6, 2, "b")], [*BEFORE, (5, 1, "b"), (6, 2, "b")]),
    "merge": (
        Strategy("merge", **KEYED), [(2, 1, "b"), (4, 2, "b"), (5, 2, "b")],
        [(1, 1, "a"), (2, 1, "b"), (3, 2, "a"), (4, 2, "b"), (5, 2, "b")],
    ),
    "merge without an index": (  # UPDATE and INSERT; the row moves to the other partition
        Strategy("merge", key=["id"]), [(2, 2, "b"), (5, 1, "b")],
        [(1, 1, "a"), (2, 2, "b"), (3, 2, "a"), (4, 2, "a"), (5, 1, "b")],
    ),
    "replace": (Strategy("replace", where={"day": 2}), [(8, 2, "b")], [*BEFORE[:2], (8, 2, "b")]),
    "partition_replace": (
        Strategy("partition_replace", partition="day"), [(8, 2, "b")], [*BEFORE[:2], (8, 2, "b")],
    ),
    "partition_replace of a window": (
        Strategy("partition_replace", partition="day", where={"day": {"from": 1, "to": 3}}), [(8, 2, "b")],
        [(8, 2, "b")],
    ),
    "snapshot_diff": (
        Strategy("snapshot_diff", max_delete_share=1.0, **KEYED), [(1, 1, "a"), (4, 2, "b"), (7, 1, "b")],
        [(1, 1, "a"), (4, 2, "b"), (7, 1, "b")],
    ),
}  # fmt: skip


def rows(given: list[tuple[int, int, str]]) -> pa.Table:
    ids, days, values = zip(*given, strict=True)
    return pa.table({"id": pa.array(ids, pa.int64()), "day": pa.array(days, pa.int32()), "v": list(values)})


@pytest.fixture
def parted(target: Target) -> Target:
    target.run(*SHAPE, f"INSERT INTO orders VALUES {', '.join(map(str, BEFORE))}")
    return target


def partitions(target: Target) -> list[tuple[Any, ...]]:
    sql = "SELECT relid::oid, parentrelid::oid FROM pg_partition_tree('orders') ORDER BY 1"
    return target.query(sql)


@pytest.mark.parametrize("name", LOADS)
def test_LS_11_a_strategy_on_a_partitioned_table(parted: Target, name: str) -> None:
    """The rows are those that an ordinary table would have, each in its partition, and the partitions are the same
    tables as before."""
    strategy, given, wanted = LOADS[name]
    before = partitions(parted)
    parted.load(rows(given), strategy, **BARE)
    assert sorted(parted.rows("id, day, v", "id")) == wanted
    assert parted.query("SELECT DISTINCT tableoid::regclass::text, day FROM orders WHERE day = 1") == (
        [("orders_1", 1)] if any(day == 1 for _, day, _ in wanted) else []
    )
    assert partitions(parted) == before


def test_scd2_on_a_partitioned_table(parted: Target) -> None:
    """Versions are closed and opened in the partitions of their rows."""
    parted.run("DROP TABLE orders")
    parted.run(*(s.replace("PRIMARY KEY (id, day)", "CHECK (id > 0)") for s in SHAPE))
    scd2 = Strategy("scd2", key=["id", "day"])
    shape = ("__dpone__valid_from", "__dpone__valid_to")
    parted.run(*(f"ALTER TABLE orders ADD COLUMN {name} timestamptz" for name in shape))
    parted.load(rows(BEFORE), scd2, **BARE)
    receipt = parted.load(rows([*BEFORE[:3], (4, 2, "b")]), scd2, **BARE)
    assert (receipt.inserted, receipt.updated) == (1, 1)
    current = "SELECT id, day, v FROM orders WHERE __dpone__valid_to IS NULL ORDER BY id"
    assert parted.query(current) == [*BEFORE[:3], (4, 2, "b")]


@pytest.mark.parametrize("name", ["append", "merge", "full_refresh", "partition_replace"])
def test_LS_11_a_row_without_a_partition_stops_the_load(parted: Target, name: str) -> None:
    """One line that says so and shows no value; the target is as before, and the next load finds the partition that was
    made meanwhile."""
    strategy = LOADS[name][0]
    given = rows([(77123, 3, "b")])
    with pytest.raises(DataError, match=r"no partition of orders accepts a row.*create the partition") as error:
        parted.load(given, strategy, **BARE)
    assert "77123" not in str(error.value)
    assert "(3)" not in str(error.value)
    assert parted.rows("id, day, v", "id") == BEFORE
    assert not parted.stages()
    parted.run("CREATE TABLE orders_rest PARTITION OF orders DEFAULT")
    parted.load(given, strategy, **BARE)
    assert parted.query("SELECT id, day, v FROM orders_rest") == [(77123, 3, "b")]


def test_a_partitioned_table_is_never_swapped(parted: Target) -> None:
    """``full_refresh: swap`` is refused by name; ``auto`` empties and fills in place."""
    with pytest.raises(SinkError, match="partitions or parents"):
        parted.load(rows(BEFORE), LOADS["full_refresh"][0], full_refresh="swap", **BARE)
    assert parted.rows("id, day, v", "id") == BEFORE


def test_readers_of_another_partition_do_not_wait(parted: Target) -> None:
    """partition_replace locks the rows it deletes and nothing that a reader would meet: all partitions are read while
    the commit is open, the replaced one with its old rows."""
    strategy, given, wanted = LOADS["partition_replace"]
    with closing(parted.sink(strategy, **BARE)) as sink, parted.connect() as reader:
        reader.execute("SET lock_timeout = '100ms'")
        writer = staged(sink, rows(given), strategy)
        commit, seen = sink._db.commit, []

        def looked() -> None:
            seen.append(reader.execute("SELECT id, day, v FROM orders ORDER BY id").fetchall())
            commit()

        sink._db.commit = looked
        writer.commit(sink.journal(KEY), at(1))
    assert seen == [BEFORE, wanted]  # the second commit drops the staging
    assert sorted(parted.rows("id, day, v", "id")) == wanted


def test_a_merge_into_partitions_counts_its_rows(parted: Target) -> None:
    """What was inserted, what was changed and what was left alone, as in an ordinary table."""
    receipt = parted.load(rows([(1, 1, "a"), (4, 2, "b"), (5, 2, "b"), (6, 1, "b")]), LOADS["merge"][0], **BARE)
    assert (receipt.inserted, receipt.updated, receipt.unchanged) == (2, 1, 1)


def test_a_partition_that_comes_later_is_found(parted: Target) -> None:
    """A load by merge, again and again, into partitions that another session adds meanwhile."""
    parted.load(rows([(7, 1, "b")]), LOADS["merge"][0], **BARE)
    parted.run("CREATE TABLE orders_3 PARTITION OF orders FOR VALUES IN (3)")
    parted.load(rows([(7, 1, "c"), (8, 3, "c")]), LOADS["merge"][0], **BARE)
    assert sorted(parted.rows("id, day, v", "id"))[-2:] == [(7, 1, "c"), (8, 3, "c")]


def test_why_partitions_are_not_swapped(parted: Target) -> None:
    """docs/connectors/postgres.md rests on this: DETACH locks the parent against readers until the commit, ATTACH does
    not, and DETACH CONCURRENTLY cannot be part of a transaction."""
    held = (
        "SELECT mode FROM pg_locks WHERE relation = 'orders'::regclass AND pid = pg_backend_pid() "
        "AND mode <> 'AccessShareLock' ORDER BY 1"
    )
    with parted.connect() as db:
        db.execute("CREATE TABLE fresh (LIKE orders)")
        db.execute("BEGIN")
        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            db.execute("ALTER TABLE orders DETACH PARTITION orders_1 CONCURRENTLY")
        db.execute("ROLLBACK")
        db.execute("BEGIN")
        db.execute("ALTER TABLE orders ATTACH PARTITION fresh FOR VALUES IN (9)")
        assert db.execute(held).fetchall() == [("ShareUpdateExclusiveLock",)]
        db.execute("ALTER TABLE orders DETACH PARTITION orders_1")
        assert db.execute(held).fetchall() == [("AccessExclusiveLock",), ("ShareUpdateExclusiveLock",)]
        db.execute("ROLLBACK")
