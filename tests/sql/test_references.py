"""Tables that refer to a target by foreign keys, in SQLite, which checks all but RESTRICT at the commit."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from tests.sqlite.target import KEY, Target, at, evolve, load, rows

from dpone.contract import Part
from dpone.errors import DataError, SinkError
from dpone.model import changes
from dpone.model.changes import ChangeTable
from dpone.model.strategy import Strategy

MODES = {
    "full_refresh": Strategy("full_refresh", key="id"),
    "replace": Strategy("replace", where={"v": "old"}),
    "partition_replace": Strategy("partition_replace", partition="v"),
    "snapshot_diff": Strategy("snapshot_diff", key="id", max_delete_share=1.0),
    "cdc_apply": Strategy("cdc_apply", key="id"),
}
MERGE = Strategy("merge", key="id")


def table(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "v": ["old"] * len(ids)})


def child(target: Target, reference: str = "", value: str = "1") -> None:
    target.load(table(1, 2), MERGE)
    target.run(f"CREATE TABLE child (t REFERENCES orders (id) {reference})", f"INSERT INTO child VALUES ({value})")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_an_action_on_delete_rules_out_what_deletes(target: Target, mode: str, action: str) -> None:
    """Rows of another table would go or change with those of the target, in silence."""
    child(target, f"ON DELETE {action}")
    with closing(target.sink(MODES[mode])) as sink:
        with pytest.raises(SinkError, match="child references it with an ON DELETE action") as refused:
            sink.refuse(MODES[mode])
        instead = "set strategy.deletes: soft or ignore" if mode == "cdc_apply" else "use strategy merge"
        instead += " without --full-refresh" if mode == "full_refresh" else ""
        assert refused.value.todo == f"{instead}, or drop the ON DELETE action"
        with pytest.raises(SinkError, match="ON DELETE action"):
            sink.open(load(table().schema, MODES[mode], changes=mode == "cdc_apply"))
        sink.refuse(MERGE)
        sink.refuse(Strategy("cdc_apply", key="id", deletes="soft"))


@pytest.mark.parametrize("mode", ["full_refresh", "replace"])
def test_restrict_is_never_put_off(target: Target, mode: str) -> None:
    """A row that is referred to so cannot be deleted, not even to be inserted again; what does not refer is no
    hindrance."""
    child(target, "ON DELETE RESTRICT")
    with closing(target.sink(MODES[mode])) as sink:
        with pytest.raises(SinkError, match="child references its rows") as refused:
            sink.refuse(MODES[mode])
        # under which ``merge``, too, replaces every row
        assert ("without --full-refresh" in refused.value.todo) == (mode == "full_refresh")
        target.run("UPDATE child SET t = NULL")
        sink.refuse(MODES[mode])


@pytest.mark.parametrize(
    ("mode", "given"),
    [("snapshot_diff", {"replace_columns": True}), ("cdc_apply", {"changes": True, "whole": True})],
    ids=["a table of new columns", "all rows of a change stream"],
)
def test_a_load_that_takes_every_row_is_opened_as_such(target: Target, mode: str, given: dict[str, bool]) -> None:
    """By a strategy that else deletes only rows that are gone: a row that is referred to, and RESTRICT, rule it out."""
    child(target, "ON DELETE RESTRICT")
    with closing(target.sink(MODES[mode])) as sink:
        sink.refuse(MODES[mode])
        with pytest.raises(SinkError, match="child references its rows"):
            sink.refuse(MODES[mode], every_row=True)
        with pytest.raises(SinkError, match="child references its rows"):
            sink.open(load(table().schema, MODES[mode], **given))
        sink.open(load(table().schema, MODES[mode], **given | {"replace_columns": False, "whole": False})).abort()


@pytest.mark.parametrize("key", ["(id)", ""], ids=["by name", "the primary key"])
def test_rows_of_the_predicate_alone_count(target: Target, key: str) -> None:
    """``replace`` is refused for the rows that it deletes; a reference that names no column is to the primary key."""
    target.load(table(1, 2), MERGE)
    target.run(f"CREATE TABLE child (t REFERENCES orders {key} ON DELETE RESTRICT)", "INSERT INTO child VALUES (1)",
               "UPDATE orders SET v = 'kept' WHERE id = 1")  # fmt: skip
    with closing(target.sink(MODES["replace"])) as sink:
        sink.refuse(MODES["replace"])
        target.run("UPDATE orders SET v = 'old'")
        with pytest.raises(SinkError, match="child references its rows"):
            sink.refuse(MODES["replace"])


@pytest.mark.parametrize(
    "strategy",
    [MODES["partition_replace"], Strategy("replace", where={"new": 1})],
    ids=["the partitions that are read", "a column that the target does not have yet"],
)
def test_what_only_the_commit_can_tell_is_not_refused_before(target: Target, strategy: Strategy) -> None:
    """Which rows a load replaces may depend on what it reads: a row that is referred to is no reason before that."""
    child(target, "ON DELETE RESTRICT")
    with closing(target.sink(strategy)) as sink:
        sink.refuse(strategy)


@pytest.mark.parametrize("mode", MODES)
def test_the_commit_names_the_tables_of_a_foreign_key(target: Target, mode: str) -> None:
    """Rows that others refer to may be replaced; where they are gone the commit fails as a whole, and does not blame
    the rows that were read."""
    child(target)
    if mode == "cdc_apply":
        with pytest.raises(DataError, match="rows of child would refer to missing rows of orders"):
            apply(target, {changes.OPERATION: "delete", changes.KEY: {"id": 1}})
    else:
        target.load(table(1, 2, 3), MODES[mode])
        with pytest.raises(DataError, match="rows of child would refer to missing rows of orders"):
            target.load(table(2), MODES[mode])
    assert (1,) in target.query("SELECT id FROM orders")
    assert target.query("SELECT t FROM child") == [(1,)]


def test_an_empty_target_has_nothing_to_delete(target: Target) -> None:
    """The first load of a table that others refer to."""
    target.load(table(), MODES["full_refresh"])
    target.run("CREATE TABLE child (t REFERENCES orders (id) ON DELETE CASCADE)")
    target.load(table(1), MODES["full_refresh"])
    assert target.query("SELECT id FROM orders") == [(1,)]


def test_an_autoincrement_moves_by_itself(target: Target) -> None:
    """SQLite remembers the highest id of any insert, also of a load that replaces the rows, and never goes back."""
    target.run("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)")
    for high, mode in ((7, "full_refresh"), (3, "full_refresh"), (9, "snapshot_diff"), (12, "replace")):
        target.load(table(high - 1, high), MODES[mode], adopt_existing=True)
    target.run("DELETE FROM orders", "INSERT INTO orders (v) VALUES ('app')")
    assert target.query("SELECT id FROM orders") == [(13,)]


def apply(target: Target, row: dict[str, Any]) -> None:
    described = ChangeTable(table().schema, ("id",))
    row = {changes.EVENT_ID: "1", changes.COMMIT: "1", changes.ORDINAL: 1, **row}
    batches = pa.Table.from_pylist([row], changes.batch_schema(described))
    with closing(target.sink(MODES["cdc_apply"])) as sink:
        evolve(sink, table().schema, MODES["cdc_apply"])
        writer = sink.open(load(table().schema, MODES["cdc_apply"], changes=True, whole=False))
        writer.stage(Part("p"), rows(batches))
        try:
            writer.commit(sink.journal(KEY), at(5))
        except BaseException:
            writer.abort()
            raise
